"""A hub that is killed again and again, and the census that is held afterwards.

A site is a folder, a proxy, a database and one life of the hub after the other. Its servers are
`small_server.py`. After each death the census compares four things that must tell the same story:
the database, the proxy's routes, the processes of the machine, and what the API says.
"""

import http.client
import json
import os
import pwd
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from harness.hub import command, environment, free_port
from harness.steps import require, same, wait_until

SMALL_SERVER = Path(__file__).with_name("small_server.py")
TOKEN = "the-token-of-the-chaos-service-0123456789"
PROXY_TOKEN = "the-token-of-the-chaos-proxy-0123456789"
#: How long anything may take that takes milliseconds; generous for a slow machine.
SOON = 30
PENDING = ("queued", "starting", "stopping")


@dataclass
class Row:
    """What the database says of one user's server."""

    user: str
    spawner: int
    state: dict
    target: str | None
    run: int | None
    mark: str | None
    tokens: int


class Site:
    def __init__(self, name: str, users: list[str], *, extra: str = "", spawner: str = "simple"):
        self.name, self.users = name, users
        self.folder = Path(tempfile.mkdtemp(prefix=f"orrery-chaos-{name}-"))
        # Users of the system must be able to come to their folders and to the server's program.
        self.folder.chmod(0o711)
        self.port, self.hub_port, self.api_port = free_port(), free_port(), free_port()
        self.hub: subprocess.Popen | None = None
        self.lives = 0
        self.log = self.folder / "hub.log"
        self.order = self.folder / "fault"
        self.spawner = spawner
        self.server_program = self.folder / SMALL_SERVER.name
        self.server_program.write_bytes(SMALL_SERVER.read_bytes())
        self.server_program.chmod(0o644)
        if spawner == "simple":
            self.homes = {user: self.folder / "homes" / user for user in users}
        else:
            self.homes = {user: Path(pwd.getpwnam(user).pw_dir) for user in users}
        (self.folder / "orrery.toml").write_text(self._config(spawner) + extra)

    def _config(self, spawner: str) -> str:
        text = f"""\
[JupyterHub]
bind_url = "http://127.0.0.1:{self.port}"
hub_ip = "127.0.0.1"
hub_port = {self.hub_port}
authenticator_class = "dummy"
spawner_class = "{'simple' if spawner == 'simple' else 'localprocess'}"
cleanup_servers = false
cleanup_proxy = false
# Small, so that starts also wait for their turn.
concurrent_spawn_limit = {len(self.users) - 1}
services = [{{ name = "chaos", api_token = "{TOKEN}" }}]
load_roles = [{{ name = "chaos", services = ["chaos"], scopes = ["admin:users", "admin:servers", "list:users"] }}]

[ConfigurableHTTPProxy]
api_url = "http://127.0.0.1:{self.api_port}"
auth_token = "{PROXY_TOKEN}"
log_level = "error"

[Authenticator]
allowed_users = {json.dumps(self.users)}

[LocalProcessSpawner]
interrupt_timeout = 1
term_timeout = 1

[Spawner]
cmd = {json.dumps([sys.executable, "-I", "-S", str(self.server_program)])}
"""
        if spawner == "simple":
            text += f'\n[SimpleLocalProcessSpawner]\nhome_dir_template = "{self.folder}/homes/{{username}}"\n'
        return text

    # --- the hub's lives

    def begin(self, *arguments: str) -> None:
        """Start the hub, without waiting for it."""
        require(self.hub is None or self.hub.poll() is not None, "the hub runs already")
        with open(self.log, "ab") as log:
            self.log_before = log.tell()
            self.hub = subprocess.Popen(
                [*command("orrery"), "-f", "orrery.toml", *arguments], cwd=self.folder, env=environment(ORRERY_FAULT=f"@{self.order}"),
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )
        self.lives += 1

    def start(self, *arguments: str) -> None:
        """Start the hub and wait until it and its proxy answer, and the hub knows that they do."""
        self.begin(*arguments)
        wait_until(self._answers, f"{self.name}: the hub's life {self.lives}", SOON, pause=0.005)

    def _answers(self) -> bool:
        require(self.hub.poll() is None, f"the hub ended by itself with {self.hub.returncode}:\n{self.log_tail()}")
        try:
            if self.call("GET", "/", port=self.hub_port)[0] != 200 or self.call("GET", "/")[0] != 200:
                return False
        except OSError:
            return False
        # A proxy may serve before the hub has looked; one that ends in that moment ends the hub's start.
        with open(self.log, "rb") as log:
            log.seek(self.log_before)
            return b"JupyterHub is now running" in log.read()

    def kill(self, how: int = signal.SIGKILL) -> None:
        self.hub.send_signal(how)
        self.died(how)

    def died(self, how: int = signal.SIGKILL) -> None:
        try:
            code = self.hub.wait(SOON)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the hub did not end:\n{self.log_tail()}") from None
        same(code, -signal.SIGKILL if how == signal.SIGKILL else 0, "the hub's exit code")

    def proxy_pid(self) -> int:
        return int((self.folder / "jupyterhub-proxy.pid").read_text())

    def kill_proxy(self) -> None:
        try:
            os.kill(self.proxy_pid(), signal.SIGKILL)
        except (OSError, ValueError):
            pass  # it is being started again

    def arm(self, point: str, count: int) -> None:
        """Let the hub die when it comes by `point` for the `count`-th time from now on."""
        part = self.order.with_suffix(".part")
        part.write_text(f"{point}:{count}")
        part.rename(self.order)

    def disarm(self) -> None:
        self.order.unlink(missing_ok=True)

    def log_tail(self, lines: int = 25) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    # --- what people do

    def call(self, method: str, path: str, body=None, *, port: int | None = None, prefix: str = "/hub/api", token: str = TOKEN):
        """One request; gives status and JSON. OSError when the hub is away."""
        connection = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=SOON)
        try:
            headers = {"Authorization": f"token {token}", "Content-Type": "application/json"}
            connection.request(method, prefix + path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read()
        except http.client.HTTPException as error:
            raise ConnectionError(str(error)) from error
        finally:
            connection.close()
        try:
            return answer.status, json.loads(text) if text else None
        except ValueError:
            return answer.status, None

    def ask(self, method: str, user: str) -> int | None:
        """Ask for a start or a stop; `None` when the hub died under it."""
        try:
            return self.call(method, f"/users/{user}/server", {} if method == "POST" else None, port=self.hub_port)[0]
        except OSError:
            return None

    def all_ask(self, method: str, users: list[str] | None = None) -> list[int | None]:
        users = self.users if users is None else users
        with ThreadPoolExecutor(max(1, len(users))) as crowd:
            return list(crowd.map(lambda user: self.ask(method, user), users))

    def all_run(self) -> None:
        """Everybody who has no server starts one, which must work; then everybody has one."""
        idle = [row.user for row in self.rows() if row.run is None]
        answers = self.all_ask("POST", idle)
        require(all(answer in (201, 202) for answer in answers), f"starts: {answers}")
        self.settle()
        down = [row.user for row in self.rows() if row.run is None]
        require(not down, f"the servers of {down} were asked for and do not run: {self.failures(down)}")

    def all_stop(self) -> None:
        running = [row.user for row in self.rows() if row.run is not None]
        answers = self.all_ask("DELETE", running)
        require(all(answer in (202, 204) for answer in answers), f"stops: {answers}")
        self.settle()
        up = [row.user for row in self.rows() if row.run is not None]
        require(not up, f"the servers of {up} were stopped and run")

    # --- what is the case

    def query(self, sql: str, *values):
        with sqlite3.connect(f"file:{self.folder}/jupyterhub.sqlite?mode=ro", uri=True, timeout=SOON) as database:
            return database.execute(sql, values).fetchall()

    def rows(self) -> list[Row]:
        found = self.query("""
            SELECT users.name, spawners.id, spawners.state, servers.proto, servers.ip, servers.port, runs.id,
                   CAST(strftime('%s', substr(runs.queued_at, 1, 19)) AS INTEGER) * 1000000
                       + CAST(substr(substr(runs.queued_at, 21) || '000000', 1, 6) AS INTEGER),
                   (SELECT count(*) FROM api_tokens WHERE user_id = users.id AND note LIKE 'Server at %')
            FROM users LEFT JOIN spawners ON spawners.user_id = users.id
            LEFT JOIN servers ON servers.id = spawners.server_id
            LEFT JOIN orrery_runs AS runs ON runs.spawner_id = spawners.id AND runs.phase = 'ready'""")
        return [
            Row(user, spawner, json.loads(state or "{}"), f"{proto}://{ip}:{port}" if proto else None, run, f"{run}-{queued}" if run else None, tokens)
            for user, spawner, state, proto, ip, port, run, queued, tokens in found
        ]

    def failures(self, users: list[str]) -> list:
        return [self.query("SELECT phase, failure FROM orrery_runs WHERE user_name = ? ORDER BY id DESC LIMIT 1", user) for user in users]

    def settle(self) -> None:
        """Wait until nothing is pending and nothing is left to be stopped."""
        pending = f"SELECT id, user_name, phase FROM orrery_runs WHERE phase IN {PENDING} OR failure LIKE '%left_running%'"
        try:
            wait_until(lambda: not self.query(pending), "the end of all that is pending", SOON, pause=0.01)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.query(pending)}\n{self.log_tail()}") from None

    def processes(self) -> dict[str, dict[int, int]]:
        """The living processes of this site's servers: mark → pid → parent."""
        ours = f"JUPYTERHUB_API_URL=http://127.0.0.1:{self.hub_port}/hub/api".encode()
        found: dict[str, dict[int, int]] = {}
        for entry in os.listdir("/proc"):
            if not entry.isdigit():
                continue
            try:
                variables = Path("/proc", entry, "environ").read_bytes().split(b"\0")
                if ours not in variables:
                    continue
                state, parent = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()[:2]
            except OSError:
                continue
            marks = [variable[11:].decode() for variable in variables if variable.startswith(b"ORRERY_RUN=")]
            if state not in "ZX":
                found.setdefault(marks[0] if marks else "without a mark", {})[int(entry)] = int(parent)
        return found

    def keepers(self) -> list[int]:
        """The processes of the session helper that keep this site's servers: each writes to one of its logs."""
        found = []
        for entry in filter(str.isdigit, os.listdir("/proc")):
            try:
                if Path("/proc", entry, "exe").readlink().name == "orrery-session" and Path("/proc", entry, "fd", "2").readlink().is_relative_to(self.folder):
                    found.append(int(entry))
            except OSError:
                continue
        return found

    def routes(self) -> dict[str, str]:
        status, routes = self.call("GET", "", port=self.api_port, prefix="/api/routes", token=PROXY_TOKEN)
        same(status, 200, "the proxy's routes")
        return {path: route["target"] for path, route in routes.items()}

    def census(self) -> int:
        """Every server runs and is routed, or is stopped and clean. Gives how many run."""
        self.settle()
        rows = self.rows()
        same(sorted(row.user for row in rows), sorted(self.users), "users")
        running = [row for row in rows if row.run is not None]
        for row in rows:
            what = f"{row.user}'s server"
            if row.run is None:
                same((row.state, row.target, row.tokens), ({}, None, 0), f"{what} is stopped: state, address, tokens")
            else:
                require(row.target and row.state.get("pid"), f"{what} runs without an address or a state: {row}")
                same(row.tokens, 1, f"{what} runs: tokens")
        same(self.query("SELECT count(*) FROM servers"), [(len(running),)], "addresses in the database")
        same(self.query("SELECT spawner_id, count(*) FROM orrery_runs WHERE active_key IS NOT NULL GROUP BY spawner_id HAVING count(*) > 1"), [], "doubled runs")

        # A process that was killed a moment ago may be seen once more.
        expected = {row.mark for row in running}
        wait_until(lambda: set(self.processes()) <= expected, f"the end of processes of no server: {self._strangers(expected)}", 5, pause=0.02)
        processes = self.processes()
        for row in running:
            pids = processes.get(row.mark, {})
            require(row.state["pid"] in pids, f"{row.user}'s server {row.mark} runs as {pids}, not as {row.state}")
            heads = [pid for pid, parent in pids.items() if parent not in pids]
            same(len(heads), 1, f"processes of {row.user}'s server {row.mark} that no other of it started ({pids})")

        wanted = {"/": f"http://127.0.0.1:{self.hub_port}"} | {f"/user/{row.user}/": row.target for row in running}
        normal = lambda: {path.rstrip("/") + "/": target.rstrip("/") for path, target in self.routes().items()}
        wait_until(lambda: self._quietly(normal) == wanted, f"routes {wanted}, there are {self._quietly(normal)}", 5, pause=0.02)
        for row in running:
            status, answer = self.call("GET", f"/user/{row.user}/api", prefix="")
            same((status, answer and answer["mark"]), (200, row.mark), f"who answers at {row.user}'s address")
            if self.spawner != "simple":
                same(answer["uid"], pwd.getpwnam(row.user).pw_uid, f"the account of {row.user}'s server")
        if self.spawner != "simple":
            wait_until(lambda: len(self.keepers()) == len(running), f"a keeper for each of {len(running)} servers, there are {self.keepers()}", 5, pause=0.02)

        status, models = self.call("GET", "/users")
        same(status, 200, "GET /users")
        told = {model["name"]: (model["pending"], model["server"]) for model in models}
        same(told, {row.user: (None, f"/user/{row.user}/" if row.run else None) for row in rows}, "what the API says")
        return len(running)

    def _strangers(self, expected: set[str]) -> dict:
        return {mark: pids for mark, pids in self.processes().items() if mark not in expected}

    @staticmethod
    def _quietly(call):
        try:
            return call()
        except OSError as error:
            return error

    # --- the end

    def close(self) -> None:
        """End everything that this site started."""
        if self.hub is not None and self.hub.poll() is None:
            self.hub.kill()
            self.hub.wait(SOON)
        self.kill_proxy()
        for pids in self.processes().values():
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        if not os.environ.get("ORRERY_KEEP"):
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> "Site":
        return self

    def __exit__(self, *_exception) -> None:
        self.close()
