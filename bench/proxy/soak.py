#!/usr/bin/env python3
"""Minutes of mixed traffic while people and servers are killed at random: nothing may grow, no answer may be wrong.

    python bench/proxy/soak.py [--minutes 10] [--tls] [--seed N]

Small requests, uploads, downloads, server-sent events and websockets among 40 servers, some of them left in the
middle; every few seconds a process with ten servers is killed and comes back elsewhere, and a process with half of
the people is killed and followed by another. Each answer says who gave it, for which path and which body. A failure
that no kill explains counts as wrong. Prints a line each ten seconds, and at the end the three thirds of the time. The
first is that in which the heap fills up to what such traffic needs at its peaks; what grows from the second to the
last would go on growing. `ORRERY_PROFILE=release` measures the release build.
"""

import argparse
import http.client
import json
import os
import random
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import mean

HERE = Path(__file__).resolve().parent
TESTS = HERE.parents[1] / "tests"
sys.path[:0] = [str(HERE), str(TESTS)]
from harness import places  # noqa: E402
from harness.certificates import Authority  # noqa: E402
from proxies import TOKEN, free_port, rss_kb  # noqa: E402

GROUPS, SERVERS_EACH = 4, 10
CROWDS, WORKERS_EACH = 2, 16
#: What the last third may need more than the second: 5 %, and a few connections or pages.
GROWTH, FILES, KILOBYTES = 1.05, 4, 512
#: Before a kill and after the return, requests to the killed servers may fail.
BEFORE, AFTER = 0.1, 0.5


