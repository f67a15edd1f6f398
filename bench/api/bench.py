#!/usr/bin/env python3
"""The REST API of JupyterHub and of Orrery with many users, side by side in one run, as ratios.

    python bench/api/bench.py [--hub upstream|orrery|both] [--database sqlite|postgres|both] [--users 10000,100000] [--seconds 5]

Both hubs open a database with the same content (content.py) and run the same configuration, and both are asked at the
hub's own port over kept connections. While each number is taken, people log in one after the other. Upstream runs with
the first number of users only; what Orrery does with more users is compared with that. The tables go to the terminal,
all numbers as JSON to target/bench/api.json.
"""

import argparse
import contextlib
import http.client
import json
import multiprocessing
import os
import platform
import re
import secrets
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from urllib.parse import urlencode

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "tests"))
sys.path.insert(0, str(HERE))
from content import server_token, user_name  # noqa: E402
from harness import databases, places  # noqa: E402
from harness.hub import KINDS, Hub, free_port  # noqa: E402

TOKEN = "the-token-of-the-bench-service-0123456789"
RUNNING = 1000
CREATED = 10_000
BATCH = 500
CONNECTIONS = 16
PAGINATION = "application/jupyterhub-pagination+json"
# (key, what): each is a rate, and more is better. The aim is 50 times upstream, and 25 times beyond the first number of users.
ROWS = [
    ("self", "GET /user"),
    ("list", "GET /users?limit=50"),
    ("list_far", "GET /users?limit=50, the last page"),
    ("search", "GET /users?limit=50&name_filter=…"),
    ("sorted", "GET /users?limit=50&sort=-last_activity"),
    ("one", "GET /users/{name}"),
    ("active", "GET /users?state=active, 1,000 running"),
    ("groups", "GET /groups?limit=10"),
    ("activity", "POST /users/{name}/activity, 1,000 servers"),
    ("create", "users created, 500 in each request"),
]
AIMED = {"self", "list", "one", "active", "activity", "create"}
#: Milliseconds within which people are to be logged in.
LOGIN_AIM = 100


def config(url: str) -> str:
    return f"""
c.JupyterHub.db_url = {url!r}
c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allow_all = True
c.JupyterHub.cleanup_servers = False
c.JupyterHub.active_server_limit = 0
c.JupyterHub.services = [{{"name": "bench", "api_token": {TOKEN!r}, "admin": True}}]
"""


