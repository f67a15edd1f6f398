"""What a hub that cannot write must still do, and how it says what it cannot."""

import subprocess
import time

import requests

from harness.client import Person
from harness.hub import Hub, command, environment
from harness.steps import require, same, wait_until

from .crowd import ADMIN_TOKEN, PASSWORD, call

#: How long after the end of the trouble writing must work again.
BACK = 2.0


class Keeper:
    """Makes users and remembers those that the hub said were made."""

    def __init__(self, hub: Hub):
        self.hub, self.made = hub, []

    def make(self) -> requests.Response:
        name = f"kept{len(self.made)}"
        answer = call(self.hub.origin, "POST", f"/users/{name}")
        # 409: made by a request whose answer was a refusal, which promises nothing.
        if answer.status_code in (201, 409):
            self.made.append(name)
        return answer

    def check(self) -> None:
        for name in self.made:
            same(call(self.hub.origin, "GET", f"/users/{name}").status_code, 200, f"the user {name} that was made")


def start_server(hub: Hub, name: str) -> None:
    same(call(hub.origin, "POST", f"/users/{name}").status_code, 201, f"making {name}")
    require(call(hub.origin, "POST", f"/users/{name}/server").status_code in (201, 202), f"starting {name}'s server")
    wait_until(lambda: call(hub.origin, "GET", f"/users/{name}").json()["servers"].get("", {}).get("ready"), f"{name}'s server")


def refused(answer: requests.Response, status: int, word: str) -> None:
    same(answer.status_code, status, f"{answer.request.method} {answer.url}: {answer.text[:200]}")
    require(answer.headers.get("Retry-After", "").isdigit(), f"no Retry-After in {answer.headers}")
    require(word in answer.text, f"{word!r} is not in {answer.text[:300]}")


def changes_are_refused(hub: Hub, status: int, word: str) -> None:
    """Each kind of change is refused with a sentence, as JSON and as a page."""
    for method, path, body in [
        ("POST", "/users/newcomer", None),
        ("POST", "/users/ada/tokens", {"note": "refused"}),
        ("POST", "/users/bob/server", None),
        ("POST", "/groups/refused", None),
        ("PATCH", "/users/bob", {"name": "robert"}),
    ]:
        answer = call(hub.origin, method, path, json=body)
        refused(answer, status, word)
        same(answer.json()["status"], status, "status in the body")
    newcomer = Person(hub.origin, "newcomer", PASSWORD)
    answer = newcomer.sign_in()
    refused(answer, status, word)
    require("<html" in answer.text, "the refused login is no page")


def reading_works(hub: Hub) -> None:
    """What changes nothing works, logins of known people and running servers included."""
    same(call(hub.origin, "GET", "/users").status_code, 200, "GET /users")
    same(call(hub.origin, "GET", "/user").json()["name"], "outage", "who asks")
    ada = Person(hub.origin, "ada", PASSWORD)
    same(ada.sign_in().status_code, 302, "a login of somebody known")
    same(ada.page("/hub/home").status_code, 200, "GET /hub/home")
    answer = requests.get(f"{hub.origin}/user/ada/", timeout=10)
    same((answer.status_code, answer.json()["user"]), (200, "ada"), "a running server")


def works_again(keeper: Keeper) -> None:
    """Changes work within two seconds, without a restart, and nothing that was said to be made is lost."""
    begun = time.monotonic()
    while (answer := keeper.make()).status_code != 201:
        require(time.monotonic() - begun < BACK, f"still {answer.status_code} {answer.text[:200]}\n{keeper.hub.log_tail()}")
        time.sleep(0.05)
    keeper.check()
    require(keeper.hub.process.poll() is None, "the hub ended")
    bob = call(keeper.hub.origin, "POST", "/users/bob/server")
    require(bob.status_code in (201, 202), f"a start afterwards: {bob.status_code} {bob.text[:200]}")
    wait_until(lambda: call(keeper.hub.origin, "GET", "/users/bob").json()["servers"].get("", {}).get("ready"), "bob's server")
    require(call(keeper.hub.origin, "DELETE", "/users/bob/server").status_code in (202, 204), "stopping bob's server")
    wait_until(lambda: not call(keeper.hub.origin, "GET", "/users/bob").json()["servers"], "the end of bob's server")


def does_not_start(hub: Hub, *words: str) -> None:
    """A hub with this configuration refuses to start, and says why in one sentence."""
    done = subprocess.run(
        [*command("orrery"), "-f", str(hub.config_path)], cwd=hub.folder, env=environment(),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60,
    )
    require(done.returncode not in (0, 101), f"exit code {done.returncode}: {done.stdout[-2000:]}")
    last = done.stdout.strip().splitlines()[-1]
    require(all(word in last for word in words), f"the last line is not about {words}: {done.stdout[-2000:]}")
    require("panicked" not in done.stdout and ADMIN_TOKEN not in done.stdout, done.stdout[-2000:])
