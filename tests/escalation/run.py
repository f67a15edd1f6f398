#!/usr/bin/env python3
"""Nobody without the right sees or changes anything: random rights, over the operations of the API.

    python tests/escalation/run.py [--hub orrery|upstream] [--seed N] [--rounds N]

Holders of rights are services with a random role, and tokens of an administrator and of users with random
scopes; scopes have random filters. Each sends requests drawn from OPERATIONS. What may come back is worked
out here, from the scopes' hierarchy in the `jupyterhub` package and the rights that its documentation names,
not from either hub's code: who lacks the right is refused and changes not one row; who has it is not; what is
listed, and which fields are shown, is exactly what the scopes reach; a permitted change touches only what its
address or body names. JupyterHub 6.1.1 is asked the same, a fifth as often,
for the expectation to be proved there.

Each scope is held by somebody, without a filter and with one, and each operation is sent once by somebody
who may, before chance decides. Nobody may shut the hub down, which would end the test: tests/twin has it.
"""

import argparse
import http.client
import json
import random
import re
import sqlite3
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from jupyterhub.scopes import _expand_scope, scope_definitions

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness.client import Person  # noqa: E402
from harness.hub import KINDS, Hub  # noqa: E402
from harness.steps import Steps, exit_with, require, same  # noqa: E402

PASSWORD = "a-password-for-the-escalation"
SMALL_SERVER = Path(__file__).resolve().parents[1] / "twin" / "small_server.py"
GROUPS = {"g-staff": {"u-ada", "u-bob"}, "g-lab": {"u-cyd"}, "g-none": set()}
USERS = ("u-ada", "u-bob", "u-cyd", "u-dan")
SERVICES = ("s-one", "s-two")
SERVERS = tuple((user, server) for user in USERS for server in ("", "n-one"))
#: Not held: what is no right of its own, and what would end the test.
SCOPES = sorted(set(scope_definitions) - {"(no_scope)", "self", "inherit", "shutdown", "admin-ui"})
#: What JupyterHub does not know.
OUR_SCOPES = ("read:audit",)
#: Held by one: more can be done, or seen, with these than with each alone.
TOGETHER = (["shares", "read:users:name"], ["read:users", "admin:auth_state"], ["read:servers", "admin:server_state"])
#: Services, and as many tokens.
HOLDERS = 24
CRYPT_KEY = "5e" * 32
PATIENCE = 20


@dataclass(frozen=True)
class Operation:
    """A request, and one of which scopes it needs for what its address names."""

    method: str
    path: str
    needs: tuple
    #: `user`, `server`, `group`, `service`; nothing for operations on the hub as a whole.
    target: str = ""
    body: object = None
    #: Needed besides, for whom or what the body names: scope, kind and name.
    also: tuple = ()
    #: What the administrator sends afterwards, to put things back.
    undo: tuple = ()