def measure(kind: str, url: str, users: int, server: subprocess.Popen, port: int, options: argparse.Namespace) -> dict:
    command = [sys.executable, str(HERE / "content.py"), url, str(users), str(RUNNING), str(server.pid), str(port)]
    subprocess.run(command, check=True, timeout=600)
    numbers: dict = {}
    with Hub(kind, config(url)) as hub:
        hub.start()
        before_others(hub.process.pid, options.priority)
        hub.wait_running(600)
        numbers["start_seconds"] = time.monotonic() - hub.started_at
        client = Client(hub)
        found = client.ask("GET", "/users?state=active&limit=1")["_pagination"]["total"]
        if found != RUNNING:
            raise SystemExit(f"{kind} takes {found} servers for running instead of {RUNNING}:\n{hub.log_tail()}")
        ready = client.ask("GET", f"/users/{user_name(0)}")["servers"][""]["ready"]
        if not ready:
            raise SystemExit(f"{kind} does not take a server for ready that runs:\n{hub.log_tail()}")
        some = [user_name(number * 7919 % users) for number in range(1000)]
        lists = {
            "self": ["/user"],
            "list": ["/users?limit=50"],
            "list_far": [f"/users?limit=50&offset={users - 50}"],
            "search": [f"/users?limit=50&name_filter={name[-4:]}" for name in some[:100]],
            "sorted": ["/users?limit=50&sort=-last_activity"],
            "one": [f"/users/{name}" for name in some],
            "active": ["/users?state=active"],
            "groups": ["/groups?limit=10"],
        }
        logins: dict[str, list[float]] = {}
        for key, paths in lists.items():
            with logging_in(hub, users, logins, key):
                numbers[key] = wrk(hub, [("GET", path, TOKEN, "") for path in paths], options.seconds)
            progress(key, numbers[key], logins[key])
        numbers["alone_ms"] = {key: percentile([client.time(paths[turn % len(paths)]) for turn in range(20)], 50) for key, paths in lists.items()}
        body = '{"servers":{"":{"last_activity":"@NOW@"}},"last_activity":"@NOW@"}'
        posts = [("POST", f"/users/{user_name(number)}/activity", server_token(number), body) for number in range(RUNNING)]
        before = datetime.now(timezone.utc)
        with logging_in(hub, users, logins, "activity"):
            numbers["activity"] = wrk(hub, posts, options.seconds)
        progress("activity", numbers["activity"], logins["activity"])
        # The first that wrk sends, and the last where it came so far.
        for number in (5, RUNNING - 1) if numbers["activity"] * options.seconds > 2 * RUNNING else (5,):
            model = client.ask("GET", f"/users/{user_name(number)}")
            for seen in (model["last_activity"], model["servers"][""]["last_activity"]):
                if not seen or datetime.fromisoformat(seen) < before.replace(microsecond=0):
                    raise SystemExit(f"{kind} lost an activity of {user_name(number)}: {seen}")
        with logging_in(hub, users, logins, "create"):
            numbers["create"], created = create(client, options.create_seconds)
        progress("create", numbers["create"], logins["create"])
        total = client.ask("GET", "/users?limit=1&name_filter=new-")["_pagination"]["total"]
        if total != created:
            raise SystemExit(f"{kind} has {total} new users instead of {created}")
        numbers["logins_ms"] = {key: {"count": len(times), "p50": percentile(times, 50), "p99": percentile(times, 99)} for key, times in logins.items()}
        every = [milliseconds for times in logins.values() for milliseconds in times]
        numbers["login_p50_ms"], numbers["login_p99_ms"], numbers["logins"] = percentile(every, 50), percentile(every, 99), len(every)
    return numbers


def before_others(pid: int, priority: int) -> None:
    """Let a session go before others that use the machine; Linux gives each session a share of its own."""
    if priority:
        Path(f"/proc/{pid}/autogroup").write_text(str(-priority))


def progress(key: str, rate: float, logins: list[float]) -> None:
    print(f"    {dict(ROWS)[key]}: {rate:,.1f}/s, {len(logins)} logins of {percentile(logins, 50):,.0f} ms", flush=True)


class Client:
    """One kept connection to the hub, with the token of a service that may do everything."""

    def __init__(self, hub: Hub):
        self.connection = http.client.HTTPConnection("127.0.0.1", hub.hub_port, timeout=900)

    def ask(self, method: str, path: str, body: str | None = None):
        headers = {"Authorization": f"token {TOKEN}", "Accept": PAGINATION, "Content-Type": "application/json"}
        self.connection.request(method, f"/hub/api{path}", body, headers)
        answer = self.connection.getresponse()
        content = answer.read()
        if answer.status >= 300:
            raise SystemExit(f"{method} {path}: {answer.status} {content[:500]!r}")
        return json.loads(content)

    def time(self, path: str) -> float:
        """The milliseconds that one answer takes."""
        begun = time.monotonic()
        self.ask("GET", path)
        return (time.monotonic() - begun) * 1000


def create(client: Client, seconds: int) -> tuple[float, int]:
    """Users created per second, each request after the answer to the one before, and how many they are. No further
    request begins after so many seconds."""
    batches = [json.dumps({"usernames": [f"new-{start + number:05d}" for number in range(BATCH)]}) for start in range(0, CREATED, BATCH)]
    begun, created = time.monotonic(), 0
    for batch in batches:
        if len(client.ask("POST", "/users", batch)) != BATCH:
            raise SystemExit("not every user was created")
        created += BATCH
        if time.monotonic() - begun > seconds:
            break
    return created / (time.monotonic() - begun), created


