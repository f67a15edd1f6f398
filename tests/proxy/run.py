"""The proxy's conformance: the same cases against configurable-http-proxy and against ours.

    run.py                       all cases, both proxies
    run.py --only paths          cases whose name has this word in it
    run.py --kind orrery         one of the two
    run.py --write-docs          write the table of docs/proxy-differences.md anew
"""

import argparse
import importlib
import re
import shutil
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import documents  # noqa: E402
from differences import DIFFERENCES, REASONS  # noqa: E402
from harness.steps import Steps, exit_with, require  # noqa: E402
from proxies import CHP, KINDS, Site, original_options  # noqa: E402
from servers import Server  # noqa: E402
from suite import CASES, Case, judge, normal  # noqa: E402

AREAS = ["paths", "headers", "bodies", "upgrades", "api", "failures", "metrics", "logs", "programs", "tls", "framing", "activity"]
for area in AREAS:
    importlib.import_module(f"cases.{area}")

#: How long a case waits for what must come, and for what the original is known not to send.
PATIENCE, SHORT_PATIENCE = 15.0, 3.0


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--kind", choices=KINDS, action="append")
    parser.add_argument("--write-docs", action="store_true")
    parser.add_argument("--raw", action="store_true", help="print what was seen in failed cases as Python")
    arguments = parser.parse_args()
    if arguments.write_docs:
        documents.write(REASONS)
        return 0
    chosen = [case for case in CASES.values() if not arguments.only or any(word in case.name for word in arguments.only)]
    kinds = arguments.kind or KINDS
    steps = {kind: Steps(f"proxy conformance {kind}") for kind in kinds}
    Site.shared = Path(tempfile.mkdtemp(prefix="orrery-pc-", dir="/tmp"))
    begun = time.monotonic()
    try:
        groups: dict[tuple, list[Case]] = {}
        for number, case in enumerate(chosen):
            key = (number,) if case.options is None else (case.options, case.default, case.variables)
            groups.setdefault(key, []).append(case)
        # The longest first, so that no long one is left at the end.
        ordered = sorted(groups.values(), key=len, reverse=True)
        with ThreadPoolExecutor(8) as pool:
            for ended in [pool.submit(run_group, kind, group, steps[kind], arguments.raw) for group in ordered for kind in kinds]:
                ended.result()
    finally:
        shutil.rmtree(Site.shared, ignore_errors=True)
    if not arguments.only and not arguments.kind:
        check_lists(steps[kinds[-1]])
    print(f"{len(chosen)} cases, {time.monotonic() - begun:.0f} s", flush=True)
    return max([one.finish() for one in steps.values()])


def run_group(kind: str, group: list[Case], steps: Steps, raw: bool) -> None:
    first = group[0]
    # It must not end a connection just when a proxy uses it again.
    with Site(kind, PATIENCE) as site, Server(patience=900) as echo:
        if first.options is None:
            return run_case(site, first, steps, raw)
        try:
            proxy = site.start(*first.options, default=echo.url if first.default else None, variables=dict(first.variables))
            proxy.echo = echo
        except Exception as error:
            for case in group:
                with steps.step(case.name):
                    raise AssertionError(f"the proxy did not start with {first.options}: {error}")
            return
        numbers = iter(range(len(group)))
        lock = threading.Lock()

        def one(case: Case) -> None:
            with lock:
                number = next(numbers)
            # A proxy of its own for each case as far as settings go; the process is shared.
            run_case(View(proxy, f"/c{number}"), case, steps, raw)

        together = [case for case in group if not case.alone]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(one, together))
        for case in group:
            if case.alone:
                one(case)


class View:
    """A shared proxy as one case sees it: with its own patience, and a prefix for its routes."""

    def __init__(self, proxy, prefix: str):
        self.__dict__.update(proxy.__dict__)
        self.prefix = prefix
        self._class = type(proxy)

    def __getattr__(self, name: str):
        return getattr(self._class, name).__get__(self)


def run_case(subject, case: Case, steps: Steps, raw: bool) -> None:
    kind = subject.kind
    difference = DIFFERENCES.get(case.name) if kind == CHP else None
    waits = difference and any(word in repr(difference.chp) for word in ("no answer", "runs on"))
    subject.patience = SHORT_PATIENCE if waits else PATIENCE
    with steps.step(case.name):
        got = case.run(subject)
        wrong = judge(kind, case, got, difference)
        if wrong and raw:
            wrong += f"\n@@ {kind} {case.name!r}: {normal(got)!r},"
        require(not wrong, wrong)


def check_lists(steps: Steps) -> None:
    with steps.step("each option of the original is given to a proxy in some case"):
        sources = "".join(file.read_text() for file in Path(__file__).parent.glob("cases/*.py"))
        sources += (Path(__file__).parent / "proxies.py").read_text()
        options = original_options()
        require(len(options) > 45, f"the original's options: {options}")
        missing = [option for option in options if not re.search(rf"""["']{option}["'=]""", sources)]
        require(missing in ([], ["--help"]), f"in no case: {missing}")
    with steps.step("each listed difference is of a case, and right nowhere"):
        unknown = sorted(set(DIFFERENCES) - set(CASES))
        require(not unknown, f"no such cases: {unknown}")
        require(all(reason.cases for reason in REASONS), "a reason without a case")
    with steps.step("docs/proxy-differences.md tells of each difference"):
        require(documents.fresh(REASONS), "it is not what differences.py says; run tests/proxy/run.py --write-docs")


if __name__ == "__main__":
    exit_with(main())
