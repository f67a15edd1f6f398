"""The two hubs: one configuration, one database to start from, and the people and programs that ask."""

import os
import shutil
import sqlite3
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from jupyterhub.roles import get_default_roles

from harness.client import AGENT, Person, api
from harness.hub import Hub
from harness.steps import require, same

PASSWORD = "a-password-for-the-twins"
CRYPT_KEY = "6f" * 32
#: Tokens of services, which the configuration gives.
SERVICES = {name: f"the-token-of-the-twins-service-{name}-0123456789" for name in ("teller", "plain", "culler", "boss", "shopper", "deputy")}
#: All that administrators may, for the service `deputy`, which is named as none.
ALL_SCOPES = next(role["scopes"] for role in get_default_roles() if role["name"] == "admin")
SMALL_SERVER = Path(__file__).with_name("small_server.py")

CONFIG = f"""
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = {PASSWORD!r}
c.Authenticator.admin_users = {{"grace", "heidi", "irene"}}
c.Authenticator.username_pattern = "[^!].*"
c.Authenticator.allowed_users = {{"ada", "bob", "carol", "dave", "erin"}}
c.Authenticator.enable_auth_state = True
c.JupyterHub.allow_named_servers = True
c.JupyterHub.named_server_limit_per_user = 2
c.JupyterHub.api_page_default_limit = 4
c.JupyterHub.api_page_max_limit = 20
c.JupyterHub.admin_access = False
c.JupyterHub.log_level = "INFO"
c.Spawner.cmd = [{sys.executable!r}, "-I", "-S", {str(SMALL_SERVER)!r}]
c.Spawner.args = []
c.Spawner.default_url = "/lab"
c.Spawner.start_timeout = 15
c.Spawner.http_timeout = 15
c.LocalProcessSpawner.interrupt_timeout = 1
c.LocalProcessSpawner.term_timeout = 1
c.JupyterHub.custom_scopes = {{
    "custom:shop:read": {{"description": "look into the shop"}},
    "custom:shop": {{"description": "run the shop", "subscopes": ["custom:shop:read"]}},
}}
c.JupyterHub.load_groups = {{
    "class": {{"users": ["ada", "bob"], "properties": {{"room": 7, "tags": ["a", "b"]}}}},
    "lab": {{"users": ["carol"], "properties": {{}}}},
    "nobody-in-it": {{"users": []}},
    "with space": {{"users": ["erin"]}},
}}
c.JupyterHub.services = [
    {{"name": "teller", "api_token": {SERVICES["teller"]!r}}},
    {{"name": "plain", "api_token": {SERVICES["plain"]!r}, "display": False, "info": {{"why": "no roles"}}}},
    {{"name": "culler", "api_token": {SERVICES["culler"]!r}}},
    {{"name": "boss", "api_token": {SERVICES["boss"]!r}, "admin": True}},
    {{
        "name": "shopper",
        "api_token": {SERVICES["shopper"]!r},
        "url": "SHOP_URL",
        "oauth_client_id": "service-shopper",
        "oauth_redirect_uri": "http://shop.example.org/services/shopper/oauth_callback",
        "oauth_client_allowed_scopes": ["access:services!service=shopper", "read:users:groups!user"],
        "oauth_no_confirm": False,
    }},
    {{"name": "deputy", "api_token": {SERVICES["deputy"]!r}}},
]
c.JupyterHub.load_roles = [
    {{"name": "user", "scopes": ["self", "shares!user", "list:users!user"]}},
    {{"name": "reader", "description": "sees all", "scopes": ["list:users", "read:users", "read:groups", "list:groups", "read:services", "list:services", "read:servers", "read:hub", "read:roles"], "users": ["carol"]}},
    {{"name": "class-admin", "scopes": ["admin:users!group=class", "list:users!group=class", "admin:groups!group=class", "list:groups!group=class", "admin:servers!group=class", "tokens!group=class", "read:shares!group=class", "admin-ui"], "users": ["dave"]}},
    {{"name": "lab-people", "scopes": ["read:users:name!group=class", "list:users!group=class", "custom:shop:read"], "groups": ["lab"]}},
    {{"name": "teller", "scopes": ["admin:users", "admin:groups", "admin:servers", "list:users", "list:groups", "tokens", "shares", "custom:shop"], "services": ["teller"]}},
    {{"name": "culler", "scopes": ["list:users", "read:users:activity", "read:servers", "delete:servers"], "services": ["culler"]}},
    {{"name": "keeper", "scopes": ["proxy", "read:hub", "shutdown", "admin:services", "list:services"], "services": ["shopper"]}},
    {{"name": "shop", "scopes": ["access:services!service=shopper"], "groups": ["class"]}},
    {{"name": "deputy", "scopes": {ALL_SCOPES!r}, "services": ["deputy"]}},
]
"""