OPERATIONS = (
    Operation("GET", "/users/{user}", ("read:users", "read:users:name", "read:servers", "read:users:groups", "read:users:activity", "read:roles:users"), "user"),
    Operation("PATCH", "/users/{user}", ("admin:users",), "user", {"name": "u-renamed"}, undo=(("PATCH", "/users/u-renamed", {"name": "{user}"}),)),
    Operation("PATCH", "/users/{user}", ("admin:users",), "user", {"auth_state": {"of": "an escalation"}}, undo=(("PATCH", "/users/{user}", {"auth_state": {"of": "{user}"}}),)),
    Operation("GET", "/users/{user}?include_stopped_servers=1", ("read:users", "read:users:name", "read:servers", "read:users:groups", "read:users:activity", "read:roles:users"), "user"),
    Operation("DELETE", "/users/u-extra", ("delete:users",), "extra", None, undo=(("POST", "/users/u-extra", {}),)),
    Operation("POST", "/users/u-new", ("admin:users",), "new", {}, undo=(("DELETE", "/users/u-new", None),)),
    Operation("POST", "/users", ("admin:users",), "", {"usernames": ["u-new"]}, undo=(("DELETE", "/users/u-new", None),)),
    Operation("GET", "/users/{user}/tokens", ("read:tokens",), "user"),
    Operation("POST", "/users/{user}/tokens", ("tokens",), "user", {"note": "made by an escalation"}),
    Operation("GET", "/users/{user}/tokens/{token}", ("read:tokens",), "user"),
    Operation("POST", "/users/{user}/activity", ("users:activity",), "user", {"last_activity": "2026-01-01T00:00:00Z"}),
    Operation("GET", "/users/{user}/servers/{server}", ("read:servers",), "server"),
    Operation("PUT", "/users/{user}/servers/n-new", ("start:servers",), "new server", {}, undo=(("DELETE", "/users/{user}/servers/n-new", {"remove": True}),)),
    Operation("PATCH", "/users/{user}/servers/n-one", ("start:servers",), "n-one", {"display_name": "of an escalation"}),
    Operation("DELETE", "/users/{user}/servers/n-one", ("delete:servers",), "n-one"),
    Operation("GET", "/groups/{group}", ("read:groups", "read:groups:name", "read:roles:groups"), "group"),
    Operation("POST", "/groups/g-new", ("admin:groups",), "new", {}, undo=(("DELETE", "/groups/g-new", None),)),
    Operation("POST", "/groups", ("admin:groups",), "", {"groups": ["g-new"]}, undo=(("DELETE", "/groups/g-new", None),)),
    Operation("DELETE", "/groups/g-none", ("delete:groups",), "g-none", None, undo=(("POST", "/groups/g-none", {}),)),
    Operation("POST", "/groups/{group}/users", ("groups",), "group", {"users": ["u-dan"]}, undo=(("DELETE", "/groups/{group}/users", {"users": ["u-dan"]}),)),
    Operation("PUT", "/groups/{group}/properties", ("groups",), "group", {"of": "an escalation"}, undo=(("PUT", "/groups/{group}/properties", {"marker": "{group}"}),)),
    Operation("GET", "/services/{service}", ("read:services", "read:services:name", "read:roles:services"), "service"),
    Operation("POST", "/services/s-new", ("admin:services",), "new", {"api_token": "the-token-of-a-new-service"}, undo=(("DELETE", "/services/s-new", None),)),
    Operation("GET", "/shares/{user}/n-one", ("read:shares",), "n-one"),
    Operation("POST", "/shares/{user}/n-one", ("shares",), "n-one", {"user": "u-dan"}, also=("read:users:name", "user", "u-dan"), undo=(("DELETE", "/shares/{user}/n-one", None),)),
    Operation("GET", "/share-codes/{user}/n-one", ("read:shares",), "n-one"),
    Operation("POST", "/share-codes/{user}/n-one", ("shares",), "n-one", {}, undo=(("DELETE", "/share-codes/{user}/n-one", None),)),
    Operation("GET", "/users/{user}/shared", ("read:users:shares",), "user"),
    Operation("GET", "/groups/{group}/shared", ("read:groups:shares",), "group"),
    Operation("GET", "/users/{user}/server", ("read:servers",), "default"),
    Operation("POST", "/users/{user}/server", ("start:servers",), "default", undo=(("DELETE", "/users/{user}/server", None),)),
    Operation("PUT", "/users/{user}/server", ("start:servers",), "default", {}),
    Operation("PATCH", "/users/{user}/server", ("start:servers",), "default", {"display_name": "of an escalation"}),
    Operation("DELETE", "/users/{user}/server", ("delete:servers",), "default"),
    Operation("POST", "/users/{user}/servers/n-one", ("start:servers",), "n-one", undo=(("DELETE", "/users/{user}/servers/n-one", None),)),
    Operation("GET", "/users/{user}/server/progress", ("read:servers",), "default"),
    Operation("GET", "/users/{user}/servers/n-one/progress", ("read:servers",), "n-one"),
    # Switched off (JupyterHub.admin_access), so that nobody may.
    Operation("POST", "/users/{user}/admin-access", (), "user"),
    Operation("DELETE", "/users/{user}/tokens/a999999", ("tokens",), "user"),
    Operation("DELETE", "/groups/{group}/users", ("groups",), "group", {"users": ["u-bob"]}, undo=(("POST", "/groups/{group}/users", {"users": ["u-bob"]}),)),
    Operation("DELETE", "/services/{service}", ("admin:services",), "service"),
    Operation("PATCH", "/shares/{user}/n-one", ("shares",), "n-one", {"user": "u-dan"}),
    Operation("DELETE", "/shares/{user}/n-one", ("shares",), "n-one"),
    Operation("DELETE", "/share-codes/{user}/n-one", ("shares",), "n-one"),
    # Of all servers of a user, so that a filter by server reaches none of them.
    Operation("GET", "/shares/{user}", ("read:shares",), "user"),
    Operation("POST", "/shares/{user}", ("shares",), "user", {"user": "u-dan"}),
    Operation("PATCH", "/shares/{user}", ("shares",), "user", {"user": "u-dan"}),
    Operation("DELETE", "/shares/{user}", ("shares",), "user"),
    Operation("GET", "/share-codes/{user}", ("read:shares",), "user"),
    Operation("POST", "/share-codes/{user}", ("shares",), "user", {}),
    Operation("DELETE", "/share-codes/{user}", ("shares",), "user"),
    Operation("GET", "/users/{user}/shared/u-dan/n-one", ("read:users:shares",), "user"),
    Operation("DELETE", "/users/{user}/shared/u-dan/n-one", ("users:shares",), "user"),
    Operation("GET", "/groups/{group}/shared/u-dan/n-one", ("read:groups:shares",), "group"),
    Operation("DELETE", "/groups/{group}/shared/u-dan/n-one", ("groups:shares",), "group"),
    Operation("GET", "/metrics", ("read:metrics",)),
    Operation("POST", "/proxy", ("proxy",)),
    Operation("PATCH", "/proxy", ("proxy",), "", {"ip": "127.0.0.1"}),
    Operation("GET", "/proxy", ("proxy",)),
    Operation("GET", "/info", ("read:hub",)),
    Operation("POST", "/shutdown", ("shutdown",), "", {"proxy": False, "servers": False}),
)
#: What JupyterHub does not have.
OURS = (
    Operation("GET", "/audit", ("read:audit",)),
    Operation("GET", "/users/{user}/accesses", ("read:audit",), "user"),
    Operation("GET", "/users/{user}/sessions", ("read:tokens",), "user"),
    Operation("DELETE", "/users/{user}/sessions", ("tokens",), "user"),
    Operation("DELETE", "/users/{user}/sessions/999999", ("tokens",), "user"),
)
#: What is not drawn, each with the reason.
NOT_DRAWN = {
    **dict.fromkeys(("GET /", "GET /health", "GET /openapi.json"), "is for everybody"),
    **dict.fromkeys(("GET /users", "GET /groups", "GET /services", "GET /tokens", "GET /sessions"), "is a list: see Trial.listing"),
    **dict.fromkeys(("DELETE /tokens/*", "DELETE /sessions/*"), "names no owner: see Trial.by_number"),
    **dict.fromkeys(("GET /authorizations/cookie/*/*", "GET /authorizations/token/*", "POST /authorizations/token", "POST /authorizations/token/*"), "says what the credentials are worth that it is given"),
    **dict.fromkeys(("GET /oauth2/authorize", "POST /oauth2/authorize", "POST /oauth2/token"), "grants what tests/twin compares"),
    "GET /user": "is about the one who asks",
    "GET /events": "does not end: see the hub's own tests",
}
USER_FIELDS = {
    "read:users": {"kind", "name", "user_info", "admin", "roles", "groups", "server", "pending", "created", "last_activity"},
    "read:users:name": {"kind", "name", "user_info", "admin"},
    "read:users:groups": {"kind", "name", "groups"},
    "read:users:activity": {"kind", "name", "last_activity"},
    "read:servers": {"kind", "name", "servers"},
    "read:roles:users": {"kind", "name", "roles", "admin"},
    "admin:auth_state": {"kind", "name", "auth_state"},
}
GROUP_FIELDS = {
    "read:groups": {"kind", "name", "properties", "users"},
    "read:groups:name": {"kind", "name"},
    "read:roles:groups": {"kind", "name", "roles"},
}
SERVICE_FIELDS = {
    "read:services": {"kind", "name", "admin", "url", "prefix", "command", "pid", "info", "display"},
    "read:services:name": {"kind", "name", "admin"},
    "read:roles:services": {"kind", "name", "roles", "admin"},
}