def wrk(hub: Hub, requests: list[tuple[str, str, str, str]], seconds: int) -> float:
    """Answers per second to these requests in turn, over a few connections."""
    with tempfile.NamedTemporaryFile("w", suffix=".requests") as file:
        file.writelines(f"{method} /hub/api{path} {token} {body}\n" for method, path, token, body in requests)
        file.flush()
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", "60s", "-s", str(HERE / "requests.lua"), hub.hub_origin]
        environment = os.environ | {"BENCH_REQUESTS": file.name, "BENCH_ACCEPT": PAGINATION}
        said = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=seconds + 120, check=True, env=environment).stdout
    if bad := re.search(r"Non-2xx or 3xx responses: (\d+)|Socket errors: (.*)", said):
        raise SystemExit(f"bad answers ({bad.group(0)}) to {requests[0][:2]}:\n{said}")
    return float(re.search(r"Requests/sec:\s+([\d.]+)", said).group(1))


@contextlib.contextmanager
def logging_in(hub: Hub, users: int, logins: dict[str, list[float]], key: str):
    """While the block runs, people log in by the form, some each second, in a process of its own."""
    ending, answers = multiprocessing.Event(), multiprocessing.SimpleQueue()
    process = multiprocessing.Process(target=log_in_until, args=(hub.hub_port, users, ending, answers))
    process.start()
    try:
        yield
    finally:
        ending.set()
        times = answers.get()
        process.join(60)
    if isinstance(times, str):
        raise SystemExit(f"a login while {key} was measured: {times}")
    logins[key] = times


def log_in_until(port: int, users: int, ending, answers) -> None:
    times = []
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        while not ending.is_set() or not times:
            times.append(log_in(connection, user_name(secrets.randbelow(users))) * 1000)
            ending.wait(0.05)
        answers.put(times)
    except Exception as error:  # told by the process that waits for it
        answers.put(f"{type(error).__name__}: {error}")


def log_in(connection: http.client.HTTPConnection, name: str) -> float:
    """Seconds from asking for the form until its answer sets the cookie: both requests."""
    begun = time.monotonic()
    navigation = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    connection.request("GET", "/hub/login", headers=navigation)
    answer = connection.getresponse()
    page = answer.read()
    cookies = "; ".join(value.partition(";")[0] for header, value in answer.getheaders() if header.lower() == "set-cookie")
    xsrf = re.search(rb'name="_xsrf"\s+value="([^"]+)"', page)
    if answer.status != 200 or not xsrf:
        raise RuntimeError(f"the login page: {answer.status}")
    form = urlencode({"username": name, "password": "bench", "_xsrf": xsrf.group(1).decode()})
    headers = {"Cookie": cookies, "Content-Type": "application/x-www-form-urlencoded"} | navigation
    connection.request("POST", "/hub/login", form, headers)
    answer = connection.getresponse()
    answer.read()
    if answer.status != 302 or not any("hub-login=" in value for value in answer.headers.get_all("Set-Cookie", [])):
        raise RuntimeError(f"the login of {name}: {answer.status}")
    return time.monotonic() - begun