#: Requester → (user, what its token is asked for with).
TOKENS = {
    "admin": ("grace", {}),
    "heidi": ("heidi", {}),
    "ada": ("ada", {}),
    "bob": ("bob", {}),
    "carol": ("carol", {}),
    "dave": ("dave", {}),
    "erin": ("erin", {}),
    # Of an admin, and narrow.
    "reading": ("grace", {"scopes": ["list:users", "read:users", "list:groups", "read:groups", "read:servers", "list:services", "read:services", "read:tokens", "read:shares"], "note": "reads"}),
    "naming": ("grace", {"scopes": ["list:users", "read:users:name", "list:groups", "read:groups:name", "list:services", "read:services:name"]}),
    "roles": ("grace", {"scopes": ["list:users", "read:roles", "list:groups", "list:services"]}),
    "for-ada": ("grace", {"scopes": ["admin:users!user=ada", "list:users!user=ada", "admin:servers!user=ada", "tokens!user=ada", "shares!user=ada", "users:activity!user=ada", "admin:auth_state!user=ada"]}),
    "for-class": ("grace", {"scopes": ["admin:users!group=class", "list:users!group=class", "admin:groups!group=class", "list:groups!group=class", "servers!group=class", "read:servers!group=class", "tokens!group=class", "users:activity!group=class"]}),
    "for-server": ("grace", {"scopes": ["admin:servers!server=ada/", "list:users!server=ada/", "read:users:name!user=ada", "admin:server_state!server=ada/one"]}),
    "for-service": ("grace", {"scopes": ["read:services!service=plain", "list:services!service=plain", "admin:services!service=fresh"]}),
    "activity": ("grace", {"scopes": ["users:activity", "read:users:activity", "list:users"]}),
    # Of an ordinary user, and narrow.
    "ada-reading": ("ada", {"scopes": ["read:users!user", "read:servers!user", "read:tokens!user"]}),
    "ada-naming": ("ada", {"scopes": ["read:users:name!user=ada"]}),
    "ada-access": ("ada", {"scopes": ["access:servers!user=ada"]}),
    "expired": ("ada", {"note": "has expired"}),
}
#: All who have nothing to show, or nothing that counts.
STRANGERS = "nobody wrong-token expired"
#: The requesters that most tables use: an admin, a user, another user, a filtered token, a service, no one.
SEVERAL = "admin ada bob for-class teller plain nobody"
#: More of them, for what changes something.
MANY = "admin heidi ada bob dave reading naming for-ada for-class ada-reading teller boss plain culler nobody expired"
#: All who ask with a token.
EVERYBODY = [name for name in TOKENS if name != "expired"] + [name for name in SERVICES if name != "deputy"] + STRANGERS.split()
#: Browsers: with all that a page of the hub sends; without the XSRF token; from a page of another site; a link that is followed.
BROWSERS = "ada-browser ada-browser-without-xsrf ada-browser-other-site ada-browser-navigates admin-browser"