def random_scopes(dice: random.Random) -> list[str]:
    """One to four scopes, most with a filter."""
    return [limited(scope, dice) if dice.random() < 0.75 else scope for scope in dice.choices(SCOPES, k=dice.randint(1, 4))]


def limited(scope: str, dice: random.Random) -> str:
    limits = [f"user={dice.choice(USERS)}", f"group={dice.choice(list(GROUPS))}", f"server={dice.choice(USERS)}/{dice.choice(['', 'n-one'])}", f"service={dice.choice(SERVICES)}"]
    return f"{scope}!{dice.choice(limits)}"


def scopes_of_holders(kind: str, dice: random.Random, with_filters: bool) -> list[list[str]]:
    """For each holder: the first ones share all scopes among them, so that each is held; the rest is chance."""
    known = [*SCOPES, *(OUR_SCOPES if kind == "orrery" else ())]
    dice.shuffle(known)
    each = 3
    dealt = [*TOGETHER, *(known[start : start + each] for start in range(0, len(known), each))]
    if with_filters:
        dealt = [[limited(scope, dice) for scope in scopes] for scopes in dealt]
    return dealt + [random_scopes(dice) for _ in range(HOLDERS - len(dealt))]


class Rights:
    """What scopes reach, as the documentation has it."""

    def __init__(self, scopes: list[str]):
        self.raw = sorted(scopes)
        self.reach: dict[str, set] = {}
        for scope in scopes:
            for one in [scope] if scope.partition("!")[0] in OUR_SCOPES else _expand_scope(scope):
                name, _, limit = one.partition("!")
                self.reach.setdefault(name, set()).add(limit)

    def reaches(self, scope: str, kind: str, name) -> bool:
        limits = self.reach.get(scope, set())
        if "" in limits:
            return True
        if kind in ("user", "server"):
            user = name if kind == "user" else name[0]
            wanted = {f"user={user}"} | {f"group={group}" for group, members in GROUPS.items() if user in members}
            if kind == "server":
                wanted.add(f"server={user}/{name[1]}")
            return bool(limits & wanted)
        return bool(kind) and f"{kind}={name}" in limits

    def permits(self, operation: Operation, names: dict) -> bool:
        kind, name = {
            "": ("", None),
            "user": ("user", names["user"]),
            "server": ("server", (names["user"], names["server"])),
            "default": ("server", (names["user"], "")),
            "n-one": ("server", (names["user"], "n-one")),
            "new server": ("server", (names["user"], "n-new")),
            "group": ("group", names["group"]),
            "service": ("service", names["service"]),
            "extra": ("user", "u-extra"),
            "new": ("new", "new"),
            "g-none": ("group", "g-none"),
        }[operation.target]
        return any(self.reaches(scope, kind, name) for scope in operation.needs) and (not operation.also or self.reaches(*operation.also))

    def fields(self, table: dict, kind: str, name: str) -> set:
        return set().union(*(fields for scope, fields in table.items() if self.reaches(scope, kind, name)), set())


