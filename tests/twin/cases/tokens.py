"""Tokens: making, listing and revoking them, and what becomes of them."""

import sqlite3
from urllib.parse import quote

from flows import browser, call, with_token
from suite import R, script, story, table
from world import BROWSERS, EVERYBODY, PASSWORD, SEVERAL

AFTER = [R("DELETE /users/ada/tokens/{id}")]

# --- making

for body in (
    {},
    {"note": "a note"},
    {"note": ""},
    {"note": None},
    {"note": 0},
    {"note": "x" * 300},
    {"expires_in": 3600},
    {"expires_in": None},
    {"expires_in": True},
    {"scopes": []},
    {"scopes": None},
    {"scopes": ["self"]},
    {"scopes": ["inherit"]},
    {"scopes": ["read:users:name", "read:users:name"]},
    {"scopes": ["read:users!user"]},
    {"scopes": ["read:users!user=ada", "access:servers!server=ada/one"]},
    {"scopes": ["access:servers!server=ada/"]},
    {"roles": []},
    {"roles": ["user"]},
    {"roles": ["token"]},
    {"roles": ["server"]},
    {"more": "is left alone"},
):
    table("token", "ada", R("POST /users/ada/tokens", body), then=["GET /users/ada/tokens/{id}", *AFTER, "GET /users/ada/tokens/{id}"])
for body in (
    [1],
    "text",
    5,
    {"note": ["a"]},
    {"expires_in": "3600"},
    {"expires_in": 1.5},
    {"expires_in": 0},
    {"expires_in": -3},
    {"expires_in": [1]},
    {"scopes": "self"},
    {"scopes": {}},
    {"scopes": [1]},
    {"scopes": ["no-such-scope"]},
    {"scopes": ["read:users!no-such-filter=x"]},
    {"scopes": ["read:users!user="]},
    {"scopes": ["shutdown"]},
    {"scopes": ["read:users!user=bob"]},
    {"scopes": ["read:users!group=lab"]},
    {"scopes": ["admin:users!user=ada"]},
    {"scopes": ["access:servers!server=grace/"]},
    {"scopes": ["custom:shop"]},
    {"roles": "user"},
    {"roles": [1]},
    {"roles": ["no-such-role"]},
    {"roles": ["admin"]},
    {"roles": ["user"], "scopes": ["self"]},
    {"roles": ["user"], "scopes": []},
):
    table("token", "ada", R("POST /users/ada/tokens", body))
table("token", "ada", R("POST /users/ada/tokens", raw=b"{"), "PUT /users/ada/tokens", "PATCH /users/ada/tokens")
table("token", [name for name in EVERYBODY if name not in ("boss",)] + ["boss"], R("POST /users/ada/tokens", {"note": "by whom?"}), then=AFTER)
table("token", "admin ada bob for-class plain nobody heidi for-ada", R("POST /users/grace/tokens", {"scopes": ["read:users:name!user"]}), then=[R("DELETE /users/grace/tokens/{id}")])
table("token", SEVERAL, R("POST /users/no-such-user/tokens"))
table("token", "dave for-class teller", R("POST /users/bob/tokens", {"scopes": ["read:users!user"]}), then=[R("DELETE /users/bob/tokens/{id}")])
table("token", "dave for-class teller", R("POST /users/carol/tokens", {"scopes": ["read:users!user"]}), then=[R("DELETE /users/carol/tokens/{id}")])
table("token", "carol", R("POST /users/carol/tokens", {"scopes": ["custom:shop:read"]}), R("POST /users/carol/tokens", {"scopes": ["read:users:name!group=class"]}), R("POST /users/carol/tokens", {"scopes": ["read:users:name!user=bob"]}), R("POST /users/carol/tokens", {"scopes": ["custom:shop"]}), R("POST /users/carol/tokens", {"scopes": ["list:users!user=ada"]}), then=[R("DELETE /users/carol/tokens/{id}")])
table("token", BROWSERS, R("POST /users/ada/tokens", {"note": "by a browser"}), then=AFTER)
table("token by form", "ada-browser", R("POST /users/ada/tokens", raw=b"note=x", headers={"Content-Type": "application/x-www-form-urlencoded"}), R("POST /users/ada/tokens", raw=b'{"note": "x"}', headers={"Content-Type": "text/plain"}))
GOOD = {"username": "ada", "password": PASSWORD}
for auth in (
    GOOD,
    GOOD | {"more": 1},
    GOOD | {"username": "ADA"},
    GOOD | {"password": "wrong"},
    {"username": "ada"},
    {"password": PASSWORD},
    {},
    None,
    "text",
    [1],
    {"username": 5, "password": 5},
    {"username": "carol", "password": PASSWORD},
    {"username": "grace", "password": PASSWORD},
    {"username": "no-such-user", "password": PASSWORD},
):
    table("token by password", "nobody", R("POST /users/ada/tokens", {"auth": auth}), then=AFTER)
