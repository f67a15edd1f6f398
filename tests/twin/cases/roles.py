"""Roles that the configuration gives, and what a start makes of them. Each case has a hub of its own, which is
started once with each of several configurations; what stands in the database then is compared."""

import sqlite3

from flows import call_at
from harness.client import Person
from harness.hub import Hub
from suite import script
from wire import QUERIES

PASSWORD = "a-password-for-roles"
TOKEN = "the-token-of-the-first-of-services"
BASE = f"""
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = {PASSWORD!r}
c.Authenticator.allow_all = True
c.JupyterHub.services = [{{"name": "first", "api_token": {TOKEN!r}}}, {{"name": "second", "api_token": "the-token-of-the-second-one", "admin": True}}]
"""
KEPT = ("role", "user", "user's role", "group", "group's role", "member", "service's role", "token")


def started(wire, *configs: str, then=None) -> dict:
    """What is in the database after each start, or that there was none. `then` does something while the first runs."""
    found = {}
    # Only for its folder, which all of them use in turn.
    with Hub(wire.hub.kind) as frame:
        for number, config in enumerate(configs):
            hub = Hub(wire.hub.kind, BASE + config, folder=frame.folder, keep=True)
            try:
                hub.start()
                try:
                    hub.wait_running(120)
                except AssertionError:
                    if hub.process.poll() is None:
                        raise
                    found[f"start {number}"] = "refused"
                    continue
                if then and number == 0:
                    then(hub)
            finally:
                hub.stop()
            found[f"start {number}"] = rows(hub)
    return found


def rows(hub: Hub) -> list[str]:
    database = sqlite3.connect(hub.folder / "jupyterhub.sqlite", timeout=30)
    try:
        return sorted(repr((kind, *row)) for kind in KEPT for row in database.execute(QUERIES[kind]))
    finally:
        database.close()


def change(hub: Hub, *statements: str) -> None:
    database = sqlite3.connect(hub.folder / "jupyterhub.sqlite", timeout=30)
    try:
        for statement in statements:
            database.execute(statement)
        database.commit()
    finally:
        database.close()


def load(*roles: dict, more: str = "") -> str:
    return f"c.JupyterHub.load_roles = {list(roles)!r}\n{more}"


@script("roles: come, change and go with the configuration")
def come_and_go(wire):
    painters = {"name": "painter", "description": "paints", "scopes": ["users", "groups"], "users": ["ada", "bob"], "groups": ["crew", "choir"], "services": ["first"]}
    groups = 'c.JupyterHub.load_groups = {"crew": {"users": ["ada"]}, "choir": {"users": ["bob", "carol"]}}\n'
    return started(
        wire,
        load(painters, {"name": "elephant", "scopes": ["read:hub"]}, {"name": "quiet"}, {"name": "user", "scopes": ["self", "shutdown"]}, more=groups),
        load(painters | {"description": "paints with colours", "scopes": ["users"], "users": ["ada"], "groups": ["crew"]}, {"name": "quiet", "scopes": ["groups!group=crew"]}, more=groups),
        load(painters | {"services": []}, more=groups),
        "",
    )


@script("roles: what is wrong with them is told at the start")
def wrong(wire):
    return started(
        wire,
        load({"name": "painter", "scopes": ["self"]}, {"name": "painter", "scopes": ["self"]}),
        load({"name": "admin", "scopes": ["shutdown"]}),
        load({"scopes": ["users"]}),
        load({"name": "painter", "scopes": ["uses"]}),
    )


@script("scopes: custom ones that are wrong")
def wrong_scopes(wire):
    scopes = ({"no-prefix": {"description": "x"}}, {"custom:one": {"description": "x", "subscopes": ["read:users"]}})
    return started(wire, *[f"c.JupyterHub.custom_scopes = {one!r}\n" for one in scopes])


@script("roles: whom the role `user` has")
def of_users(wire):
    def make(hub: Hub) -> None:
        call_at(hub, "the-token-of-the-second-one", "POST", "/users", {"usernames": ["alpha", "beta"]})

    changed = {"name": "user", "scopes": ["self", "read:hub"]}
    return started(
        wire,
        "",
        load(changed, more='c.Authenticator.allowed_users = {"gamma"}\n'),
        load(changed | {"users": ["alpha", "gamma"]}),
        load(changed | {"users": []}),
        then=make,
    )


@script("roles: of a user whom a role alone names")
def named_by_a_role(wire):
    return started(wire, load({"name": "new-role", "scopes": ["read:users"], "users": ["not-there-yet"]}))


@script("roles: the role `user` is nobody's, and then everybody's again")
def of_nobody_and_everybody(wire):
    def make(hub: Hub) -> None:
        call_at(hub, "the-token-of-the-second-one", "POST", "/users", {"usernames": ["alpha"]})

    found = started(wire, "", load({"name": "user", "users": []}), "", then=make)
    return {start: [row for row in rows if row.startswith('("user')] for start, rows in found.items()}


@script("roles: whom the role `admin` has")
def of_admins(wire):
    return started(
        wire,
        'c.Authenticator.admin_users = {"alpha", "beta"}\n',
        "",
        load({"name": "admin"}, more='c.Authenticator.admin_users = {"gamma"}\n'),
        load({"name": "admin", "users": ["alpha", "delta"]}, more='c.Authenticator.admin_users = {"gamma"}\n'),
        load({"name": "admin", "users": ["alpha"]}),
        load({"name": "admin", "users": []}),
    )


@script("roles: tokens of the configuration")
def of_tokens(wire):
    tokens = "c.JupyterHub.api_tokens = {'a-token-of-the-configuration-1': 'ada', 'a-token-of-the-configuration-2': 'root'}\n"
    return started(wire, load({"name": "reader", "scopes": ["read:users"]}, more=tokens + 'c.Authenticator.admin_users = {"root"}\nc.Authenticator.allowed_users = {"ada"}\n'))


@script("roles: of a database that has none, and of whoever logs in")
def lost(wire):
    def log_in(hub: Hub) -> None:
        for name in ("ada", "bob", "ada"):
            Person(hub.origin, name, PASSWORD).sign_in()

    def lose(hub: Hub) -> None:
        call_at(hub, "the-token-of-the-second-one", "POST", "/users", {"usernames": ["ada", "bob"]})
        call_at(hub, "the-token-of-the-second-one", "POST", "/users/ada/tokens", {})
        change(hub, *[f"DELETE FROM {table}" for table in ("user_role_map", "group_role_map", "service_role_map", "roles")])

    return {"logins": started(wire, "", then=log_in), "lost": started(wire, "", "", then=lose)}
