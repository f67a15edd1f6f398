#!/usr/bin/env python3
"""One database, two programs: JupyterHub 6.1.1 makes it, Orrery goes on with it, JupyterHub has it back.

    python tests/databases_story/run.py [sqlite] [postgres] [mysql]

Everything is real: JupyterHub with its own proxy, Orrery with its own, the same configuration file, the
same people with the same cookies and tokens, and JupyterLab servers that run on while the hubs change.
"""

import argparse
import contextlib
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness.client import Person, api  # noqa: E402
from harness.databases import KINDS, Servers, running  # noqa: E402
from harness.hub import Hub  # noqa: E402
from harness.steps import Steps, exit_with, require, same, wait_until  # noqa: E402

PASSWORD = "a-password-for-the-database-story"
SERVICE_TOKEN = "the-token-of-the-keeper-service-0123456789"
OTHER_SERVICE_TOKEN = "the-token-of-the-reader-service-0123456789"
#: The first encrypts; what the second encrypted stays readable.
KEYS = "5f" * 32 + ";" + "a0" * 32
CONFIG = f"""
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = {PASSWORD!r}
c.Authenticator.allow_all = True
c.Authenticator.enable_auth_state = True
c.JupyterHub.cleanup_servers = False
c.JupyterHub.allow_named_servers = True
c.JupyterHub.services = [
    {{"name": "keeper", "api_token": {SERVICE_TOKEN!r}}},
    {{"name": "reader", "api_token": {OTHER_SERVICE_TOKEN!r}}},
]
c.JupyterHub.load_roles = [
    {{"name": "keeper", "services": ["keeper"], "scopes": [
        "admin:users", "admin:servers", "admin:groups", "list:users", "list:groups", "tokens", "access:servers",
        "shares", "read:roles", "list:services"]}},
    {{"name": "reader", "services": ["reader"], "scopes": ["list:users", "read:users:name"]}},
    {{"name": "helper", "description": "Helps others", "groups": ["staff"], "users": ["bob"], "scopes": ["read:users!group=staff"]}},
]
c.JupyterHub.load_groups = {{"staff": {{"users": ["ada", "bob"], "properties": {{"quota": 3}}}}}}
"""
#: Fields that time changes, that each life of a hub gives anew, that MariaDB keeps to the second while
#: JupyterHub still knows more, or in which a spawner keeps what it likes.
PASSING = {"last_activity", "created", "created_at", "expires_at", "started", "token_id", "session_id", "state"}


