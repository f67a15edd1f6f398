"""Servers that do not come up: the person learns why, in the API, in the progress and on the page."""

import html
import re
import time
from pathlib import Path

from harness.client import Person
from harness.hub import Hub, session_members
from harness.steps import Steps, require, same, wait_until

PASSWORD = "a-password-for-bad-servers"
CONFIG = f"""
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = {PASSWORD!r}
c.Authenticator.allow_all = True
c.Spawner.start_timeout = 12
c.Spawner.http_timeout = 4
c.SimpleLocalProcessSpawner.interrupt_timeout = 2
c.Spawner.args = []
"""
LAST_WORDS = "cannot open <the> home folder: No space left on device"
MOODS = {
    "missing": ["no-such-program-xyz"],
    "not executable": ["/etc/hostname"],
    "ends": ["sh", "-c", f"for i in 1 2 3 4 5; do echo line $i; done; echo '{LAST_WORDS}' >&2; exit 3"],
    "ends well": ["sh", "-c", "echo I have nothing to do; exit 0"],
    "killed": ["sh", "-c", "echo goodbye; kill -9 $$"],
    "silent": ["sleep", "1000"],
}


def tell(kind: str, steps: Steps) -> None:
    for mood, program in MOODS.items():
        with Hub(kind, CONFIG + f"c.Spawner.cmd = {program!r}\n") as hub:
            with steps.step(f"server {mood}: the hub starts"):
                hub.start().wait_ready()
            ada = Person(hub.origin, "ada", PASSWORD)
            with steps.step(f"server {mood}: ada logs in"):
                same(ada.sign_in().status_code, 302, "POST /hub/login")
            EXPECTATIONS[mood](hub, ada, steps, mood)


def try_once(ada: Person) -> tuple[dict, float]:
    """Ask for the server by the page, follow the progress to its failure; gives that event and how long it took."""
    begun = time.monotonic()
    page = ada.page("/hub/spawn")
    require(page.status_code in (200, 500), f"GET /hub/spawn: {page.status_code}")
    last = ada.progress()[-1]
    require(last.get("failed") is True, f"the last event is no failure: {last}")
    same(last["progress"], 100, "progress of the failure")
    return last, time.monotonic() - begun


def words(page) -> str:
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"(?s)<script.*?</script>|<[^>]*>", " ", page.text)))


def shows(ada: Person, steps: Steps, mood: str, *patterns: str) -> None:
    with steps.step(f"server {mood}: the page says so, with 500, and offers to try again"):
        page = ada.page("/hub/spawn-pending/ada")
        same(page.status_code, 500, "GET /hub/spawn-pending/ada")
        for pattern in patterns:
            require(re.search(pattern, words(page), re.IGNORECASE), f"the page does not say {pattern!r}: {words(page)[:1500]}")
        require("/hub/spawn/ada" in page.text, "no link to try again")
    with steps.step(f"server {mood}: it counts as stopped"):
        model = ada.call("GET", "/hub/api/users/ada").json()
        same((model["server"], model["pending"], model["servers"]), (None, None, {}), "the model")
        home = ada.page("/hub/home")
        same(home.status_code, 200, "GET /hub/home")
        require('id="stop"' not in home.text, "home offers to stop it")
    with steps.step(f"server {mood}: the API says why, as JSON, and never a page"):
        answer = ada.call("POST", "/hub/api/users/ada/server", {})
        if answer.status_code == 202:
            last = ada.progress()[-1]
            require(last.get("failed") is True, f"the last event is no failure: {last}")
            said = last["message"]
        else:
            same(answer.status_code, 500, "POST server")
            said = answer.json()["message"]
        require(re.search(patterns[0], said, re.IGNORECASE), f"the API does not say {patterns[0]!r}: {said}")


