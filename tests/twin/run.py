"""The twins: the same requests to JupyterHub 6.1.1 with configurable-http-proxy and to ours, and no unexplained difference.

    run.py                       all cases
    run.py --only users          cases whose name has this word in it
    run.py --show                print both outcomes of each case
    run.py --list                print the names of the cases
    run.py --write-docs          write the table of docs/api-differences.md anew
"""

import argparse
import importlib
import re
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import documents  # noqa: E402
from coverage import COVERAGE  # noqa: E402
from differences import EVERYWHERE, REASONS  # noqa: E402
from harness.steps import Steps, exit_with, require, same  # noqa: E402
from suite import ANY, CASES, Case, differing, judge, listed, matches, refused_badly, short  # noqa: E402
from wire import Wire  # noqa: E402
from world import new_world  # noqa: E402

#: In this order: cases change what later ones see.
AREAS = sorted((file.stem for file in (Path(__file__).parent / "cases").glob("*.py")), key=lambda area: (area == "shutdown", area))

#: How often each pair of EVERYWHERE was seen.
SEEN: Counter = Counter()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--area", action="append", choices=AREAS, help="a file of cases/")
    parser.add_argument("--show", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--write-docs", action="store_true")
    arguments = parser.parse_args()
    if arguments.write_docs:
        documents.write(REASONS)
        return 0
    for area in arguments.area or AREAS:
        importlib.import_module(f"cases.{area}")
    chosen = [case for case in CASES.values() if not arguments.only or any(word in case.name for word in arguments.only)]
    if arguments.list:
        print("\n".join(case.name for case in chosen))
        return 0
    steps = Steps("twin")
    begun = time.monotonic()
    with new_world() as world:
        world.make()
        print(f"both hubs run after {time.monotonic() - begun:.1f} s", flush=True)
        wires = [Wire(world, kind) for kind in ("upstream", "orrery")]
        statuses: Counter = Counter()
        with ThreadPoolExecutor(2) as pool:
            for case in chosen:
                run_case(case, wires, pool, steps, statuses, arguments.show)
        if "last: shutdown" in [case.name for case in chosen]:
            with steps.step("last: both hubs end well"):
                same([world.hubs[kind].wait_exit() for kind in ("upstream", "orrery")], [0, 0], "exit codes")
    if not arguments.only and not arguments.area:
        check_lists(steps)
    answers = ", ".join(f"{count} of {status}" for status, count in sorted(statuses.items()))
    print(f"{len(chosen)} cases, {time.monotonic() - begun:.0f} s; JupyterHub's answers: {answers}", flush=True)
    return steps.finish()


def run_case(case: Case, wires: list[Wire], pool: ThreadPoolExecutor, steps: Steps, statuses: Counter, show: bool) -> None:
    with steps.step(case.name):
        upstream, ours = both(pool, [wire.run for wire in wires], case)
        if case.then and (upstream != ours or any(part.endswith("status") and value < 400 or part.endswith("database") for part, value in upstream.items())):
            for outcome, more in zip((upstream, ours), both(pool, [wire.run_then for wire in wires], case)):
                outcome |= more
        statuses.update(value for part, value in upstream.items() if part.endswith("status"))
        if show:
            for part in sorted(set(upstream) | set(ours)):
                print(f"      {part}: {short(upstream.get(part))}", flush=True)
        require(not (unsound := refused_badly(upstream, ours)), unsound)
        different = differing(upstream, ours)
        for part, pair in list(different.items()):
            kind = part.rpartition(": ")[2]
            for known in EVERYWHERE.get(kind, ()):
                if all(wanted in (ANY, got) for wanted, got in zip(known, pair)):
                    SEEN[kind, known] += 1
                    different.pop(part, None)
        wrong = judge(different, listed(REASONS, case.name))
        require(not wrong, wrong)


def both(pool: ThreadPoolExecutor, runs: list, case: Case) -> list[dict]:
    return [ended.result() for ended in [pool.submit(run, case) for run in runs]]


def check_lists(steps: Steps) -> None:
    with steps.step("each difference that is listed for all cases is seen"):
        unseen = {(part, pair) for part, pairs in EVERYWHERE.items() for pair in pairs} - set(SEEN)
        require(not unseen, f"not seen: {unseen}")
    with steps.step("each listed difference is of a case"):
        patterns = [pattern for reason in REASONS for pattern in reason.cases]
        unknown = [pattern for pattern in patterns if not any(matches(name, pattern) for name in CASES)]
        require(not unknown, f"no such cases: {unknown}")
    with steps.step("each of JupyterHub's tests that speak HTTP has its cases"):
        require(not (gaps := coverage_gaps()), "\n".join(gaps))
    with steps.step("docs/api-differences.md tells of each difference"):
        require(documents.fresh(REASONS), "it is not what differences.py says; run tests/twin/run.py --write-docs")


def coverage_gaps() -> list[str]:
    """Tests of JupyterHub without a line in `coverage.py`, and lines that are of no test or no case."""
    gaps = []
    for module, tests in COVERAGE.items():
        source = Path(importlib.import_module("jupyterhub").__file__).parent / "tests" / f"{module}.py"
        there = set(re.findall(r"^(?:async )?def (test_\w+)", source.read_text(), re.MULTILINE))
        gaps += [f"{module}: {test} is not in coverage.py" for test in sorted(there - set(tests))]
        gaps += [f"{module}: there is no {test}" for test in sorted(set(tests) - there)]
        for test, patterns in tests.items():
            gaps += [f"{module}: {test}: no case is called {pattern!r}" for pattern in ([] if isinstance(patterns, str) else patterns) if not any(matches(name, pattern) for name in CASES)]
    return gaps


if __name__ == "__main__":
    exit_with(main())
