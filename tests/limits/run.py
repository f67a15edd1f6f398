#!/usr/bin/env python3
"""Servers that are held to their limits by systemd, on a clean machine where it runs: the session helper alone.

    python tests/limits/run.py

Needs root. By control groups alone the Rust tests hold servers to limits.
"""

import json
import shutil
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "install"))
from machine import Machine, places  # noqa: E402
from harness.steps import Steps, exit_with, require, same, wait_until  # noqa: E402

LIMIT = 64 << 20
HOG = "head -c 150000000 /dev/zero | tail -c 150000000 >/dev/null"


def tell_story(steps: Steps, machine: Machine) -> None:
    with steps.step("the helper finds systemd"):
        same(ask(machine, "Abilities"), [{"Abilities": {"by": "systemd", "memory": True, "processor": True}}], "abilities")

    with steps.step("a server is in a unit of its own that has its limits, and goes with it"):
        answers = ask(machine, start("one", "cat /proc/self/cgroup; sleep 4"), wait=False)
        require("Started" in answers[0], f"{answers}")
        unit = "orrery-run-one.scope"
        for name, value in {
            "MemoryMax": str(LIMIT),
            "MemorySwapMax": "0",
            "MemoryLow": str(LIMIT // 2),
            "CPUQuotaPerSecUSec": "500ms",
            "CPUWeight": "25",
            "Slice": "orrery.slice",
        }.items():
            same(machine.shown(unit, name), value, name)
        require(unit in machine.file("/root/log").read_text(), "the server is not in its unit")
        wait_until(lambda: units(machine) == [], "the unit goes")

    with steps.step("a server that needs too much memory is ended, and only that one"):
        others = ask(machine, start("other", "sleep 10"), wait=False)
        require("Started" in others[0], f"{others}")
        same(ask(machine, start("two", HOG))[1:], [ended(137, True)], "the end")
        same(units(machine), ["orrery-run-other.scope"], "units that are left")
        wait_until(lambda: units(machine) == [], "the unit goes")

    with steps.step("one that was killed otherwise, or ended by itself, was not"):
        same(ask(machine, start("three", "kill -9 $$"))[1:], [ended(137, False)], "the end")
        same(ask(machine, start("four", "setsid sleep 1000 & exit 3"))[1:], [ended(3, False)], "the end")
        same(machine.processes("sleep 1000"), [], "what it left")

    with steps.step("limits and a PAM session go together"):
        answers = ask(machine, start("five", "cat /proc/self/cgroup; env", session={"service": "login"}))
        same(answers[1:], [ended(0, False)], "the end")
        log = machine.file("/root/log").read_text()
        require("orrery-run-five.scope" in log and "XDG_SESSION_ID=" in log, log)

    with steps.step("the machine is as well as before"):
        same(machine.run("systemctl", "is-system-running", check=False).strip(), "running", "systemd")
        same(units(machine), [], "units")


def start(name: str, script: str, session: dict | None = None) -> dict:
    limits = {"name": f"orrery-run-{name}", "mem_limit": LIMIT, "mem_guarantee": LIMIT // 2, "cpu_limit": 0.5, "cpu_guarantee": 0.25}
    environment = {"PATH": "/usr/bin:/bin"}
    command = ["sh", "-c", script]
    return {"Start": {"user": "ada", "command": command, "environment": environment, "folder": "/", "umask": None, "session": session, "limits": limits, "files": []}}


def ended(code: int, out_of_memory: bool) -> dict:
    return {"Ended": {"exit_code": code, "out_of_memory": out_of_memory}}


def ask(machine: Machine, request, wait: bool = True) -> list[dict]:
    """What the helper and the keeper answer: all of it, or the first when nobody waits for the end."""
    machine.file("/root/request").write_text(json.dumps(request))
    answers = machine.file("/root/answers")
    command = "orrery-session </root/request >/root/answers 2>/root/log"
    machine.run("sh", "-c", command)
    deadline = time.monotonic() + 30
    while True:
        lines = answers.read_text().splitlines()
        found = [json.loads(line) for line in lines if line.endswith("}")]
        is_start = isinstance(request, dict)
        if len(found) == (2 if wait and is_start and "Started" in found[0] else 1):
            return found
        require(time.monotonic() < deadline, f"no answer within 30 s: {lines}\n{machine.file('/root/log').read_text()}")
        time.sleep(0.05)


def units(machine: Machine) -> list[str]:
    shown = machine.run("systemctl", "list-units", "--all", "--plain", "--no-legend", "--no-pager", "orrery-run*")
    return [line.split()[0] for line in shown.splitlines() if line.strip()]


def main() -> None:
    steps = Steps("limits by systemd")
    with Machine("limits") as machine:
        helper = places.orrery_binary().with_name("orrery-session")
        shutil.copy(helper, machine.file("/usr/local/bin/orrery-session"))
        machine.add_people("ada")
        tell_story(steps, machine)
    exit_with(steps.finish())


if __name__ == "__main__":
    main()