table("token by password", "bob wrong-token expired", R("POST /users/ada/tokens", {"auth": GOOD}), then=AFTER)
table("token by password", "nobody", R("POST /users/bob/tokens", {"auth": GOOD}), R("POST /users/no-such-user/tokens", {"auth": GOOD}), R("POST /users/ada/tokens", [1]), R("POST /users/ada/tokens", {"auth": GOOD, "scopes": ["shutdown"]}))

story("token by password: guesses have to wait", *[("nobody", R("POST /users/idle-1/tokens", {"auth": {"username": "guessed-at", "password": "wrong"}}))] * 7)

# --- listing and looking

SEEN = ("last_activity",)
table("tokens", EVERYBODY, R("GET /users/ada/tokens", ignore=SEEN))
table("tokens", BROWSERS, R("GET /users/ada/tokens", ignore=SEEN))
table("tokens", SEVERAL, R("GET /users/carol/tokens", ignore=SEEN), "GET /users/no-such-user/tokens", "GET /users/ada/tokens/", "GET /users/ada/tokens/a999999", "GET /users/ada/tokens/999999", "GET /users/ada/tokens/x1", "GET /users/ada/tokens/a", "GET /users/ada/tokens/a1x", "GET /users/no-such-user/tokens/a1")
table("tokens", "ada", "GET /users/ada/tokens/a-1", "GET /users/ada/tokens/a99999999999999999999", "GET /users/ada/tokens/%61999999")

# --- revoking

table("revoke", SEVERAL, "DELETE /users/ada/tokens/a999999", "DELETE /users/ada/tokens/", "DELETE /users/no-such-user/tokens/a1", "DELETE /users/ada/tokens/x")
for who in ("admin", "ada", "bob", "for-ada", "for-class", "dave", "teller", "plain", "reading", "ada-reading", "nobody", "ada-browser", "ada-browser-without-xsrf"):
    story(
        f"a token is revoked by {who}",
        ("boss", R("POST /users/ada/tokens", {"note": "to go"})),
        (who, "DELETE /users/ada/tokens/{id}"),
        (who, "DELETE /users/ada/tokens/{id}"),
        (who, "DELETE /users/bob/tokens/{id}"),
        ("boss", "DELETE /users/ada/tokens/{id}"),
    )
story(
    "a token is another user's",
    ("boss", R("POST /users/bob/tokens", {"note": "bob's"})),
    ("boss", "GET /users/ada/tokens/{id}"),
    ("boss", "DELETE /users/ada/tokens/{id}"),
    ("boss", "DELETE /users/bob/tokens/{id}"),
)

# --- of old

for who in ("admin", "plain", "ada", "ada-naming", "nobody", "ada-browser", "wrong-token"):
    story(
        f"whose token is it, asks {who}",
        ("boss", R("POST /users/ada/tokens", {"scopes": ["read:users:name!user"]})),
        (who, R("GET /authorizations/token/{token}", ignore=SEEN)),
        (who, "GET /authorizations/token/0123456789abcdef0123456789abcdef"),
        (who, "GET /authorizations/token/x"),
        (who, "POST /authorizations/token"),
        (who, "GET /authorizations/cookie/jupyterhub-hub-login/forged"),
        (who, "GET /authorizations/cookie/no-such-cookie/forged"),
        ("boss", "DELETE /users/ada/tokens/{id}"),
    )
@script("whose cookie is it")
def whose_cookie(wire):
    cookie = browser(wire, "ada").cookie("jupyterhub-hub-login", "/hub/").value.strip('"')
    wire.secrets += [cookie, quote(cookie, safe="")]
    found = {}
    for who in ("admin", "plain", "ada", "ada-naming", "nobody", "wrong-token"):
        for name in ("jupyterhub-hub-login", "jupyterhub-user-ada", "another"):
            found[f"{who}: {name}"] = without_times(call(wire, who, "GET", f"/authorizations/cookie/{name}/{quote(cookie, safe='')}"))
    found["a part of it"] = call(wire, "admin", "GET", f"/authorizations/cookie/jupyterhub-hub-login/{quote(cookie[:-1], safe='')}")
    return found


table("authorizations", "plain nobody", "GET /authorizations/token", "GET /authorizations/cookie/jupyterhub-hub-login", "POST /authorizations/token/0123456789abcdef0123456789abcdef")
table("authorizations", "plain admin", "GET /authorizations/token/the-token-of-the-twins-service-plain-0123456789", "GET /authorizations/token/the-token-of-the-twins-service-boss-0123456789")


# --- what a token may do

SEEN_BY = ("/user", "/users", "/users/ada", "/users/bob", "/groups", "/services", "/proxy", "/info", "/users/ada/tokens", "/users/ada/server", "/shares/ada", "/users/ada/shared")