class Story:
    def __init__(self, kind: str, url: str | None, steps: Steps):
        self.kind, self.steps = kind, steps
        config = CONFIG + (f"c.JupyterHub.db_url = {url!r}\n" if url else "")
        self.hub = Hub("upstream", config)
        self.ada, self.bob = Person(self.hub.origin, "ada", PASSWORD), Person(self.hub.origin, "bob", PASSWORD)
        #: What each token's owner and scopes are, by a name for the token.
        self.tokens: dict[str, str] = {"keeper": SERVICE_TOKEN, "reader": OTHER_SERVICE_TOKEN}
        self.owners: dict[str, dict] = {}
        self.pids: dict[str, int] = {}

    def tell(self) -> None:
        with contextlib.closing(self):
            for name, chapter in [
                ("JupyterHub makes it", self.made_by_jupyterhub),
                ("Orrery opens it", self.opened_by_orrery),
                ("Orrery changes it", self.changed_by_orrery),
                ("JupyterHub has it back", self.opened_by_jupyterhub_again),
            ]:
                failed = len(self.steps.failed)
                chapter()
                if len(self.steps.failed) > failed:
                    print(f"      the log's end, of {name!r}:\n{self.hub.log_tail(15)}", flush=True)

    def close(self) -> None:
        self.hub.stop()

    def step(self, name: str):
        return self.steps.step(f"{self.kind}: {name}")

    # --- chapters

    def made_by_jupyterhub(self) -> None:
        self.begin("upstream")
        with self.step("JupyterHub makes users, tokens and auth state"):
            for name in ("ada", "bob", "grace", "old"):
                self.call("POST", f"/users/{name}", {}, expected=(201, 409))
            self.token("of ada", "ada", {"note": "made by JupyterHub"})
            self.token("of bob for a day", "bob", {"expires_in": 86400})
            self.token("of bob for little", "bob", {"scopes": ["read:users:name!user=bob"]})
            self.token("of ada, to be revoked", "ada", {})
            self.call("PATCH", "/users/grace", {"auth_state": {"from": "JupyterHub", "nested": {"ü": [1, 2.5, None]}}})
            self.call("DELETE", "/users/old")
        with self.step("JupyterHub starts a server, which is opened in a browser"):
            self.log_in_and_start(self.ada)
        with self.step("JupyterHub shares the server"):
            self.call("POST", "/shares/ada/", {"user": "bob"})
            self.call("POST", "/shares/ada/", {"group": "staff"})
        self.before = self.picture()
        self.end()

    def opened_by_orrery(self) -> None:
        self.begin("orrery")
        self.all_is_there("Orrery")
        with self.step("Orrery: what it shows is what JupyterHub showed"):
            self.same_picture()

    def changed_by_orrery(self) -> None:
        with self.step("Orrery makes a user, tokens, a group and auth state"):
            self.call("POST", "/users/eve", {}, expected=(201,))
            self.token("of eve", "eve", {"note": "made by Orrery"})
            self.token("of ada, the second", "ada", {"expires_in": 86400})
            self.call("POST", "/groups/late", {}, expected=(201,))
            self.call("POST", "/groups/late/users", {"users": ["eve", "grace"]})
            self.call("PUT", "/groups/late/properties", {"since": "today"})
            self.call("PATCH", "/users/eve", {"auth_state": {"from": "Orrery", "nested": {"ü": [1, 2.5, None]}}})
            revoked = self.tokens.pop("of ada, to be revoked")
            self.owners.pop("of ada, to be revoked")
            self.call("DELETE", f"/users/ada/tokens/{self.whoami(revoked)['token_id']}", expected=(204,))
            same(api(self.hub.origin, revoked, "GET", "/user").status_code, 403, "a revoked token")
            self.revoked = revoked
        with self.step("Orrery starts a server, which is opened in a browser"):
            self.log_in_and_start(self.bob)
        self.before = self.picture()
        self.end()

    def opened_by_jupyterhub_again(self) -> None:
        self.begin("upstream")
        self.all_is_there("JupyterHub again")
        with self.step("JupyterHub again: what it shows is what Orrery showed"):
            self.same_picture()
        with self.step("JupyterHub again: auth state of both is readable, and the revoked token is none"):
            state = self.call("GET", "/users/eve").json()["auth_state"]
            same(state, {"from": "Orrery", "nested": {"ü": [1, 2.5, None]}}, "auth state that Orrery kept")
            same(api(self.hub.origin, self.revoked, "GET", "/user").status_code, 403, "a revoked token")
        with self.step("JupyterHub again: both servers are stopped, Orrery's too"):
            with ThreadPoolExecutor(2) as both:
                list(both.map(lambda name: self.call("DELETE", f"/users/{name}/server", expected=(202, 204)), self.pids))
            for name in self.pids:
                wait_until(lambda name=name: not self.server(name), f"the end of {name}'s server")
                wait_until(lambda name=name: not running(self.pids[name]), f"the end of {name}'s process")
            self.pids.clear()
        with self.step("JupyterHub again: its log tells no error"):
            log = self.hub.log_text()[self.log_begin :]
            require("Traceback" not in log, log[-3000:])
        self.end()

    # --- what all chapters need

    def begin(self, kind: str) -> None:
        self.hub.kind = kind
        self.log_begin = len(self.hub.log_text())
        self.hub.start(JUPYTERHUB_CRYPT_KEY=KEYS).wait_running()

    def end(self) -> None:
        """The hub and its proxy end; servers run on."""
        self.hub.process.send_signal(signal.SIGTERM)
        self.hub.process.wait(30)
        wait_until(self._proxy_is_gone, "the end of the proxy")
        for name, pid in self.pids.items():
            require(running(pid), f"{name}'s server ended with the hub")

    def _proxy_is_gone(self) -> bool:
        try:
            requests.get(self.hub.origin, timeout=1)
        except requests.ConnectionError:
            return True
        return False

    def call(self, method: str, path: str, body=None, expected: tuple[int, ...] = (200, 201, 204)) -> requests.Response:
        answer = api(self.hub.origin, SERVICE_TOKEN, method, path, body)
        require(answer.status_code in expected, f"{method} {path}: {answer.status_code} {answer.text[:300]}")
        return answer

    def token(self, what: str, user: str, body: dict) -> None:
        self.tokens[what] = self.call("POST", f"/users/{user}/tokens", body, expected=(200, 201)).json()["token"]

    def whoami(self, token: str) -> dict:
        answer = api(self.hub.origin, token, "GET", "/user")
        same(answer.status_code, 200, f"GET /user with a token: {answer.text[:200]}")
        return answer.json()

    def server(self, name: str) -> dict:
        return self.call("GET", f"/users/{name}").json()["servers"].get("", {})

    def log_in_and_start(self, person: Person) -> None:
        same(person.sign_in("%2Fhub%2Fhome").status_code, 302, "the login")
        self.call("POST", f"/users/{person.name}/server", expected=(201, 202))
        wait_until(lambda: self.server(person.name).get("ready"), f"{person.name}'s server", 90)
        self.pids[person.name] = self.server(person.name)["state"]["pid"]
        # The server sends the browser through the hub and keeps a cookie of its own.
        same(person.page(f"/user/{person.name}/lab").status_code, 200, "the server's page")
        self.browser_works(person)

    def browser_works(self, person: Person) -> None:
        """The login cookie and the server's own cookie are good, without logging in or through the hub again."""
        same(person.page("/hub/home", follow=False).status_code, 200, f"{person.name}'s home")
        answer = person.call("GET", f"/user/{person.name}/api/contents?content=0")
        same(answer.status_code, 200, f"{person.name}'s server by its own cookie")

    def all_is_there(self, who: str) -> None:
        with self.step(f"{who}: all tokens work"):
            for what, token in self.tokens.items():
                same(shown(self.whoami(token)), self.owners[what], f"the token {what}")
        with self.step(f"{who}: the cookies of the hub and of the servers work"):
            for name in self.pids:
                self.browser_works(getattr(self, name))
        with self.step(f"{who}: the servers are taken over and reachable"):
            for name, pid in self.pids.items():
                wait_until(lambda name=name: self.server(name).get("ready"), f"{name}'s server")
                same(self.server(name)["state"]["pid"], pid, f"the process of {name}'s server")
                require(running(pid), f"{name}'s server does not run")
                status = requests.get(f"{self.hub.origin}/user/{name}/api", timeout=10)
                require(status.status_code == 200 and "version" in status.json(), f"{name}'s server through the proxy: {status.text[:200]}")
        with self.step(f"{who}: auth state is readable"):
            state = self.call("GET", "/users/grace").json()["auth_state"]
            same(state, {"from": "JupyterHub", "nested": {"ü": [1, 2.5, None]}}, "auth state that JupyterHub kept")

    def picture(self) -> dict:
        """What the API shows of everything; also who each token belongs to and what it may do."""
        self.owners = {what: shown(self.whoami(token)) for what, token in self.tokens.items()}
        users = self.call("GET", "/users").json()
        picture = {
            "users": shown(sorted(users, key=lambda user: user["name"])),
            "groups": shown(sorted(self.call("GET", "/groups").json(), key=lambda group: group["name"])),
            "services": shown(self.call("GET", "/services").json()),
            "shares": shown(self.call("GET", "/shares/ada").json()),
        }
        for name in ("ada", "bob"):
            tokens = self.call("GET", f"/users/{name}/tokens").json()["api_tokens"]
            picture[f"tokens of {name}"] = shown(sorted(tokens, key=lambda token: token["id"]))
        return picture

    def same_picture(self) -> None:
        picture = self.picture()
        for part, before in self.before.items():
            same(picture[part], before, part)


def shown(value):
    """A model without what time changes; lists whose order means nothing are put in one."""
    if isinstance(value, dict):
        return {key: shown(item) for key, item in value.items() if key not in PASSING}
    if isinstance(value, list):
        items = [shown(item) for item in value]
        if all(isinstance(item, str) for item in items):
            # JupyterHub's tokens do not reach what is shared with a group of their owner; Orrery's do.
            return sorted(item for item in items if not item.startswith("access:servers!server="))
        return items
    return value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", default=[])
    kinds = parser.parse_args().kinds or KINDS
    steps = Steps("database story")
    with contextlib.ExitStack() as stack:
        servers = stack.enter_context(Servers()) if set(kinds) - {"sqlite"} else None

        def tell(kind: str) -> None:
            with steps.step(f"{kind}: the story is told to its end"):
                Story(kind, None if kind == "sqlite" else servers.new_database(kind)[1], steps).tell()

        # Most of the time is spent waiting for programs that start and end.
        with ThreadPoolExecutor(2) as tellers:
            list(tellers.map(tell, kinds))
    exit_with(steps.finish())


if __name__ == "__main__":
    main()