def percentile(times: list[float], percent: int) -> float:
    return sorted(times)[min(len(times) * percent // 100, len(times) - 1)]


def show(results: dict, database: str, sizes: list[int]) -> bool:
    """Print the tables of one kind of database; true when every aim is met."""
    met = True
    theirs = results.get(f"upstream {database} {sizes[0]}")
    for users in sizes:
        ours = results.get(f"orrery {database} {users}")
        factor = 50 if users == sizes[0] else 25
        beside = "" if users == sizes[0] else f", beside upstream with {sizes[0]:,}"
        print(f"\n{database}, {users:,} users{beside}\n{'per second':48}{'upstream':>12}{'orrery':>12}{'ratio':>9}   aim")
        for key, label in ROWS:
            pair = [side and side[key] for side in (theirs, ours)]
            ratio = pair[1] / pair[0] if all(pair) else None
            verdict = ""
            if key in AIMED and ratio:
                met &= ratio >= factor
                verdict = f">= {factor}x: {'met' if ratio >= factor else 'MISSED'}"
            cells = [f"{value:,.0f}" if value else "-" for value in pair]
            print(f"{label:48}{cells[0]:>12}{cells[1]:>12}{f'{ratio:.0f}x' if ratio else '-':>9}   {verdict}")
        alone = [side["alone_ms"] if side else {} for side in (theirs, ours)]
        print("one at a time, median, ms")
        for key in alone[1] or alone[0]:
            cells = [f"{side[key]:,.1f}" if key in side else "-" for side in alone]
            print(f"{dict(ROWS)[key]:48}{cells[0]:>12}{cells[1]:>12}")
        for key, label in (("login_p50_ms", "login meanwhile, median, ms"), ("login_p99_ms", "login meanwhile, p99, ms")):
            pair = [side and side[key] for side in (theirs, ours)]
            verdict = ""
            if key == "login_p99_ms" and pair[1]:
                met &= pair[1] < LOGIN_AIM
                verdict = f"< {LOGIN_AIM} ms: {'met' if pair[1] < LOGIN_AIM else 'MISSED'}"
            cells = [f"{value:,.0f}" if value else "-" for value in pair]
            print(f"{label:48}{cells[0]:>12}{cells[1]:>12}{'':>9}   {verdict}")
    return met


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hub", choices=[*KINDS, "both"], default="both")
    parser.add_argument("--database", choices=["sqlite", "postgres", "both"], default="both")
    parser.add_argument("--users", default="10000,100000", help="numbers of users; upstream has the first")
    parser.add_argument("--seconds", type=int, default=5, help="how long each wrk runs")
    parser.add_argument("--create-seconds", type=int, default=60, help="after how many seconds not all 10,000 users are created")
    parser.add_argument("--priority", type=int, default=0, help="up to 20: how much before other programs of the machine; needs root")
    parser.add_argument("--check", action="store_true", help="exit with 1 when an aim is missed")
    options = parser.parse_args()
    sizes = [int(size) for size in options.users.split(",")]
    kinds = KINDS if options.hub == "both" else [options.hub]

    path = places.CHECKOUT / "target" / "bench" / "api.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    program = path.parent / "trivial_server"
    subprocess.run(["cc", "-O2", "-o", str(program), str(HERE.parent / "trivial_server.c")], check=True)
    before_others(os.getpid(), options.priority)
    results: dict = {}
    met = True
    with contextlib.ExitStack() as stack:
        port = free_port()
        server = subprocess.Popen([program], env={"JUPYTERHUB_SERVICE_URL": f"http://127.0.0.1:{port}/"})
        stack.callback(server.wait)
        stack.callback(server.terminate)
        for database in ["sqlite", "postgres"] if options.database == "both" else [options.database]:
            servers = stack.enter_context(databases.Servers()) if database == "postgres" else None
            for kind in kinds:
                for users in sizes if kind == "orrery" else sizes[:1]:
                    print(f"measuring {kind} with {users:,} users on {database}", flush=True)
                    with tempfile.TemporaryDirectory(prefix="orrery-bench-api-") as folder:
                        url = servers.new_database("postgres")[1] if servers else f"sqlite:///{folder}/jupyterhub.sqlite"
                        results[f"{kind} {database} {users}"] = measure(kind, url, users, server, port, options)
            met &= show(results, database, sizes)
    results["about"] = {"when": datetime.now(timezone.utc).isoformat(), "cores": os.cpu_count(), "machine": platform.machine(), "options": vars(options)}
    path.write_text(json.dumps(results, indent=2) + "\n")
    print(f"\nall numbers: {path}")
    sys.exit(0 if met or not options.check else 1)


if __name__ == "__main__":
    main()
