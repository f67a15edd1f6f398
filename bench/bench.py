#!/usr/bin/env python3
"""JupyterHub with configurable-http-proxy and Orrery side by side, in one run, as ratios.

    python bench/bench.py [--hub upstream|orrery|both] [--users 10000] [--servers 100] [--seconds 5]

Both hubs open a copy of the same database and run the same configuration. The table
goes to the terminal, all numbers as JSON to target/bench/results.json.
"""

import argparse
import asyncio
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))
from harness import places  # noqa: E402
from harness.hub import KINDS, Hub, session_members  # noqa: E402

TOKEN = "the-token-of-the-bench-service-0123456789"
# The aims of the project: (what, unit, whether more is better, aim)
ROWS = [
    ("start_seconds", "start until ready, {users} users", "s", False, 0.5),
    ("hub_mb", "memory of the hub after it (Pss)", "MB", False, 40),
    ("proxy_mb", "memory of the proxy after it (Pss)", "MB", False, 15),
    ("hub_rss_mb", "memory of the hub after it (RSS)", "MB", False, None),
    ("proxy_rss_mb", "memory of the proxy after it (RSS)", "MB", False, None),
    ("login_direct", "GET /hub/login, at the hub", "/s", True, 10_000),
    ("login_proxied", "GET /hub/login, through the proxy", "/s", True, None),
    ("user_direct", "GET /hub/api/user by token, at the hub", "/s", True, 10_000),
    ("user_proxied", "GET /hub/api/user by token, through the proxy", "/s", True, None),
    ("servers_per_second", "{servers} servers started at once", "/s", True, 150),
]


def config(program: Path) -> str:
    return f"""
c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allow_all = True
c.JupyterHub.concurrent_spawn_limit = 0
c.JupyterHub.active_server_limit = 0
c.Spawner.cmd = [{str(program)!r}]
c.Spawner.args = []
c.Spawner.start_timeout = 120
c.Spawner.http_timeout = 120
c.JupyterHub.services = [{{"name": "bench", "api_token": {TOKEN!r}, "admin": True}}]
"""


def measure(kind: str, database: Path, program: Path, options: argparse.Namespace) -> dict:
    numbers: dict = {}
    with Hub(kind, config(program)) as hub:
        # A first start writes what a hub adds to a database (service, token, marks); the second is measured.
        shutil.copy(database, hub.folder / "jupyterhub.sqlite")
        hub.start().wait_ready(180)
        hub.process.terminate()
        hub.process.wait(60)
        starts = []
        for turn in range(options.starts):
            hub.start()
            starts.append(hub.wait_ready(180))
            if turn + 1 < options.starts:
                hub.process.terminate()
                hub.process.wait(60)
        numbers["start_seconds"] = sorted(starts)[len(starts) // 2]
        time.sleep(1)
        numbers |= memory(hub)
        for name, origin in (("direct", hub.hub_origin), ("proxied", hub.origin)):
            numbers[f"login_{name}"] = wrk(f"{origin}/hub/login", options.seconds)
            numbers[f"user_{name}"] = wrk(f"{origin}/hub/api/user", options.seconds, f"Authorization: token {TOKEN}")
        names = [f"user-{number:05d}" for number in range(options.servers)]
        begun = time.monotonic()
        asyncio.run(asyncio.wait_for(start_servers(hub, names), 240))
        numbers["servers_seconds"] = time.monotonic() - begun
        numbers["servers_per_second"] = len(names) / numbers["servers_seconds"]
        numbers |= {f"{key}_at_end": value for key, value in memory(hub).items()}
    return numbers


def memory(hub: Hub) -> dict:
    """Pss and RSS in MB of the proxy, and of the hub with every other process it runs."""
    sums = {"hub_mb": 0.0, "proxy_mb": 0.0, "hub_rss_mb": 0.0, "proxy_rss_mb": 0.0}
    for pid in {hub.process.pid} | session_members(hub.process.pid):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        if "trivial_server" in words[0]:
            continue
        is_proxy = pid != hub.process.pid and ("proxy" in words[1:3] or any("configurable-http-proxy" in word for word in words[:2]))
        part = "proxy" if is_proxy else "hub"
        for key, field in ((f"{part}_mb", "Pss"), (f"{part}_rss_mb", "Rss")):
            sums[key] += int(re.search(rf"^{field}:\s+(\d+) kB", rollup, re.MULTILINE).group(1)) / 1024
    return sums


def wrk(url: str, seconds: int, *headers: str) -> float:
    command = ["wrk", "-t1", "-c32", f"-d{seconds}s", *[part for header in headers for part in ("-H", header)], url]
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=seconds + 60, check=True).stdout
    if bad := re.search(r"Non-2xx or 3xx responses: (\d+)", said):
        raise SystemExit(f"{bad.group(1)} bad answers from {url}:\n{said}")
    return float(re.search(r"Requests/sec:\s+([\d.]+)", said).group(1))


