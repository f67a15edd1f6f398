#!/usr/bin/env python3
"""What `make deb` and deploy/ansible install, on a clean Debian with systemd: install, use, upgrade, remove.

    python tests/install/run.py [--only package|ansible] [--shots FOLDER]

Needs root. The programs are taken as they were built last ($ORRERY_PROFILE, debug).
"""

import argparse
import signal
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import ansible_path  # noqa: E402
import package_path  # noqa: E402
from machine import package, places  # noqa: E402
from harness.steps import Steps, exit_with  # noqa: E402

SCENES = {"package": package_path.tell_story, "ansible": ansible_path.tell_story}


def run(scene: str, folder: Path, shots: Path) -> int:
    print(f"== install: {scene}", flush=True)
    steps = Steps(f"install {scene}")
    try:
        SCENES[scene](steps, folder, shots)
    except Exception as error:  # a machine that cannot be made is a failed step like others
        with steps.step("the clean machine"):
            raise error
    return steps.finish()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=SCENES)
    parser.add_argument("--shots", type=Path, default=places.CHECKOUT / "target" / "screenshots")
    options = parser.parse_args()
    # Ended by its limit of time, it still removes its machines.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    scenes = [options.only] if options.only else list(SCENES)
    with tempfile.TemporaryDirectory(prefix="orrery-install-") as name:
        folder = Path(name)
        for version in ("0.1.0-1", "0.1.0-2"):
            package(folder, version)
        exit_with(max(run(scene, folder, options.shots) for scene in scenes))


if __name__ == "__main__":
    main()
