#!/usr/bin/env python3
"""Orrery's proxy, nginx and configurable-http-proxy side by side, in one run on the same cores.

    python bench/proxy/bench.py [--only requests,routes,…] [--rounds 15] [--seconds 1]

Each proxy has one thread or worker and core 0 for itself; the load generator and the servers behind the
proxies, one thread together, have core 1. All proxies run at once and are asked in turn, each round in
another order; what is compared is the median over the rounds of the ratio within a round, so that what
else the machine does meets all alike. The table goes to the terminal, all numbers as JSON to
target/bench/proxy.json.
"""

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import threading
import time
from datetime import datetime, timezone
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import proxies  # noqa: E402
from load import Load, LoadError, open_files  # noqa: E402
from proxies import Chp, Nginx, Orrery, Proxy, cpu_seconds, places  # noqa: E402

PROXY_CORE, LOAD_CORE = {0}, {1}
# Those who are asked for: 32 of them, spread over all that have a route.
USERS = 32
MANY_ROUTES = 10_000
MANY_MORE_ROUTES = 100_000
GIBIBYTE = 1 << 30
KINDS = {"orrery": Orrery, "nginx": Nginx, "chp": Chp}


class Bench:
    def __init__(self, options: argparse.Namespace, load_program: Path):
        self.options = options
        self.load = Load(load_program, LOAD_CORE, options.realtime)
        self.server = self.load.server
        self.running: list[Proxy] = []
        self.results: dict = {}
        self.verdicts: list[tuple[str, str, bool]] = []

    # What is started

    def start(self, kind: str, *arguments: str, cores: set[int] = PROXY_CORE) -> Proxy:
        if kind == "orrery" and not arguments:
            arguments = ("--threads", "1")
        proxy = KINDS[kind](self.server, cores, self.options.realtime, arguments)
        self.running.append(proxy)
        return proxy

    def stop(self, *some: Proxy) -> None:
        for proxy in some:
            self.running.remove(proxy)
            proxy.stop()

    def close(self) -> None:
        self.stop(*list(self.running))
        self.load.stop()

    def kinds(self) -> list[str]:
        return [kind for kind in KINDS if kind in self.options.proxies]

    def with_users(self, kind: str, *arguments: str, routes: int = USERS, cores: set[int] = PROXY_CORE) -> Proxy:
        """A proxy with routes to `routes` servers."""
        proxy = self.start(kind, *arguments, cores=cores)
        if routes > USERS:
            proxy.add_routes(self.load, 0, routes)
        else:
            for number in users():
                proxy.add_routes(self.load, number, 1)
        return proxy

    # How it is measured

    def rounds(self, contenders: dict[str, Proxy | None], connections: int, command: dict) -> dict[str, list[dict]]:
        """Asks all contenders in turn, each round from another one on; `None` is the server itself.

        Opening and closing are no part of what is measured. Websockets stay open over all rounds, other
        connections, which the proxies close when they are idle, for one.
        """
        found: dict[str, list[dict]] = {name: [] for name in contenders}
        keep = command["do"] == "echo"
        if keep:
            for name, proxy in contenders.items():
                self.load.ask(do="open_websockets", set=name, address=self.address(proxy), connections=connections, paths=paths("api/kernels/k/channels"))
        names = list(contenders)
        for turn in range(-1, self.options.rounds):
            at = turn % len(names)
            for name in names[at:] + names[:at]:
                # Nothing is compared with the server itself.
                if not contenders[name] and turn >= 5:
                    continue
                if not keep:
                    self.load.ask(do="open", set=name, address=self.address(contenders[name]), connections=connections)
                answer = self.once(contenders[name], command | {"set": name})
                if not keep:
                    self.load.ask(do="close", set=name)
                # The first round is for caches and pools.
                if turn >= 0:
                    found[name].append(answer)
        for name in names:
            self.load.ask(do="close", set=name)
        return found

    def address(self, proxy: Proxy | None) -> str:
        return proxy.address if proxy else self.server

    def once(self, proxy: Proxy | None, command: dict) -> dict:
        """One measurement, with the time on the core that the proxy and the load needed for each answer."""
        before = proxy.cpu_seconds() if proxy else 0.0
        load_before = cpu_seconds(self.load.process.pid)
        answer = self.load.ask(**command)
        load_spent = cpu_seconds(self.load.process.pid) - load_before
        answer |= {"load_cpu_us": load_spent / answer["count"] * 1e6, "load_busy": load_spent / answer["seconds"]}
        if proxy:
            spent = proxy.cpu_seconds() - before
            answer |= {"cpu_us": spent / answer["count"] * 1e6, "busy": spent / answer["seconds"]}
        return answer

    def show(self, title: str, found: dict[str, list[dict]], columns: list[tuple[str, str]]) -> None:
        print(f"\n{title}")
        print(f"  {'':14}" + "".join(f"{label:>16}" for label, _ in columns))
        for name, rounds in found.items():
            cells = "".join(f"{number(median(rounds, key)):>16}" for _, key in columns)
            print(f"  {name:14}{cells}", flush=True)

    def judge(self, what: str, said: str, met: bool) -> None:
        self.verdicts.append((what, said, met))
        print(f"  -> {what}: {said}: {'met' if met else 'MISSED'}", flush=True)

    def judge_ratio(self, what: str, found: dict, key: str, ours: str, theirs: str, least: float | None = None, most: float | None = None) -> None:
        if ours not in found or theirs not in found:
            return
        ratio = paired(found[ours], found[theirs], key)
        met = (least is None or ratio >= least) and (most is None or ratio <= most)
        limit = f"at least {least:g}" if least is not None else f"at most {most:g}"
        core = f"; for each second of the proxy's core {1 / paired(found[ours], found[theirs], 'cpu_us'):.3f}" if key == "per_second" else ""
        self.judge(what, f"{ratio:.3f} of {theirs}{core}; aim {limit}", met)

    # What is measured

    REQUEST_COLUMNS = [("answers/s", "per_second"), ("p50 us", "p50_us"), ("p99 us", "p99_us"), ("proxy us/answer", "cpu_us"), ("proxy busy", "busy"), ("load busy", "load_busy")]

    def requests(self) -> None:
        contenders = {kind: self.with_users(kind) for kind in self.kinds()}
        for title, key, browser in (("bare heads", "requests", False), ("a browser's heads", "requests_browser", True)):
            command = {"do": "requests", "paths": paths("api/status"), "seconds": self.options.seconds, "browser": browser}
            found = self.rounds({**contenders, "no proxy": None}, 32, command)
            self.show(f"Small answers over 32 connections, {title}", found, self.REQUEST_COLUMNS)
            self.judge_ratio(f"answers/s, {title}", found, "per_second", "orrery", "nginx", least=1)
            self.judge_ratio(f"p99, {title}", found, "p99_us", "orrery", "nginx", most=1)
            self.results[key] = found
        self.stop(*contenders.values())

    def routes(self) -> None:
        kinds = [kind for kind in self.kinds() if kind != "nginx"]
        contenders = {}
        for kind in kinds:
            contenders[kind] = self.with_users(kind)
            contenders[f"{kind} 10,000"] = self.with_users(kind, routes=MANY_ROUTES)
        if "nginx" in self.kinds():
            contenders["nginx"] = self.with_users("nginx")
        command = {"do": "requests", "paths": paths("api/status"), "seconds": self.options.seconds}
        found = self.rounds(contenders, 32, command)
        self.show("The same with 10,000 routes in the table", found, self.REQUEST_COLUMNS)
        self.judge_ratio("answers/s with 10,000 routes", found, "per_second", "orrery 10,000", "orrery", least=0.97)
        self.judge_ratio("p99 with 10,000 routes", found, "p99_us", "orrery 10,000", "nginx", most=1)
        self.results["routes"] = found
        self.stop(*contenders.values())

    def websockets(self) -> None:
        contenders = {kind: self.with_users(kind) for kind in self.kinds()}
        found = self.rounds({**contenders, "no proxy": None}, 200, {"do": "echo", "seconds": self.options.seconds})
        self.show("Websocket echo over 200 connections", found, self.REQUEST_COLUMNS)
        self.judge_ratio("websocket echoes/s", found, "per_second", "orrery", "nginx", least=1)
        self.results["websockets"] = found
        self.stop(*contenders.values())

    def transfers(self) -> None:
        contenders = {kind: self.with_users(kind) for kind in self.kinds()}
        for name, upload in (("download", False), ("upload", True)):
            command = {"do": "transfer", "path": paths(f"files/{name}")[0], "bytes": GIBIBYTE, "upload": upload}
            for proxy in contenders.values():
                self.sampled(proxy, command | {"bytes": 64 << 20})
            found: dict[str, list[dict]] = {kind: [] for kind in [*contenders, "no proxy"]}
            names = list(found)
            for turn in range(max(3, self.options.rounds // 3)):
                at = turn % len(names)
                for kind in names[at:] + names[:at]:
                    found[kind].append(self.sampled(contenders.get(kind), command))
            self.show(f"1 GiB {name}", found, [("MiB/s", "mib_per_second"), ("proxy s/GiB", "cpu_s"), ("RSS before kB", "rss_before"), ("most RSS kB", "rss_most")])
            self.judge_ratio(f"1 GiB {name}", found, "mib_per_second", "orrery", "nginx", least=0.9)
            if "orrery" in found:
                growth = found["orrery"][-1]["rss_most"] - found["orrery"][0]["rss_before"]
                self.judge(f"1 GiB {name}, memory flat", f"{growth} kB more at most, aim at most 1024", growth <= 1024)
            self.results[name] = found
        self.stop(*contenders.values())

    def sampled(self, proxy: Proxy | None, command: dict) -> dict:
        """A transfer with the proxy's memory beside it, looked at twenty times a second."""
        if not proxy:
            return self.load.ask(address=self.server, **command)
        samples = [proxy.rss_kb()]
        over = threading.Event()

        def sample() -> None:
            while not over.wait(0.05):
                samples.append(proxy.rss_kb())

        sampler = threading.Thread(target=sample)
        sampler.start()
        before = proxy.cpu_seconds()
        try:
            answer = self.load.ask(address=proxy.address, **command)
        finally:
            over.set()
            sampler.join()
        return answer | {"cpu_s": proxy.cpu_seconds() - before, "rss_before": samples[0], "rss_most": max(samples)}

    def idle(self) -> None:
        # Each needs two files of the proxy and two of the load.
        count = min(self.options.idle, (open_files() - 500) // 2)
        found = {}
        for kind in self.kinds():
            proxy = self.with_users(kind)
            command = {"do": "open_websockets", "address": proxy.address, "paths": paths("api/kernels/k/channels"), "idle": True}
            # What the first ones need once and for all is not theirs.
            self.load.ask(**command, set="first", connections=50)
            time.sleep(0.3)
            before = proxy.rss_kb()
            self.load.ask(**command, set="idle", connections=count)
            time.sleep(1.5)
            after = proxy.rss_kb()
            for name in ("first", "idle"):
                self.load.ask(do="close", set=name)
            time.sleep(1.5)
            found[kind] = [{"rss_before": before, "rss_with": after, "rss_released": proxy.rss_kb(), "kb_each": (after - before) / count}]
            self.stop(proxy)
        self.show(f"{count} idle websockets, each after one message", found, [("kB each", "kb_each"), ("RSS before kB", "rss_before"), ("RSS with kB", "rss_with"), ("RSS after kB", "rss_released")])
        if "orrery" in found:
            each = found["orrery"][0]["kb_each"]
            self.judge("memory of an idle websocket", f"{each:.1f} kB, aim at most 8", each <= 8)
        self.results["idle"] = found

    def adding(self) -> None:
        """Latency of adding a route while 100,000 exist; CHP gets as many as it takes in a bounded time."""
        found = {}
        contenders = {kind: (kind,) for kind in self.kinds() if kind != "nginx"}
        if "orrery" in contenders:
            contenders["orrery, file"] = ("orrery", "--threads", "1", "--state-file", "STATE")
        for name, (kind, *arguments) in contenders.items():
            state = self.work() / f"state-{os.getpid()}"
            proxy = self.start(kind, *(str(state) if argument == "STATE" else argument for argument in arguments))
            filled = proxy.add_routes(self.load, 0, MANY_MORE_ROUTES, seconds=self.options.fill_seconds, pipeline=64)
            proxy.add_routes(self.load, MANY_MORE_ROUTES, 200, pipeline=1)
            before = proxy.cpu_seconds()
            answer = proxy.add_routes(self.load, MANY_MORE_ROUTES + 200, 5_000, seconds=20, pipeline=1)
            answer |= {"present": filled["added"], "fill_seconds": filled["seconds"], "cpu_us": (proxy.cpu_seconds() - before) / answer["added"] * 1e6, "rss": proxy.rss_kb()}
            found[name] = [answer]
            self.stop(proxy)
            state.unlink(missing_ok=True)
        self.show("Adding a route to a large table", found, [("routes present", "present"), ("p50 us", "p50_us"), ("p99 us", "p99_us"), ("p99.9 us", "p999_us"), ("proxy us/route", "cpu_us"), ("RSS kB", "rss")])
        for name in ("orrery", "orrery, file"):
            if name in found:
                late = found[name][0]["p99_us"]
                enough = found[name][0]["present"] == MANY_MORE_ROUTES
                self.judge(f"adding a route ({name})", f"p99 {late:.0f} us with {found[name][0]['present']} routes, aim below 1000 with {MANY_MORE_ROUTES}", late < 1000 and enough)
        self.results["adding"] = found

    def threads(self) -> None:
        """One and two threads, both free to use both cores, as is the load.

        The load needs a part of the two cores as well. Several requests at once on each client's connection
        keep it small; what is left is what a second thread can win on a machine of two cores.
        """
        contenders = {
            f"{count} thread{'s'[: count - 1]}": self.with_users("orrery", "--threads", str(count), cores=PROXY_CORE | LOAD_CORE) for count in (1, 2)
        }
        os.sched_setaffinity(self.load.process.pid, PROXY_CORE | LOAD_CORE)
        command = {"do": "requests", "paths": paths("api/status"), "seconds": self.options.seconds, "pipeline": 8}
        try:
            found = self.rounds(contenders, 32, command)
        finally:
            os.sched_setaffinity(self.load.process.pid, LOAD_CORE)
        self.show("Threads, on both cores beside the load", found, self.REQUEST_COLUMNS)
        self.judge_ratio("two threads", found, "per_second", "2 threads", "1 thread", least=1.05)
        self.results["threads"] = found
        self.stop(*contenders.values())

    def work(self) -> Path:
        folder = places.CHECKOUT / "target" / "bench"
        folder.mkdir(parents=True, exist_ok=True)
        return folder


MEASUREMENTS = ["requests", "routes", "websockets", "transfers", "idle", "adding", "threads"]


def users() -> list[int]:
    return [number * MANY_ROUTES // USERS for number in range(USERS)]


def paths(rest: str) -> list[str]:
    return [f"/user/person-{number}/{rest}" for number in users()]


def median(rounds: list[dict], key: str) -> float | None:
    values = [one[key] for one in rounds if one.get(key) is not None]
    return statistics.median(values) if values else None


def paired(ours: list[dict], theirs: list[dict], key: str) -> float:
    return statistics.median(mine[key] / other[key] for mine, other in zip(ours, theirs, strict=True))


def number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def load_program(given: str | None) -> Path:
    if given:
        return Path(given)
    subprocess.run(["cargo", "build", "--release", "--locked", "--quiet", "-p", "orrery-bench-load"], cwd=places.CHECKOUT, check=True)
    target = Path(os.environ.get("CARGO_TARGET_DIR", places.CHECKOUT / "target"))
    return target / "release" / "orrery-bench-load"


def busy_seconds() -> float:
    """Time that all programs together had on all cores."""
    user, nice, system = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:4])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", type=lambda text: text.split(","), default=MEASUREMENTS, help=f"some of {','.join(MEASUREMENTS)}")
    parser.add_argument("--proxies", type=lambda text: text.split(","), default=list(KINDS), help=f"some of {','.join(KINDS)}")
    parser.add_argument("--rounds", type=int, default=15, help="how often each proxy is measured")
    parser.add_argument("--seconds", type=float, default=1, help="how long each time")
    parser.add_argument("--idle", type=int, default=4000, help="how many idle websockets")
    parser.add_argument("--fill-seconds", type=float, default=60, help="how long a proxy may take to be given 100,000 routes")
    parser.add_argument("--realtime", action="store_true", help="proxies and load go before all other programs (needs root), for a machine that others use too; the kernel takes them their cores for 50 ms in each second, so measure for whole seconds")
    parser.add_argument("--orrery", type=shlex.split, default=os.environ.get("ORRERY_PROXY_COMMAND"), help="the command instead of `orrery proxy`")
    parser.add_argument("--load", default=os.environ.get("ORRERY_BENCH_LOAD"), help="the load generator, instead of building it")
    parser.add_argument("--check", action="store_true", help="exit with 1 when an aim is missed")
    options = parser.parse_args()
    if unknown := (set(options.only) - set(MEASUREMENTS)) | (set(options.proxies) - set(KINDS)):
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    if os.cpu_count() < 2:
        raise SystemExit("two cores are needed: one for the proxy, one for the load")
    Orrery.program = options.orrery or []

    bench = Bench(options, load_program(options.load))
    begun, busy = time.monotonic(), busy_seconds()
    try:
        for what in MEASUREMENTS:
            if what in options.only:
                getattr(bench, what)()
    except LoadError as error:
        raise SystemExit(f"{what}: {error}")
    finally:
        bench.close()
    missed = [what for what, _, met in bench.verdicts if not met]
    print(f"\n{len(bench.verdicts) - len(missed)} of {len(bench.verdicts)} aims met" + (f"; missed: {'; '.join(missed)}" if missed else ""))
    bench.results["about"] = {
        "when": datetime.now(timezone.utc).isoformat(), "cores": os.cpu_count(), "machine": platform.machine(), "kernel": platform.release(),
        "seconds": time.monotonic() - begun, "busy_seconds": busy_seconds() - busy, "options": vars(options),
        "nginx": subprocess.run([proxies.nginx_program(), "-v"], stderr=subprocess.PIPE, text=True).stderr.strip(),
        "aims": [{"aim": what, "measured": said, "met": met} for what, said, met in bench.verdicts],
    }
    path = bench.work() / "proxy.json"
    path.write_text(json.dumps(bench.results, indent=2) + "\n")
    print(f"all numbers: {path}")
    sys.exit(0 if not missed or not options.check else 1)


if __name__ == "__main__":
    main()