def missing(hub: Hub, ada: Person, steps: Steps, mood: str) -> None:
    with steps.step(f"server {mood}: the failure names the program, at once"):
        last, seconds = try_once(ada)
        require("no-such-program-xyz" in last["message"], f"message: {last['message']}")
        require(seconds < 3, f"it took {seconds:.1f} s")
    shows(ada, steps, mood, r"no-such-program-xyz")


def not_executable(hub: Hub, ada: Person, steps: Steps, mood: str) -> None:
    with steps.step(f"server {mood}: the failure names the program, at once"):
        last, seconds = try_once(ada)
        require("/etc/hostname" in last["message"], f"message: {last['message']}")
        require(seconds < 3, f"it took {seconds:.1f} s")
    shows(ada, steps, mood, r"/etc/hostname")


def ends(hub: Hub, ada: Person, steps: Steps, mood: str) -> None:
    with steps.step(f"server {mood}: the failure has the exit code and the last log lines, at once"):
        last, seconds = try_once(ada)
        told = last["message"] + " " + html.unescape(str(last.get("html_message", ""))) + " " + str(last)
        require(re.search(r"\b3\b", last["message"]), f"no exit code: {last}")
        require("No space left on device" in told, f"no log line: {last}")
        require("<the>" not in last.get("html_message", ""), f"not escaped: {last}")
        require(seconds < 3, f"it took {seconds:.1f} s, though the end could be seen at once")
    shows(ada, steps, mood, r"\b3\b", r"cannot open <the> home folder: No space left on device", r"line 5")


def ends_well(hub: Hub, ada: Person, steps: Steps, mood: str) -> None:
    with steps.step(f"server {mood}: ending with 0 is a failure too"):
        last, seconds = try_once(ada)
        require(re.search(r"\b0\b", last["message"]), f"no exit code: {last}")
        require(seconds < 3, f"it took {seconds:.1f} s")
    shows(ada, steps, mood, r"\b0\b", r"I have nothing to do")


def killed(hub: Hub, ada: Person, steps: Steps, mood: str) -> None:
    with steps.step(f"server {mood}: the failure names the signal"):
        last, _ = try_once(ada)
        require(re.search(r"signal|kill", last["message"], re.IGNORECASE) and "9" in last["message"], f"message: {last['message']}")
    shows(ada, steps, mood, r"\b9\b", r"goodbye")


def silent(hub: Hub, ada: Person, steps: Steps, mood: str) -> None:
    with steps.step(f"server {mood}: the failure comes at http_timeout and says how long was waited"):
        last, seconds = try_once(ada)
        require(re.search(r"\b4\b", last["message"]), f"no time: {last['message']}")
        require(3 < seconds < 11, f"it took {seconds:.1f} s")
    with steps.step(f"server {mood}: its process is ended"):
        wait_until(lambda: not sleepers(hub), "the end of the process", 10)
    with steps.step(f"server {mood}: a pending start can be cancelled"):
        ada.page("/hub/spawn")
        wait_until(lambda: ada.call("GET", "/hub/api/users/ada").json()["pending"] == "spawn", "pending", 3)
        answer = ada.call("DELETE", "/hub/api/users/ada/server")
        require(answer.status_code in (202, 204), f"DELETE: {answer.status_code} {answer.text}")
        wait_until(lambda: ada.call("GET", "/hub/api/users/ada").json()["servers"] == {}, "the end", 8)
        wait_until(lambda: not sleepers(hub), "the end of the process", 8)
    with steps.step(f"server {mood}: after a new failure"):
        try_once(ada)
    shows(ada, steps, mood, r"\b4\b")


def sleepers(hub: Hub) -> list[int]:
    found = []
    for pid in session_members(hub.process.pid):
        try:
            if (Path("/proc") / str(pid) / "cmdline").read_bytes().split(b"\0")[:2] == [b"sleep", b"1000"]:
                found.append(pid)
        except OSError:
            pass
    return found


EXPECTATIONS = {"missing": missing, "not executable": not_executable, "ends": ends, "ends well": ends_well, "killed": killed, "silent": silent}