class Asker:
    """One connection to the hub itself."""

    def __init__(self, hub: Hub):
        self.port = hub.hub_port
        self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)

    def ask(self, token: str, method: str, path: str, body=None) -> tuple[int, object]:
        for attempt in (1, 2):
            try:
                self.connection.request(method, f"/hub/api{path}", None if body is None else json.dumps(body), {"Authorization": f"token {token}"})
                answer = self.connection.getresponse()
                text = answer.read().decode()
                break
            except (OSError, http.client.HTTPException):
                # A kept connection may just have been closed by the other side.
                self.connection.close()
                if attempt == 2:
                    raise
        try:
            return answer.status, json.loads(text)
        except ValueError:
            return answer.status, text


#: Rows as they matter; when somebody was last seen does not.
QUERIES = (
    "SELECT 'user', name, admin, cookie_id FROM users",
    "SELECT 'auth state', name, hex(encrypted_auth_state) FROM users",
    "SELECT 'group', name, properties FROM \"groups\"",
    "SELECT 'member', u.name, g.name FROM user_group_map m JOIN users u ON u.id = m.user_id JOIN \"groups\" g ON g.id = m.group_id",
    "SELECT 'role of', u.name, r.name, r.scopes FROM user_role_map m JOIN users u ON u.id = m.user_id JOIN roles r ON r.id = m.role_id",
    "SELECT 'role of', s.name, r.name, r.scopes FROM service_role_map m JOIN services s ON s.id = m.service_id JOIN roles r ON r.id = m.role_id",
    "SELECT 'role of', g.name, r.name, r.scopes FROM group_role_map m JOIN \"groups\" g ON g.id = m.group_id JOIN roles r ON r.id = m.role_id",
    "SELECT 'service', name, url FROM services",
    "SELECT 'server', u.name, s.name, s.user_options, s.server_id, s.display_name FROM spawners s JOIN users u ON u.id = s.user_id WHERE s.name != '' OR s.server_id IS NOT NULL",
    "SELECT 'token', u.name, t.id, t.scopes, t.note FROM api_tokens t JOIN users u ON u.id = t.user_id",
    "SELECT 'token', s.name, t.id, t.scopes, t.note FROM api_tokens t JOIN services s ON s.id = t.service_id",
    "SELECT 'share', o.name, s.name, u.name, g.name, x.scopes FROM shares x JOIN users o ON o.id = x.owner_id JOIN spawners s ON s.id = x.spawner_id LEFT JOIN users u ON u.id = x.user_id LEFT JOIN \"groups\" g ON g.id = x.group_id",
    "SELECT 'share code', o.name, s.name, x.scopes FROM share_codes x JOIN users o ON o.id = x.owner_id JOIN spawners s ON s.id = x.spawner_id",
)


