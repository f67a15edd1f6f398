#!/usr/bin/env python3
"""Restarts lose nothing: the hub and its proxy are killed in every way, and the story goes on.

    python tests/chaos/run.py [restarts] [signals] [faults] [random] [--rounds 20] [--random-rounds 1000] [--spawner simple]

Fault points need a build of the program with the feature `fault-points`, as
`cargo build --workspace --all-targets` makes it. `--seed` repeats a run at random as far as times allow.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from chaos import at_random, faults, restarts, signals  # noqa: E402
from harness import reachable  # noqa: E402
from harness.hub import KINDS  # noqa: E402
from harness.steps import Steps, exit_with  # noqa: E402
from harness.system_users import SystemUsers  # noqa: E402

PARTS = ("restarts", "signals", "faults", "random")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", default=[])
    parser.add_argument("--rounds", type=int, default=20, help="deaths at each fault point")
    parser.add_argument("--random-rounds", type=int, default=1000, help="starts and stops under random deaths")
    parser.add_argument("--only", default="", help="only the fault points whose step's name contains this")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--spawner", choices=["simple", "local"], default="simple", help="local: as two real users of the system; needs root")
    parser.add_argument("--hub", choices=[*KINDS, "both"], default="both", help="whose restarts")
    given = parser.parse_args()
    if given.spawner == "simple":
        exit_with(tell(given))
    reachable.ensure()
    with SystemUsers("ada", "bob", password="nobody logs in with this one") as accounts:
        code = tell(given, list(accounts.names.values()))
    exit_with(code)


def tell(given: argparse.Namespace, users: list[str] | None = None) -> int:
    parts = given.parts or PARTS
    steps = Steps(f"chaos {given.spawner}")
    if "restarts" in parts:
        for kind in KINDS if given.hub == "both" else [given.hub]:
            print(f"== restarts: {kind}", flush=True)
            restarts.tell(kind, steps)
    if "signals" in parts:
        signals.tell(steps)
    if "faults" in parts:
        faults.tell(steps, given.rounds, given.spawner, users, given.only)
    if "random" in parts:
        at_random.tell(steps, given.random_rounds, given.seed, given.spawner, users)
    return steps.finish()


if __name__ == "__main__":
    main()