@dataclass
class World:
    folder: Path
    hubs: dict[str, Hub] = field(default_factory=dict)
    #: Requester → headers, the same for both hubs.
    headers: dict[str, dict[str, str]] = field(default_factory=dict)
    #: What no answer may be compared by: tokens that were drawn.
    secrets: list[str] = field(default_factory=list)

    def __enter__(self) -> "World":
        self.shop = ThreadingHTTPServer(("127.0.0.1", 0), Shop)
        threading.Thread(target=self.shop.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_exception) -> None:
        self.shop.shutdown()
        self.shop.server_close()
        for hub in self.hubs.values():
            hub.stop()
        if not os.environ.get("ORRERY_KEEP"):
            shutil.rmtree(self.folder, ignore_errors=True)

    def make(self) -> None:
        """Let JupyterHub make the database, and start both hubs from it."""
        start = self._hub("upstream", "start")
        try:
            start.start(JUPYTERHUB_CRYPT_KEY=CRYPT_KEY).wait_ready()
            self._fill(start)
        finally:
            start.keep = True
            start.stop()
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda kind: self._begin(kind, start.folder), ("upstream", "orrery")))

    def _hub(self, kind: str, name: str) -> Hub:
        folder = self.folder / name
        folder.mkdir()
        return Hub(kind, CONFIG.replace("SHOP_URL", f"http://127.0.0.1:{self.shop.server_port}/"), folder=folder)

    def _begin(self, kind: str, start: Path) -> None:
        hub = self.hubs[kind] = self._hub(kind, kind)
        for file in ("jupyterhub.sqlite", "jupyterhub_cookie_secret"):
            shutil.copy2(start / file, hub.folder / file)
        hub.start(JUPYTERHUB_CRYPT_KEY=CRYPT_KEY).wait_running()
        # Only now, for what has expired is removed at a start.
        with sqlite3.connect(hub.folder / "jupyterhub.sqlite", timeout=30) as database:
            changed = database.execute("UPDATE api_tokens SET expires_at = '2020-01-01 00:00:00.000000' WHERE note = 'has expired'").rowcount
            same(changed, 1, f"{kind}: tokens that have expired")

    def _fill(self, hub: Hub) -> None:
        """What the configuration cannot say: tokens, sessions, shares."""

        def call(token: str, method: str, path: str, body=None) -> dict:
            answer = api(hub.origin, token, method, path, body)
            require(answer.status_code < 300, f"{method} {path}: {answer.status_code} {answer.text}")
            return answer.json() if answer.text else {}

        boss = SERVICES["boss"]
        for name in ("grace", "heidi", "ada"):
            self._sign_in(hub, name)
        call(boss, "POST", "/users", {"usernames": ["zoë", "o'brien@example.org", "Frank", "idle-1", "idle-2", "idle-3"]})
        for name, date in (("idle-1", "2024-05-01T00:00:00Z"), ("idle-3", "2023-05-01T00:00:00Z")):
            call(boss, "POST", f"/users/{name}/activity", {"last_activity": date})
        for requester, (user, wish) in TOKENS.items():
            token = call(boss, "POST", f"/users/{user}/tokens", {"expires_in": 86400} | wish)["token"]
            self.secrets.append(token)
            self.headers[requester] = {"Authorization": f"token {token}"}
        for requester, token in SERVICES.items():
            self.headers[requester] = {"Authorization": f"token {token}"}
        self.headers["nobody"] = {}
        self.headers["wrong-token"] = {"Authorization": "token 0123456789abcdef0123456789abcdef"}
        for user, server in (("ada", "one"), ("bob", "")):
            call(boss, "POST", f"/users/{user}/servers/{server}" if server else f"/users/{user}/server", {"kept": ["option", 1]})
        for user, server in (("ada", "one"), ("bob", "")):
            call(boss, "DELETE", f"/users/{user}/servers/{server}" if server else f"/users/{user}/server")
        call(boss, "POST", "/shares/ada/one", {"user": "erin"})
        call(boss, "POST", "/shares/ada/one", {"group": "lab"})
        call(boss, "POST", "/shares/bob/", {"user": "ada", "scopes": ["access:servers!server=bob/", "read:servers!server=bob/"]})

    def _sign_in(self, hub: Hub, name: str) -> None:
        person = Person(hub.origin, name, PASSWORD)
        same(person.sign_in().status_code, 302, f"{name}'s login")
        person.page("/hub/home")
        who = "admin" if name == "grace" else name
        page = {"Cookie": person.cookie_header("/hub/api/user"), "User-Agent": AGENT}
        script = {"Sec-Fetch-Mode": "cors", "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Dest": "empty"}
        self.headers[f"{who}-browser"] = page | script | {"X-XSRFToken": person.hub_xsrf()}
        self.headers[f"{who}-browser-without-xsrf"] = page | script
        self.headers[f"{who}-browser-other-site"] = page | {"Sec-Fetch-Mode": "cors", "Sec-Fetch-Site": "cross-site", "Origin": "http://evil.example.org", "Referer": "http://evil.example.org/"}
        self.headers[f"{who}-browser-navigates"] = page | {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Site": "none", "Sec-Fetch-Dest": "document"}
        self.secrets += [person.hub_xsrf()]


class Shop(BaseHTTPRequestHandler):
    """The web server of the service `shopper`: it says what reached it."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = self.path.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments) -> None:
        pass


def new_world() -> World:
    return World(Path(tempfile.mkdtemp(prefix="orrery-twin-", dir="/tmp")))