class Trial:
    def __init__(self, hub: Hub, seed: int):
        # Three streams, for tokens not to get the scopes that services have.
        self.hub, self.dice, self.dice_of_tokens = hub, random.Random(seed), random.Random(f"{seed}, tokens")
        self.operations = OPERATIONS + (OURS if hub.kind == "orrery" else ())
        self.asker = Asker(hub)
        self.database = sqlite3.connect(f"file:{hub.folder}/jupyterhub.sqlite?mode=ro", uri=True, timeout=PATIENCE)
        self.holders: list[tuple[str, Rights]] = []
        self.tokens: dict[str, str] = {}
        self.counts: Counter = Counter()
        self.root = ""

    def rows(self) -> Counter:
        return Counter(row for query in QUERIES for row in self.database.execute(query))

    def by_root(self, method: str, path: str, body=None, may=range(200, 300)):
        status, answer = self.asker.ask(self.root, method, path, body)
        require(status in may, f"the administrator's {method} {path}: {status} {answer}")
        return answer

    def prepare(self, service_scopes: list[list[str]]) -> None:
        root = Person(self.hub.origin, "root", PASSWORD)
        root.sign_in()
        self.root = root.call("POST", "/hub/api/users/root/tokens", {"note": "of the test"}).json()["token"]
        self.by_root("POST", "/users", {"usernames": ["u-extra"]})
        for group in GROUPS:
            self.by_root("PUT", f"/groups/{group}/properties", {"marker": group})
        for user in USERS:
            self.by_root("PUT", f"/users/{user}/servers/n-one", {"display_name": f"the server of {user}"})
            self.by_root("PATCH", f"/users/{user}", {"auth_state": {"of": user}})
            self.tokens[user] = self.by_root("POST", f"/users/{user}/tokens", {"note": f"a token of {user}"})["id"]
        for number, scopes in enumerate(service_scopes):
            self.holders.append((f"the-token-of-holder-{number:04}", Rights(scopes)))
        for scopes in scopes_of_holders(self.hub.kind, self.dice_of_tokens, with_filters=True):
            made = self.by_root("POST", "/users/root/tokens", {"scopes": scopes})
            self.holders.append((made["token"], Rights(scopes)))

    def names(self) -> dict:
        user, server = self.dice.choice(SERVERS)
        return {"user": user, "server": server, "group": self.dice.choice(list(GROUPS)), "service": self.dice.choice(SERVICES), "token": self.tokens[user]}

    def permits(self, rights: Rights, operation: Operation, names: dict) -> bool:
        # JupyterHub takes `read:metrics` with any filter for the whole; see docs/api-differences.md.
        is_lenient = self.hub.kind == "upstream" and operation.path == "/metrics" and "read:metrics" in rights.reach
        return is_lenient or rights.permits(operation, names)

    def once_each(self) -> None:
        """Each operation by one who may do it, with and without a filter, and by one who may not."""
        for operation in self.operations:
            for is_permitted, is_limited in ((True, True), (True, False), (False, False)):
                pairs = ((holder, self.names()) for _ in range(4) for holder in self.dice.sample(self.holders, len(self.holders)))
                found = (pair for pair in pairs if self.permits(pair[0][1], operation, pair[1]) == is_permitted and any("!" in scope for scope in pair[0][1].raw) == is_limited)
                pair = next(found, None)
                if pair:
                    self.send(*pair[0], operation, pair[1])
                # Nobody is given the one, and nobody may do the other.
                elif is_permitted and not is_limited and operation.needs and operation.path != "/shutdown":
                    require(False, f"nobody may {operation.method} {operation.path}")

    def request(self) -> None:
        """One random holder sends one random request."""
        token, rights = self.dice.choice(self.holders)
        names = self.names()
        kind = self.dice.random()
        if kind < 0.15:
            return self.listing(token, rights)
        # Half of the time something that is permitted, if there is anything: chance alone seldom finds it.
        permitted = [operation for operation in self.operations if self.permits(rights, operation, names)]
        return self.send(token, rights, self.dice.choice(permitted if permitted and kind < 0.55 else self.operations), names)

    def send(self, token: str, rights: Rights, operation: Operation, names: dict) -> None:
        """One request, and whether it did what it may."""
        is_permitted = self.permits(rights, operation, names)
        if operation.path == "/shutdown":
            require(not is_permitted, "nobody here may shut the hub down")
        path, body = operation.path.format(**names), filled(operation.body, names)
        before = self.rows()
        status, answer = self.asker.ask(token, operation.method, path, body)
        after = self.rows()
        what = f"{operation.method} {path} with {rights.raw}: {status} {json.dumps(answer)[:300]}"
        if not is_permitted:
            require(status in (403, 404), f"not refused: {what}")
            same(after, before, f"rows after a refused {what}")
            self.counts["refused"] += 1
            return
        refused = status == 403 or status == 404 and "No access to resources" in json.dumps(answer)
        require(not refused and status < 500, f"refused, though permitted: {what}")
        self.counts["permitted"] += 1
        changed = (after - before) + (before - after)
        if operation.method == "GET":
            same(changed, Counter(), f"rows after {what}")
        named = set(re.findall(r"[ugs]-[a-z]+", f"{path} {json.dumps(body)}"))
        if operation.method != "POST" or not path.startswith("/shares"):
            for row in changed:
                require(row[1] in named or row[0] == "member" and row[2] in named, f"a row of {row[1]} changed: {row} after {what}")
        self.check_fields(rights, operation, names, answer, what)
        if changed:
            self.counts["changed"] += 1
            for method, undo_path, undo_body in operation.undo:
                self.by_root(method, undo_path.format(**names), filled(undo_body, names), (200, 201, 202, 204, 404, 409))

    def check_fields(self, rights: Rights, operation: Operation, names: dict, answer, what: str) -> None:
        if operation.method != "GET" or not isinstance(answer, dict):
            return
        path, _, query = operation.path.partition("?")
        if path == "/users/{user}":
            self.check_user(rights, names["user"], answer, bool(query), what)
            if "auth_state" in answer:
                same(answer["auth_state"], {"of": names["user"]}, f"the stored state in {what}")
                self.counts["auth state"] += 1
        if path == "/groups/{group}":
            same(set(answer), rights.fields(GROUP_FIELDS, "group", names["group"]), f"fields of {what}")
        if path == "/services/{service}":
            same(set(answer), rights.fields(SERVICE_FIELDS, "service", names["service"]), f"fields of {what}")
        if path == "/users/{user}/servers/{server}" and "name" in answer:
            self.check_server(rights, (names["user"], answer["name"]), answer, what)

    def check_user(self, rights: Rights, user: str, model: dict, with_stopped: bool, what: str) -> None:
        """A user's model has the fields, and of the servers those, that the scopes reach."""
        expected = rights.fields(USER_FIELDS, "user", user)
        # Servers are a part of somebody of whom something is shown.
        reached = {server for server in ("", "n-one", "n-new") if expected and rights.reaches("read:servers", "server", (user, server))}
        shown = model.get("servers", {})
        same(set(model) - {"servers"}, expected - {"servers"}, f"fields of {user} in {what}")
        same("servers" in model, "servers" in expected or bool(shown), f"whether there are servers of {user} in {what}")
        require(set(shown) <= reached, f"shows servers {set(shown) - reached} of {user}: {what}")
        require(not with_stopped or reached & {"n-one"} <= set(shown), f"leaves a server of {user} out: {what}")
        for name, server in shown.items():
            self.check_server(rights, (user, name), server, what)

    def check_server(self, rights: Rights, server: tuple[str, str], model: dict, what: str) -> None:
        shows_state = rights.reaches("admin:server_state", "server", server)
        same("state" in model, shows_state, f"whether the state of {server} is in {what}")
        same((model["full_name"], model["name"]), ("/".join(server), server[1]), f"names of {server} in {what}")
        self.counts["server with state" if shows_state else "server without state"] += 1

    def listing(self, token: str, rights: Rights) -> None:
        if self.hub.kind == "orrery" and self.dice.random() < 0.3:
            return self.by_number(token, rights)
        kind = self.dice.choice(("users", "groups", "services"))
        scope, one = f"list:{kind}", kind[:-1]
        with_stopped = self.dice.random() < 0.5
        status, answer = self.asker.ask(token, "GET", f"/{kind}?limit=200" + ("&include_stopped_servers=1" if with_stopped else ""))
        what = f"GET /{kind} with {rights.raw}: {status} {json.dumps(answer)[:300]}"
        limits = rights.reach.get(scope)
        if limits is None:
            require(status == 403, f"not refused: {what}")
            self.counts["refused"] += 1
            return
        known = {"users": (*USERS, "u-extra", "root"), "groups": tuple(GROUPS), "services": SERVICES}[kind]
        reached = {name for name in known if rights.reaches(scope, one, name)}
        if status == 403:
            # Lists take filters by user and group alone; with one of another kind there is nothing to list.
            require(not limits <= {""} and not reached or any(limit.startswith(("server=", "service=", "user=" if kind == "groups" else "-")) for limit in limits), f"refused: {what}")
            self.counts["refused"] += 1
            return
        same(status, 200, what)
        listed = {entry["name"]: entry for entry in (answer.values() if isinstance(answer, dict) else answer) if entry}
        strangers = {name for name in listed if name not in reached and name in known}
        require(not strangers, f"lists {strangers}: {what}")
        require(not limits or "" in limits or all(name in reached for name in listed), f"lists more than {reached}: {what}")
        for name, entry in listed.items():
            if kind == "users" and name in USERS:
                self.check_user(rights, name, entry, with_stopped, what)
                # Stored states are for those who ask for one user.
                same(entry.get("auth_state"), None, f"the stored state of {name} in {what}")
            if kind == "groups":
                same(set(entry), rights.fields(GROUP_FIELDS, "group", name), f"fields of {name} in {what}")
            if kind == "services":
                same(set(entry), rights.fields(SERVICE_FIELDS, "service", name), f"fields of {name} in {what}")
        self.counts["listed"] += 1

    def by_number(self, token: str, rights: Rights) -> None:
        """Tokens and sessions of everybody, of which a holder gets those of whom they reach."""
        kind = self.dice.choice(("tokens", "sessions"))
        status, answer = self.asker.ask(token, "GET", f"/{kind}")
        what = f"GET /{kind} with {rights.raw}: {status} {json.dumps(answer)[:300]}"
        if "read:tokens" not in rights.reach:
            require(status == 403, f"not refused: {what}")
        elif status == 200:
            entries = answer if isinstance(answer, list) else answer["items"]
            strangers = {entry["user"] for entry in entries if entry.get("user") and not rights.reaches("read:tokens", "user", entry["user"])}
            strangers |= {entry["service"] for entry in entries if entry.get("service") and not rights.reaches("read:tokens", "service", entry["service"])}
            require(not strangers, f"shows those of {strangers}: {what}")
            self.counts["listed"] += 1
        owner = self.dice.choice(USERS)
        if kind == "tokens" and not rights.reaches("tokens", "user", owner):
            before = self.rows()
            status, answer = self.asker.ask(token, "DELETE", f"/tokens/{self.tokens[owner]}")
            require(status in (403, 404), f"DELETE of a token of {owner} with {rights.raw}: {status} {answer}")
            same(self.rows(), before, f"rows after a DELETE of a token of {owner} with {rights.raw}")
            self.counts["refused"] += 1


