#!/usr/bin/env python3
"""The hub's database goes away, fills up or can only be read, while people work with the hub.

    python tests/outage/run.py [restarts] [room] [read-only] [--rounds 20]

Nothing that was acknowledged may be lost, nobody may see an error of the hub's own (500), and the hub
must be back by itself. PostgreSQL and MariaDB are throw-away servers that the test starts and stops.
The full disk is a small file system in memory, which needs root.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness.databases import Servers  # noqa: E402
from harness.steps import Steps, exit_with  # noqa: E402
from outage import no_room, read_only, restarts  # noqa: E402

PARTS = ("restarts", "room", "read-only")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", default=[])
    parser.add_argument("--rounds", type=int, default=20, help="restarts of PostgreSQL; MariaDB has a fourth of them")
    given = parser.parse_args()
    parts = given.parts or PARTS
    steps = Steps("outage")
    if "room" in parts:
        no_room.tell(steps)
    with Servers() as servers:
        if "restarts" in parts:
            restarts.tell(steps, servers, "postgres", given.rounds)
            restarts.tell(steps, servers, "mysql", max(1, given.rounds // 4))
        if "read-only" in parts:
            read_only.tell(steps, servers)
    exit_with(steps.finish())


if __name__ == "__main__":
    main()