class Soak:
    def __init__(self, folder: Path, seed: int, tls: bool):
        self.dice = random.Random(seed)
        self.port, self.api_port = free_port(), free_port()
        self.authorities, arguments = None, []
        if tls:
            authority = Authority(folder, "authority")
            pair = authority.sign("site", ["localhost"])
            self.authorities, arguments = str(authority.file), ["--ssl-key", str(pair.key), "--ssl-cert", str(pair.certificate)]
        command = [
            str(places.orrery_binary()), "proxy", "--ip", "127.0.0.1", "--port", str(self.port), "--api-ip", "127.0.0.1",
            "--api-port", str(self.api_port), "--threads", "2", "--log-level", "warn", *arguments,
        ]
        self.log_path = folder / "proxy.log"
        with open(self.log_path, "wb") as log:
            self.proxy = subprocess.Popen(command, env=os.environ | {"CONFIGPROXY_AUTH_TOKEN": TOKEN}, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._wait_for_api()
        self.groups: list[subprocess.Popen | None] = [None] * GROUPS
        self.crowds: list[subprocess.Popen | None] = [None] * CROWDS
        self.unread: dict[int, bytes] = {}
        #: For each group the times between which it was not itself.
        self.outages: list[list[tuple[float, float]]] = [[] for _ in range(GROUPS)]
        self.people_killed = self.servers_killed = self.excused = 0
        self.done: Counter = Counter()
        self.wrong: list[str] = []
        self.failures: list[list] = []
        self.websockets = [0] * CROWDS

    def start_group(self, group: int) -> None:
        command = [sys.executable, str(TESTS / "proxy_leaks" / "servers.py"), "127.9.0.{}", str(group * SERVERS_EACH), str(SERVERS_EACH)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.groups[group] = process
        for server, place in json.loads(process.stdout.readline()).items():
            status = self.api("POST", f"/api/routes/s{server}", {"target": f"http://{place}"})
            if status != 201:
                raise SystemExit(f"a route was answered with {status}")

    def kill_group(self, group: int) -> None:
        begun = time.time()
        self.end(self.groups[group])
        # For a moment nothing is there at all.
        time.sleep(self.dice.random() * 0.5)
        self.start_group(group)
        self.outages[group].append((begun - BEFORE, time.time() + AFTER))
        self.servers_killed += SERVERS_EACH

    def start_crowd(self, crowd: int) -> None:
        words = [str(self.port), str(GROUPS * SERVERS_EACH), str(WORKERS_EACH), str(self.dice.randrange(1 << 30))]
        command = [sys.executable, str(HERE / "soak_people.py"), *words, *([self.authorities] if self.authorities else [])]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        os.set_blocking(process.stdout.fileno(), False)
        self.crowds[crowd] = process
        self.unread[crowd] = b""
        self.websockets[crowd] = 0

    def kill_crowd(self, crowd: int) -> None:
        self.listen(0)
        self.end(self.crowds[crowd])
        self.start_crowd(crowd)
        self.people_killed += WORKERS_EACH

    def end(self, process: subprocess.Popen | None) -> None:
        if process:
            process.kill()
            process.wait(10)
            for stream in (process.stdin, process.stdout):
                if stream:
                    stream.close()

    def listen(self, seconds: float) -> None:
        """Take what the people tell, for so long."""
        end = time.monotonic() + seconds
        while True:
            streams = {process.stdout: crowd for crowd, process in enumerate(self.crowds) if process}
            readable, _, _ = select.select(list(streams), [], [], max(0, end - time.monotonic()))
            for stream in readable:
                crowd = streams[stream]
                piece = stream.read()
                if not piece:
                    raise SystemExit("a crowd ended by itself")
                *lines, self.unread[crowd] = (self.unread[crowd] + piece).split(b"\n")
                for line in lines:
                    told = json.loads(line)
                    self.done.update(told["done"])
                    self.wrong += told["wrong"]
                    self.failures += told["failures"]
                    self.websockets[crowd] = told["websockets"]
            if time.monotonic() >= end:
                return

    def judge(self) -> None:
        """Excuse the failures that a kill explains; the others are wrong."""
        for begun, ended, server, what in self.failures:
            outages = self.outages[server // SERVERS_EACH]
            if any(begun <= until and ended >= since for since, until in outages):
                self.excused += 1
            else:
                self.wrong.append(f"at {begun:.1f} of server {server}, which was not killed: {what}")
        self.failures.clear()

    def api(self, method: str, path: str, body: dict | None = None) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.api_port, timeout=20)
        connection.request(method, path, json.dumps(body) if body else None, {"Authorization": f"token {TOKEN}"})
        answer = connection.getresponse()
        answer.read()
        connection.close()
        return answer.status

    def files(self) -> int:
        return len(os.listdir(f"/proc/{self.proxy.pid}/fd"))

    def memory(self) -> int:
        return rss_kb(self.proxy.pid)

    def stop(self) -> None:
        for process in [*self.crowds, *self.groups, self.proxy]:
            self.end(process)

    def _wait_for_api(self) -> None:
        deadline = time.monotonic() + 20
        while True:
            try:
                self.api("GET", "/api/routes")
                return
            except OSError:
                if self.proxy.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"the proxy does not start:\n{self.log_path.read_text()}") from None
                time.sleep(0.05)


def soak(run: Soak, minutes: float) -> bool:
    for group in range(GROUPS):
        run.start_group(group)
    for crowd in range(CROWDS):
        run.start_crowd(crowd)
    begun, samples = time.monotonic(), []
    next_group, next_crowd, next_sample = 8.0, 15.0, 10.0
    print("| seconds | exchanges | websockets open | servers killed | people killed | fds | RSS kB | wrong |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
    sums: list[tuple[int, int]] = []
    while (now := time.monotonic() - begun) < minutes * 60:
        run.listen(0.2)
        # Several looks for each sample, so that chance of a moment does not count.
        sums.append((run.files(), run.memory()))
        if now >= next_group:
            run.kill_group(run.dice.randrange(GROUPS))
            next_group = now + 4 + run.dice.random() * 6
        if now >= next_crowd:
            run.kill_crowd(run.dice.randrange(CROWDS))
            next_crowd = now + 10 + run.dice.random() * 15
        if now >= next_sample:
            next_sample += 10
            run.judge()
            sample = (mean(files for files, _ in sums), mean(memory for _, memory in sums))
            sums.clear()
            samples.append(sample)
            print(f"| {now:.0f} | {run.done.total()} | {sum(run.websockets)} | {run.servers_killed} | {run.people_killed} | {sample[0]:.0f} | {sample[1]:.0f} | {len(run.wrong)} |", flush=True)
            if run.proxy.poll() is not None:
                raise SystemExit("the proxy ended")
    run.listen(1.5)
    run.judge()
    return report(run, samples)


def report(run: Soak, samples: list[tuple[float, float]]) -> bool:
    third = max(1, len(samples) // 3)
    parts = (samples[:third], samples[third:-third], samples[-third:])
    first, second, last = ([mean(values) for values in zip(*part, strict=True)] for part in parts)
    print("\n| | first third | second third | last third | last to second |\n| --- | ---: | ---: | ---: | ---: |")
    for name, *means in zip(("file descriptors", "memory (RSS, kB)"), first, second, last, strict=True):
        print(f"| {name} | {means[0]:.0f} | {means[1]:.0f} | {means[2]:.0f} | {means[2] / means[1] - 1:+.1%} |")
    print(f"\n{run.done.total()} exchanges: {dict(run.done)}")
    print(f"{run.servers_killed} servers and {run.people_killed} people killed; {run.excused} exchanges failed because their server was killed; {len(run.wrong)} wrong")
    for wrong in run.wrong[:20]:
        print("  " + wrong)
    grown = [last[0] > second[0] * GROWTH + FILES, last[1] > second[1] * GROWTH + KILOBYTES]
    for name, has_grown in zip(("file descriptors", "memory"), grown, strict=True):
        if has_grown:
            print(f"GROWN: {name}")
    return not run.wrong and not any(grown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--tls", action="store_true", help="people speak TLS with the proxy")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    print(f"seed {options.seed}, {places.orrery_binary().parent.name} build, {'TLS' if options.tls else 'plain'}", flush=True)
    signal.signal(signal.SIGTERM, lambda *_signal: sys.exit("told to end"))
    with tempfile.TemporaryDirectory(prefix="orrery-soak-") as folder:
        run = Soak(Path(folder), options.seed, options.tls)
        try:
            good = soak(run, options.minutes)
            if not good:
                print("-- the end of the proxy's log\n" + "\n".join(run.log_path.read_text(errors="replace").splitlines()[-20:]))
        finally:
            run.stop()
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