def check_coverage(trial: Trial) -> None:
    """Each operation of the API's own document is drawn, or there is a reason."""
    status, document = trial.asker.ask(trial.root, "GET", "/openapi.json")
    same(status, 200, "GET /openapi.json")
    drawn = {f"{operation.method} {plain(operation.path)}" for operation in trial.operations} | set(NOT_DRAWN)
    known = {f"{method.upper()} {plain(path)}" for path, methods in document["paths"].items() for method in methods if method != "parameters"}
    same(sorted(known - drawn), [], "operations that are not drawn")
    same(sorted(drawn - known), [], "operations that are not in the document")


def plain(path: str) -> str:
    """A path with a star for what is named in it."""
    parts = path.partition("?")[0].split("/")
    fixed = {"users", "groups", "services", "shares", "share-codes", "proxy", "info", "metrics", "shutdown", "audit", "user", "tokens", "activity", "server", "servers", "progress"}
    fixed |= {"properties", "shared", "admin-access", "sessions", "accesses", "authorizations", "cookie", "token", "oauth2", "authorize", "events", "health", "openapi.json", "", "*"}
    return "/".join(part if part in fixed else "*" for part in parts)


def filled(body, names: dict):
    if body is None:
        return None
    text = json.dumps(body)
    for name, value in names.items():
        text = text.replace(f"{{{name}}}", value)
    return json.loads(text)


