#!/usr/bin/env python3
"""Where the proxy's time goes under the load of bench.py: shares by kind of work, a flame graph if asked for.

    python bench/proxy/profile.py [--what requests|browser|echo] [--proxy orrery|nginx] [--flame-graph FILE]

Needs `perf` and the right to use it; for the flame graph `inferno-flamegraph` (cargo install inferno).
"""

import argparse
import collections
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import bench  # noqa: E402
from proxies import Orrery, Proxy  # noqa: E402

COMMANDS = {
    "requests": (32, {"do": "requests", "paths": bench.paths("api/status")}),
    "browser": (32, {"do": "requests", "paths": bench.paths("api/status"), "browser": True}),
    "echo": (200, {"do": "echo"}),
}
# The first that matches a frame of the kernel, seen from the innermost, says what the kernel did.
KERNEL = [
    ("kernel: hand over to the other side of the loopback", r"^(net_rx_action|process_backlog|handle_softirqs|do_softirq)"),
    ("kernel: send", r"^(__x64_sys_sendto|__x64_sys_writev|__sys_sendto|do_writev|vfs_writev|__x64_sys_write)"),
    ("kernel: receive", r"^(__x64_sys_recvfrom|__sys_recvfrom|__x64_sys_read)"),
    ("kernel: wait for events", r"epoll"),
    ("kernel: interrupts and switches", r"(irq|schedule|interrupt)"),
]
# The innermost frame of the program says what it did.
PROGRAM = [
    ("program: runtime (tokio)", r"tokio|TrackedFuture|mio::"),
    ("program: read heads", r"httparse|http1::head|EndScan|may_begin"),
    ("program: write heads", r"write_request|write_head|write_field|forwarded|write_target|redirects"),
    ("program: find the route", r"routes|trie|persistent_map|orrery_proxy::path|percent_encoding|find_route|sip|Hasher"),
    ("program: bodies and their framing", r"framing|outbox|tunnel"),
    ("program: connections to servers", r"pool"),
    ("program: counts, times, log", r"metrics|clock_gettime|Timespec|Instant|access_log|Exchange::log"),
    ("program: memory", r"malloc|calloc|realloc|_int_free|cfree|alloc::"),
    ("program: copying and comparing", r"memmove|memcpy|memcmp|memset|memchr"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--what", choices=COMMANDS, default="requests")
    parser.add_argument("--proxy", choices=["orrery", "nginx"], default="orrery")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--orrery", type=shlex.split, default=os.environ.get("ORRERY_PROXY_COMMAND"), help="the command instead of `orrery proxy`")
    parser.add_argument("--load", default=os.environ.get("ORRERY_BENCH_LOAD"), help="the load generator, instead of building it")
    parser.add_argument("--flame-graph", type=Path, metavar="FILE")
    parser.add_argument("--symbols", type=int, default=0, help="how many of the most frequent functions to list")
    options = parser.parse_args()
    if not shutil.which("perf"):
        raise SystemExit("perf is missing")
    Orrery.program = options.orrery or []
    options.realtime, options.proxies, options.rounds = False, [options.proxy], 1
    running = bench.Bench(options, bench.load_program(options.load))
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "perf.data"
        try:
            proxy = running.with_users(options.proxy)
            connections, command = COMMANDS[options.what]
            seconds = options.seconds
            recorder = subprocess.Popen(
                ["perf", "record", "-q", "-e", "cpu-clock", "-F", "5000", "-g", "-t", str(thread(proxy)), "-o", str(data), "--", "sleep", str(seconds)],
            )
            answer = running.rounds({"profiled": proxy}, connections, command | {"seconds": seconds})["profiled"][0]
            recorder.wait(seconds + 30)
        finally:
            running.close()
        script = subprocess.run(["perf", "script", "-i", str(data), "-F", "comm,ip,sym,dso"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True).stdout
    stacks = read_stacks(script)
    report(stacks, answer, options.symbols)
    if options.flame_graph:
        flame_graph(stacks, options.flame_graph)


def thread(proxy: Proxy) -> int:
    """The thread or worker process that serves."""
    pid = proxy.pids()[-1]
    for task in Path(f"/proc/{pid}/task").iterdir():
        if (task / "comm").read_text().startswith("proxy-0"):
            return int(task.name)
    return pid


def read_stacks(script: str) -> collections.Counter:
    """Stacks from the innermost frame, each a tuple of (function, whether it is the kernel's), with how often each was seen."""
    stacks: collections.Counter = collections.Counter()
    for block in script.split("\n\n"):
        frames = []
        for line in block.splitlines()[1:]:
            if found := re.match(r"\s*[0-9a-f]+ (.*) \((.*)\)$", line):
                frames.append((found.group(1).split("+0x")[0], "kernel" in found.group(2)))
        if frames:
            stacks[tuple(frames)] += 1
    return stacks


def kind(stack: tuple) -> str:
    function, in_kernel = stack[0]
    if in_kernel:
        for name, pattern in KERNEL:
            if any(re.search(pattern, frame) for frame, of_kernel in stack if of_kernel):
                return name
        return "kernel: the rest"
    for name, pattern in PROGRAM:
        if re.search(pattern, function):
            return name
    return "program: the rest"


def report(stacks: collections.Counter, answer: dict, symbols: int) -> None:
    total = sum(stacks.values())
    kinds: collections.Counter = collections.Counter()
    functions: collections.Counter = collections.Counter()
    for stack, count in stacks.items():
        kinds[kind(stack)] += count
        functions[stack[0][0]] += count
    each = answer["cpu_us"]
    print(f"{total} samples; {each:.1f} us of the core for each answer")
    for name, count in sorted(kinds.items(), key=lambda item: (item[0].split(":")[0], -item[1])):
        print(f"  {name:54}{100 * count / total:6.1f} %{each * count / total:8.2f} us")
    for name, count in functions.most_common(symbols):
        print(f"  {100 * count / total:6.2f} %  {name}")


def flame_graph(stacks: collections.Counter, path: Path) -> None:
    program = shutil.which("inferno-flamegraph")
    if not program:
        raise SystemExit("inferno-flamegraph is missing: cargo install inferno")
    folded = "".join(f"{';'.join(frame.replace(';', ',') for frame, _ in reversed(stack))} {count}\n" for stack, count in stacks.items())
    with path.open("w") as out:
        subprocess.run([program, "--title", "orrery proxy"], input=folded, stdout=out, text=True, check=True)


if __name__ == "__main__":
    main()
