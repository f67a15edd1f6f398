"""People and programs that go on using a hub whatever happens, and remember what they were promised."""

import secrets
import threading
import time
from collections import Counter
from contextlib import contextmanager

import requests

from harness.client import Person
from harness.steps import require, same, wait_until

ADMIN_TOKEN = "the-token-of-the-outage-service-0123456789"
PASSWORD = "a-password-for-the-outage"
#: The pause between two requests of one of the crowd: a bounded load.
PACE = 0.12
#: So long after the hub was seen to be back, a request that begins may still be refused: others may be a
#: moment behind.
GRACE = 0.3


def config(db_url: str, small_server: list[str]) -> str:
    return f"""
c.JupyterHub.db_url = {db_url!r}
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = {PASSWORD!r}
c.Authenticator.allow_all = True
c.Spawner.cmd = {small_server!r}
c.Spawner.args = []
c.JupyterHub.services = [{{"name": "outage", "api_token": {ADMIN_TOKEN!r}}}]
c.JupyterHub.load_roles = [
    {{"name": "outage", "services": ["outage"], "scopes": ["admin:users", "admin:servers", "list:users", "tokens", "admin:groups"]}},
]
"""


def call(origin: str, method: str, path: str, token: str = ADMIN_TOKEN, **options) -> requests.Response:
    headers = {"Authorization": f"token {token}"}
    return requests.request(method, f"{origin}/hub/api{path}", headers=headers, timeout=40, allow_redirects=False, **options)


class Crowd:
    """Threads that log in, make users and tokens, and start and stop servers, each at its pace."""

    def __init__(self, origin: str, spawning: list[str]):
        self.origin, self.spawning = origin, spawning
        self.stopping = threading.Event()
        #: When the hub was back after the last outage; infinity during one. Only what began before may be
        #: refused.
        self.back_at = float("-inf")
        self.statuses: Counter = Counter()
        self.wrong: list[str] = []
        self.tokens: dict[str, str] = {}
        self.users: set[str] = set()
        self.logins = 0
        self.slowest_refusal = 0.0
        self.threads = [threading.Thread(target=self._forever, args=(work,)) for work in (self._log_in, self._make_token, self._make_user)]
        self.threads += [threading.Thread(target=self._forever, args=(self._start_or_stop, name)) for name in spawning]

    def __enter__(self) -> "Crowd":
        for name in self.spawning:
            same(call(self.origin, "POST", f"/users/{name}").status_code, 201, f"making {name}")
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_exception) -> None:
        self.stopping.set()
        for thread in self.threads:
            thread.join(60)

    @contextmanager
    def outage(self):
        """While the database is stopped and started, until the hub was seen to be back."""
        self.back_at = float("inf")
        yield
        self.back_at = time.monotonic()

    def _may_be_refused(self, answer: requests.Response) -> bool:
        """Whether the request that was just answered touched an outage."""
        began = time.monotonic() - answer.elapsed.total_seconds()
        return began <= self.back_at + GRACE

    def _forever(self, work, *arguments) -> None:
        while not self.stopping.is_set():
            try:
                work(*arguments)
            except requests.RequestException as error:
                self.wrong.append(f"no answer: {error}")
            except Exception as error:  # told at the end, with all others
                self.wrong.append(f"{work.__name__}: {type(error).__name__}: {error}")
            time.sleep(PACE)

    def _judge(self, answer: requests.Response, what: str, *good: int) -> bool:
        """Whether the request was done; notes what may not be answered at all."""
        self.statuses[answer.status_code] += 1
        if answer.status_code in good:
            return True
        is_api = "/hub/api/" in answer.url
        if answer.status_code == 503:
            if not self._may_be_refused(answer):
                self.wrong.append(f"{what}: refused while the database was there: {answer.text[:200]}")
            self.slowest_refusal = max(self.slowest_refusal, answer.elapsed.total_seconds())
            if not answer.headers.get("Retry-After", "").isdigit():
                self.wrong.append(f"{what}: 503 without Retry-After: {answer.headers}")
            if is_api and answer.json().get("status") != 503:
                self.wrong.append(f"{what}: 503 whose body is {answer.text[:200]}")
            if not is_api and "database" not in answer.text:
                self.wrong.append(f"{what}: 503 whose page says {answer.text[:200]}")
            return False
        self.wrong.append(f"{what}: {answer.status_code} {answer.text[:300]}")
        return False

    def _log_in(self) -> None:
        person = Person(self.origin, "ada", PASSWORD)
        if not self._judge(person.page("/hub/login", follow=False), "the login page", 200):
            return
        answer = person.form("/hub/login?next=%2Fhub%2Fhome", {"username": "ada", "password": PASSWORD})
        if self._judge(answer, "a login", 302):
            self.logins += 1
            self._judge(person.page("/hub/home", follow=False), "home", 200)

    def _make_token(self) -> None:
        note = secrets.token_hex(4)
        answer = call(self.origin, "POST", "/users/ada/tokens", json={"note": note})
        if self._judge(answer, "a token", 201):
            self.tokens[answer.json()["token"]] = answer.json()["id"]

    def _make_user(self) -> None:
        name = "u" + secrets.token_hex(5)
        if self._judge(call(self.origin, "POST", f"/users/{name}"), "a user", 201):
            self.users.add(name)

    def _start_or_stop(self, name: str) -> None:
        answer = call(self.origin, "GET", f"/users/{name}")
        if not self._judge(answer, "a user's model", 200):
            return
        server = answer.json()["servers"].get("", {})
        if server.get("pending"):
            return
        # 400: it became pending in between, by a request whose answer was a refusal.
        if server.get("ready"):
            self._judge(call(self.origin, "DELETE", f"/users/{name}/server"), "a stop", 202, 204, 400)
        else:
            self._judge(call(self.origin, "POST", f"/users/{name}/server"), "a start", 201, 202, 400)

    # --- what was promised

    def check(self) -> None:
        """All that was acknowledged is there, and each server runs and answers or is stopped."""
        require(not self.wrong, f"{len(self.wrong)} wrong answers, first: {self.wrong[:5]}")
        require(self.tokens and self.users and self.logins, f"nothing was done: {self.statuses}")
        for token in self.tokens:
            answer = call(self.origin, "GET", "/user", token)
            same((answer.status_code, answer.json().get("name")), (200, "ada"), "a token that was given out")
        for name in self.users:
            same(call(self.origin, "GET", f"/users/{name}").status_code, 200, f"the user {name} that was made")
        for name in self.spawning:
            wait_until(lambda name=name: not self._server(name).get("pending"), f"the end of what {name}'s server does", 40)
            if not self._server(name).get("ready"):
                answer = call(self.origin, "POST", f"/users/{name}/server")
                require(answer.status_code in (201, 202), f"a last start: {answer.status_code} {answer.text}")
                wait_until(lambda name=name: self._server(name).get("ready"), f"{name}'s server", 40)
            answer = requests.get(f"{self.origin}/user/{name}/", timeout=10)
            same((answer.status_code, answer.json()["user"]), (200, name), f"{name}'s server through the proxy")

    def _server(self, name: str) -> dict:
        return call(self.origin, "GET", f"/users/{name}").json()["servers"].get("", {})