async def start_servers(hub: Hub, names: list[str]) -> None:
    """Ask for all servers in the same moment; done when every one of them is ready."""
    await asyncio.gather(*(start_server(hub, name) for name in names))


async def start_server(hub: Hub, name: str) -> None:
    status, body = await request(hub, "POST", f"/users/{name}/server")
    if status == 201:
        return
    if status != 202:
        raise SystemExit(f"starting {name}'s server: {status} {body}")
    while True:
        await asyncio.sleep(0.1)
        _, body = await request(hub, "GET", f"/users/{name}")
        server = json.loads(body)["servers"].get("")
        if server is None:
            raise SystemExit(f"{name}'s server did not start: {body}")
        if server["ready"]:
            return


async def request(hub: Hub, method: str, path: str) -> tuple[int, str]:
    """A request over a connection of its own; as little client as possible beside the hub."""
    reader, writer = await asyncio.open_connection("127.0.0.1", hub.hub_port)
    writer.write(
        f"{method} /hub/api{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: token {TOKEN}\r\n"
        "Content-Length: 0\r\nConnection: close\r\n\r\n".encode()
    )
    answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body.decode()


def show(results: dict, options: argparse.Namespace) -> bool:
    """Print the table; true when every aim is met."""
    upstream, ours, met = results.get("upstream"), results.get("orrery"), True
    print(f"\n{'':52}{'upstream':>12}{'orrery':>12}{'ratio':>9}   aim")
    for key, label, unit, more, aim in ROWS:
        theirs = upstream and upstream[key]
        mine = ours and ours[key]
        ratio = (mine / theirs if more else theirs / mine) if theirs and mine else None
        verdict = ""
        if aim is not None and mine is not None:
            good = mine >= aim if more else mine <= aim
            met &= good
            verdict = f"{'>=' if more else '<='} {aim:g} {unit}: {'met' if good else 'MISSED'}"
        cells = [f"{value:.2f} {unit}" if value is not None and value < 10 else f"{value:.0f} {unit}" if value is not None else "-" for value in (theirs, mine)]
        print(f"{label.format(**vars(options)):52}{cells[0]:>12}{cells[1]:>12}{f'{ratio:.1f}x' if ratio else '-':>9}   {verdict}")
    return met


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hub", choices=[*KINDS, "both"], default="both")
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--servers", type=int, default=100)
    parser.add_argument("--seconds", type=int, default=5, help="how long each wrk runs")
    parser.add_argument("--starts", type=int, default=3, help="how many starts the median is of")
    parser.add_argument("--check", action="store_true", help="exit with 1 when an aim is missed")
    options = parser.parse_args()

    work = Path(os.environ.get("CARGO_TARGET_DIR", places.CHECKOUT / "target")) / "bench"
    work.mkdir(parents=True, exist_ok=True)
    program = work / "trivial_server"
    subprocess.run(["cc", "-O2", "-o", str(program), str(HERE / "trivial_server.c")], check=True)
    database = work / f"users-{options.users}.sqlite"
    if not database.exists():
        print(f"writing a database with {options.users} users", flush=True)
        unfinished = database.with_suffix(".part")
        unfinished.unlink(missing_ok=True)
        subprocess.run([sys.executable, str(HERE / "prepare.py"), str(unfinished), str(options.users)], check=True, timeout=300)
        unfinished.rename(database)

    results: dict = {}
    for kind in KINDS if options.hub == "both" else [options.hub]:
        print(f"measuring {kind}", flush=True)
        results[kind] = measure(kind, database, program, options)
    met = show(results, options)
    results["about"] = {"when": datetime.now(timezone.utc).isoformat(), "cores": os.cpu_count(), "machine": platform.machine(), "options": vars(options)}
    path = places.CHECKOUT / "target" / "bench" / "results.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=2) + "\n")
    print(f"\nall numbers: {path}")
    sys.exit(0 if met or not options.check else 1)


if __name__ == "__main__":
    main()
