#!/usr/bin/env python3
"""Bad input of every kind, each with the clear answer it must get.

    python tests/bad_input/run.py --hub upstream|orrery|both

`requests` holds for both hubs: what upstream answers is the measure, so it is proved there.
`start_up` and `servers` ask for more than upstream does and run against Orrery alone.
"""

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
sys.path.insert(0, str(HERE))
import bad_requests  # noqa: E402
import bad_servers  # noqa: E402
import bad_starts  # noqa: E402
from harness.hub import KINDS  # noqa: E402
from harness.steps import Steps, exit_with  # noqa: E402

PARTS = {"starts": bad_starts.tell, "servers": bad_servers.tell, "requests": bad_requests.tell}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hub", choices=[*KINDS, "both"], default="both")
    parser.add_argument("--only", choices=PARTS)
    options = parser.parse_args()
    code = 0
    for kind in KINDS if options.hub == "both" else [options.hub]:
        parts = [options.only] if options.only else list(PARTS)
        for part in parts:
            if kind == "upstream" and part != "requests":
                continue
            print(f"== bad input, {part}: {kind}", flush=True)
            steps = Steps(f"bad input {part} {kind}")
            PARTS[part](kind, steps)
            code = max(code, steps.finish())
    exit_with(code)


if __name__ == "__main__":
    main()
