#!/usr/bin/env python3
"""The stream of events as a program sees it: the example of docs/events.md, through the proxy, over a hub that is
killed; and answers that are not sent again.

    python tests/events/run.py
"""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import requests

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness.client import api  # noqa: E402
from harness.hub import Hub  # noqa: E402
from harness.places import CHECKOUT  # noqa: E402
from harness.steps import Steps, exit_with, require, same, wait_until  # noqa: E402

ADMIN = "the-token-of-the-admins-service-0123456789"
READER = "the-token-of-the-readers-service-0123456789"
CONFIG = f"""
c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allow_all = True
c.JupyterHub.cleanup_servers = False
c.JupyterHub.services = [
    {{"name": "warden", "api_token": {ADMIN!r}}},
    {{"name": "reader", "api_token": {READER!r}}},
]
c.JupyterHub.load_roles = [
    {{"name": "warden", "scopes": ["admin:users", "admin:groups", "list:users", "list:groups"], "services": ["warden"]}},
    {{"name": "reader", "scopes": ["read:users:name!group=staff"], "services": ["reader"]}},
]
"""


class Example:
    """The program of the documentation, and the lines it prints."""

    def __init__(self, hub: Hub, token: str):
        page = (CHECKOUT / "docs" / "events.md").read_text()
        code = re.search(r"```python\n(.*?)```", page, re.S).group(1)
        require(len(code.strip().splitlines()) <= 20, "the example has grown")
        environment = {"PATH": os.environ["PATH"], "JUPYTERHUB_API_URL": hub.origin + "/hub/api", "JUPYTERHUB_API_TOKEN": token}
        self.process = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
        self.lines: list[str] = []
        self.reading = threading.Thread(target=self._read, daemon=True)
        self.reading.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.append(line.strip())

    def until(self, line: str, seconds: float = 20) -> None:
        wait_until(lambda: line in self.lines, f"{line!r} after {self.lines}", seconds, pause=0.02)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait(10)
        self.reading.join(10)


def tell_story(steps: Steps, hub: Hub, programs: list[Example]) -> None:
    def change(method: str, path: str, body: dict | None = None, status: int = 201) -> None:
        answer = api(hub.hub_origin, ADMIN, method, path, body=body)
        same(answer.status_code, status, f"{method} {path}: {answer.text}")

    with steps.step("the documentation's program is told at once, through the proxy"):
        watching, limited = Example(hub, ADMIN), Example(hub, READER)
        programs += [watching, limited]
        watching.until("open None None")
        limited.until("open None None")
        begun = time.monotonic()
        change("POST", "/users/ada")
        watching.until("user.created ada None")
        require(time.monotonic() - begun < 3, "a buffer kept it back")

    with steps.step("a limited program is told of whom it may see"):
        change("POST", "/users/bob")
        change("POST", "/groups/staff", {"users": ["bob"]})
        change("PATCH", "/users/bob", {"admin": False}, 200)
        change("DELETE", "/users/ada", status=204)
        change("DELETE", "/users/bob", status=204)
        watching.until("user.deleted bob None")
        limited.until("user.deleted bob None")
        require(not any("ada" in line for line in limited.lines), f"{limited.lines}")

    with steps.step("nothing is missed when the hub is killed"):
        before = len(watching.lines)
        os.kill(hub.process.pid, signal.SIGKILL)
        hub.wait_exit()
        hub.start()
        hub.wait_running()
        change("POST", "/users/carol")
        watching.until("user.created carol None")
        same(watching.lines[before:], ["open None None", "user.created carol None"], "what was told since")

    with steps.step("what a client has is not sent again, also through the proxy"):
        url, headers = hub.origin + "/hub/api/groups", {"Authorization": f"token {ADMIN}"}
        first = requests.get(url, headers=headers, timeout=10)
        same(first.status_code, 200, "the first time")
        again = requests.get(url, headers=headers | {"If-None-Match": first.headers["ETag"]}, timeout=10)
        same((again.status_code, again.content), (304, b""), "the second time")
        change("POST", "/groups/others", {})
        changed = requests.get(url, headers=headers | {"If-None-Match": first.headers["ETag"]}, timeout=10)
        same(changed.status_code, 200, "after a change")

    with steps.step("the hub ends while programs watch"):
        begun = time.monotonic()
        hub.process.send_signal(signal.SIGTERM)
        same(hub.wait_exit(), 0, "the exit code")
        require(time.monotonic() - begun < 4.5, "it waited for the streams")


def main() -> None:
    steps, programs = Steps("events"), []
    with Hub("orrery", CONFIG) as hub:
        try:
            hub.start().wait_running()
            tell_story(steps, hub, programs)
        finally:
            for program in programs:
                program.stop()
        if steps.failed:
            print("-- the end of the hub's log\n" + hub.log_tail(40))
    exit_with(steps.finish())


if __name__ == "__main__":
    main()