def chains(trial: Trial, rounds: int) -> None:
    """A token makes a token, which makes a token: none may do more than the person whose they are."""
    for user in USERS:
        whole = trial.by_root("POST", f"/users/{user}/tokens", {"note": "whole"})["token"]
        _, model = trial.asker.ask(whole, "GET", "/user")
        own = set(model["scopes"])
        require(f"tokens!user={user}" in own and not any("!" not in scope for scope in own - {"read:users:name"}), f"scopes of {user}: {own}")
        for _ in range(rounds):
            token = whole
            for _ in range(3):
                held = trial.dice.sample(sorted(own), trial.dice.randint(1, 4))
                foreign = random_scopes(trial.dice) + ["admin:users"]
                is_foreign = trial.dice.random() < 0.4
                wish = held + foreign if is_foreign else trial.dice.choice((held + [f"tokens!user={user}"], ["inherit"], ["self"], None))
                status, made = trial.asker.ask(token, "POST", f"/users/{user}/tokens", {} if wish is None else {"scopes": wish})
                trial.counts[f"chain {status}"] += 1
                if is_foreign:
                    same(status, 400, f"{user}'s token asks for {wish}: {made}")
                    continue
                same(status, 201, f"{user}'s token asks for {wish}: {made}")
                require(set(made["scopes"]) <= own, f"{user}'s new token may {set(made['scopes']) - own}")
                _, seen = trial.asker.ask(made["token"], "GET", "/user")
                require(set(seen["scopes"]) <= own, f"{user}'s new token has {set(seen['scopes']) - own}")
                token = made["token"]