@script("a token may do what its scopes and its owner may, and no more")
def narrowed(wire):
    found = {}
    for number, (owner, scopes) in enumerate(
        [
            ("ada", ["read:users:name!user"]),
            ("ada", ["read:users!user", "list:users!user"]),
            ("ada", ["self"]),
            ("ada", ["access:servers!server=ada/one"]),
            ("ada", ["read:servers!server=ada/one", "read:users:name!server=ada/one"]),
            ("ada", []),
            ("dave", ["list:users!user=ada"]),
            ("dave", ["read:users!group=class", "list:users!group=class"]),
            ("carol", ["list:users", "read:users:name"]),
            ("carol", ["read:groups", "list:groups"]),
            ("grace", ["list:users!group=class", "read:users!group=class"]),
            ("grace", ["read:users:name", "list:users!user=bob"]),
            ("grace", ["admin:auth_state", "list:users!user=ada"]),
            ("grace", ["read:tokens!user=ada"]),
            ("grace", ["list:groups!group=lab", "read:groups!group=class"]),
            ("grace", ["read:servers!group=class", "list:users!group=class"]),
        ]
    ):
        made = call(wire, "boss", "POST", f"/users/{owner}/tokens", {"scopes": scopes})
        token = made["body"]["token"]
        for path in SEEN_BY:
            answer = with_token(wire, token, "GET", path)
            found[f"{number} {owner} {scopes} {path}"] = without_times(answer)
        call(wire, "boss", "DELETE", f"/users/{owner}/tokens/{made['body']['id']}")
        found[f"{number} revoked"] = with_token(wire, token, "GET", "/user")["status"]
    return found


@script("tokens made with tokens never hold more")
def handed_on(wire):
    found = {}
    first = call(wire, "boss", "POST", "/users/ada/tokens", {"scopes": ["tokens!user", "read:users:name!user"]})["body"]
    for number, wish in enumerate(({}, {"scopes": ["read:users:name!user"]}, {"scopes": ["read:users:groups!user"]}, {"scopes": ["shutdown"]}, {"roles": ["user"]}, {"scopes": ["inherit"]})):
        made = with_token(wire, first["token"], "POST", "/users/ada/tokens", wish)
        found[f"{number} {wish}"] = {"status": made["status"], "message": made["body"].get("message"), "scopes": sorted(made["body"].get("scopes", []))}
        if made["status"] == 201:
            call(wire, "boss", "DELETE", f"/users/ada/tokens/{made['body']['id']}")
    call(wire, "boss", "DELETE", f"/users/ada/tokens/{first['id']}")
    return found


@script("a token holds less as soon as its owner does")
def downgraded(wire):
    call(wire, "boss", "POST", "/users/downgraded", {"admin": True})
    made = call(wire, "boss", "POST", "/users/downgraded/tokens", {"scopes": ["list:users", "read:users:name"]})["body"]
    found = {"as admin": with_token(wire, made["token"], "GET", "/users/ada")}
    call(wire, "boss", "PATCH", "/users/downgraded", {"admin": False})
    found["as user"] = with_token(wire, made["token"], "GET", "/users/ada")
    found["list"] = with_token(wire, made["token"], "GET", "/users")
    found["self"] = without_times(with_token(wire, made["token"], "GET", "/user"))
    found["seen by an admin"] = call(wire, "admin", "GET", f"/users/downgraded/tokens/{made['id']}")["body"]["scopes"]
    found["seen by an admin"].sort()
    call(wire, "boss", "POST", "/groups/lab/users", {"users": ["downgraded"]})
    found["in a group"] = without_times(with_token(wire, made["token"], "GET", "/users"))
    call(wire, "boss", "DELETE", "/users/downgraded")
    found["gone"] = with_token(wire, made["token"], "GET", "/user")
    return found


@script("a token ends when its time has come")
def expired(wire):
    made = call(wire, "boss", "POST", "/users/ada/tokens", {"expires_in": 1000, "note": "ends soon"})["body"]
    found = {"before": with_token(wire, made["token"], "GET", "/user")["status"]}
    with sqlite3.connect(wire.hub.folder / "jupyterhub.sqlite", timeout=30) as database:
        database.execute("UPDATE api_tokens SET expires_at = '2020-01-01 00:00:00.000000' WHERE note = 'ends soon'")
    database.close()
    found["after"] = with_token(wire, made["token"], "GET", "/user")
    with sqlite3.connect(wire.hub.folder / "jupyterhub.sqlite", timeout=30) as database:
        database.execute("DELETE FROM api_tokens WHERE note = 'ends soon'")
    database.close()
    return found


# --- what the two do not agree about, last, for what it leaves

table("token, by no admin", "teller", R("POST /users/grace/tokens", {"scopes": ["read:users:name!user"]}), then=[R("DELETE /users/grace/tokens/{id}")])
table("token, with a note", "ada", R("POST /users/ada/tokens", {"note": 5}), then=[R("DELETE /users/ada/tokens/{id}")])

TIMES = {"last_activity", "created", "started", "expires_at", "pid"}


def without_times(value):
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key not in TIMES and key != "token_id"}
    if isinstance(value, list):
        return [without_times(item) for item in value]
    return value
