"""A hub with a little of everything, for requests made up from its own description.

Users `u0` to `u5` and groups `g0` to `g3`, some of them with servers, tokens and shares, may be changed and
deleted at will. `boss` (an administrator) and `ada` (nobody special) ask; nothing that is made up names them
where that could take their rights away.
"""

import sys
from pathlib import Path

import requests
from harness.client import Person
from harness.hub import Hub
from harness.steps import require, same, wait_until

SMALL_SERVER = Path(__file__).resolve().parents[1] / "chaos" / "small_server.py"
SETUP_TOKEN = "the-token-of-the-openapi-service-0123456789"

CONFIG = f"""
c.Spawner.cmd = {[sys.executable, "-I", "-S", str(SMALL_SERVER)]!r}
c.Spawner.args = []
c.Spawner.default_url = "/"
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = "open sesame"
c.Authenticator.admin_users = {{"boss"}}
c.Authenticator.allowed_users = {{"boss", "ada"}}
c.JupyterHub.admin_access = True
c.JupyterHub.allow_named_servers = True
c.JupyterHub.named_server_limit_per_user = 5
c.JupyterHub.services = [
    {{"name": "setup", "api_token": {SETUP_TOKEN!r}, "admin": True}},
    {{"name": "shelf", "url": "http://127.0.0.1:1", "oauth_no_confirm": True}},
]
c.JupyterHub.load_roles = [
    # Users may share, so that more than refusals is seen.
    {{"name": "user", "scopes": ["self", "shares!user", "read:users:name", "read:groups:name"]}},
]
"""

USERS = [f"u{number}" for number in range(6)]
GROUPS = [f"g{number}" for number in range(4)]


class Site:
    """The hub and what stands in it."""

    def __init__(self) -> None:
        self.hub = Hub("orrery", CONFIG)
        self.tokens: dict[str, str] = {}
        #: A token that nobody asks with.
        self.spare_token = ""
        #: Ids of what may be looked at and deleted.
        self.token_ids: dict[str, list[str]] = {}
        self.session_ids: list[str] = []
        self.code_ids: list[str] = []

    def __enter__(self) -> "Site":
        self.hub.start().wait_running()
        return self

    def __exit__(self, *_exception) -> None:
        self.hub.stop()

    @property
    def api(self) -> str:
        return self.hub.hub_origin + "/hub/api"

    def ask(self, method: str, path: str, json=None, token: str = SETUP_TOKEN, **more) -> requests.Response:
        headers = {"Authorization": f"Bearer {token}"} | more.pop("headers", {})
        return requests.request(method, self.api + path, json=json, headers=headers, timeout=30, **more)

    def furnish(self) -> None:
        """Make what is missing; also between runs, since much is deleted."""
        self._make("POST", "/users", {"usernames": ["boss"], "admin": True})
        self._make("POST", "/users", {"usernames": ["ada", *USERS]})
        for group in GROUPS:
            self._make("POST", f"/groups/{group}", {"users": ["ada", "u0", "u1"]})
        for name in ("boss", "ada"):
            if name not in self.tokens:
                self.tokens[name] = self._make("POST", f"/users/{name}/tokens", {"note": "asks"})["token"]
        for name in ("ada", "u1"):
            made = [self._make("POST", f"/users/{name}/tokens", {"note": "spare"}) for _ in range(3)]
            self.token_ids[name] = [token["id"] for token in made]
            self.spare_token = made[0]["token"]
        for _ in range(4):
            same(Person(self.hub.origin, "ada", "open sesame").sign_in().status_code, 302, "ada's login")
        self.session_ids = [session["id"] for session in self.ask("GET", "/users/ada/sessions").json()["sessions"]]
        self.code_ids = []
        for name in ("ada", "u0", "u1"):
            self._make("POST", f"/users/{name}/server", {})
            self._make("PUT", f"/users/{name}/servers/lab", {"user_options": {"size": 1}})
            self._make("PUT", f"/users/{name}/servers/quiet", {})
            for server in ("", "lab"):
                for who in ({"user": "ada"}, {"user": "u2"}, {"group": "g0"}):
                    self._make("POST", f"/shares/{name}/{server}", who)
                self.code_ids.append(self._make("POST", f"/share-codes/{name}/{server}", {})["id"])
        self._make("POST", "/services/made", {"info": {"made": "by a request"}})
        self._make("POST", "/users/u2/server", {})
        for name in ("ada", "u2"):
            self.wait_until(name, "ready")
        self._make("DELETE", "/users/u2/server", {})
        self.wait_until("u2", "stopped")

    def wait_until(self, name: str, state: str) -> None:
        what = f"{name}'s server is {state}"
        wait_until(lambda: self.ask("GET", f"/users/{name}/server").json()[state], what)

    def _make(self, method: str, path: str, body: dict):
        answer = self.ask(method, path, body)
        # What is there already is fine.
        require(answer.status_code < 300 or answer.status_code in (400, 409), f"{method} {path}: {answer.status_code} {answer.text}")
        return answer.json() if answer.content else None