def config(service_scopes: list[list[str]]) -> str:
    return f"""
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = {PASSWORD!r}
c.Authenticator.allow_all = True
c.Authenticator.admin_users = {{"root"}}
c.Authenticator.allowed_users = {set(USERS)!r}
c.Authenticator.enable_auth_state = True
c.JupyterHub.allow_named_servers = True
c.JupyterHub.load_groups = {{name: {{"users": sorted(users)}} for name, users in {GROUPS!r}.items()}}
c.Spawner.cmd = [{sys.executable!r}, "-I", "-S", {str(SMALL_SERVER)!r}]
c.Spawner.args = []
roles = {service_scopes!r}
c.JupyterHub.services = [{{"name": name, "api_token": "the-token-of-" + name + "-0123456789"}} for name in {SERVICES!r}] + [
    {{"name": f"holder-{{n}}", "api_token": f"the-token-of-holder-{{n:04}}"}} for n in range(len(roles))
]
c.JupyterHub.load_roles = [{{"name": f"of-holder-{{n}}", "scopes": scopes, "services": [f"holder-{{n}}"]}} for n, scopes in enumerate(roles)]
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hub", choices=[*KINDS, "both"], default="both")
    parser.add_argument("--seed", type=int, default=1, help="0 for another one each time")
    parser.add_argument("--rounds", type=int, default=3000)
    options = parser.parse_args()
    seed = options.seed or random.randrange(1, 1 << 30)
    code = 0
    for kind in KINDS if options.hub == "both" else [options.hub]:
        code |= tell(kind, seed, options.rounds // 5 if kind == "upstream" else options.rounds)
    exit_with(code)


def tell(kind: str, seed: int, rounds: int) -> int:
    print(f"== escalation: {kind}, seed {seed}", flush=True)
    steps = Steps(f"escalation {kind}")
    service_scopes = scopes_of_holders(kind, random.Random(f"{seed}, services"), with_filters=False)
    with Hub(kind, config(service_scopes)) as hub:
        with steps.step("the hub starts, with groups, servers, tokens and holders of random rights"):
            hub.start(JUPYTERHUB_CRYPT_KEY=CRYPT_KEY).wait_running()
            trial = Trial(hub, seed)
            trial.prepare(service_scopes)
        first = trial.rows()
        with steps.step("each operation keeps to the rights of those who may, and of those who may not"):
            trial.once_each()
        for part in range(6):
            with steps.step(f"{rounds // 6} requests keep to their rights ({part + 1} of 6)"):
                for _ in range(rounds // 6):
                    trial.request()
        with steps.step("tokens made by tokens may do no more than their people"):
            chains(trial, 10)
        if kind == "orrery":
            with steps.step("each operation of the API's document was among them"):
                check_coverage(trial)
        with steps.step("administrators, roles and services are those of before"):
            # Somebody who was deleted and made again has another cookie.
            kept, of_before = ([row[:3] for row in rows if row[0] in ("role of", "service", "user")] for rows in (trial.rows(), first))
            same(Counter(kept) - Counter(of_before), Counter(), "new rows")
            same(Counter(of_before) - Counter(kept), Counter(), "rows that are gone")
        with steps.step("each kind of outcome was seen often"):
            print(f"      {dict(trial.counts)}", flush=True)
            for outcome, least in (("refused", rounds // 4), ("permitted", rounds // 10), ("changed", rounds // 60), ("listed", rounds // 300), ("auth state", 1), ("server with state", 1), ("server without state", 1)):
                require(trial.counts[outcome] >= least, f"{outcome}: {trial.counts[outcome]} times only")
    return steps.finish()


if __name__ == "__main__":
    main()
