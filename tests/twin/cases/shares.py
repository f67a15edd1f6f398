"""Shares and their codes: giving, looking, taking, and what the other may then do."""

import sqlite3

from flows import browser, call
from suite import R, script, story, table
from world import BROWSERS, EVERYBODY, SEVERAL

PAGED = {"Accept": "application/jupyterhub-pagination+json"}
BACK = [R("PATCH /shares/ada/one", {"user": "bob"})]
WHO = "admin ada bob erin for-ada dave reading teller plain boss nobody"

# --- looking

table("shares", EVERYBODY, "GET /shares/ada", "GET /shares/ada/one", "GET /share-codes/ada", "GET /users/erin/shared", "GET /groups/lab/shared")
table("shares", SEVERAL + " erin reading", "GET /shares/ada/none", "GET /shares/no-such-user", "GET /shares/no-such-user/", "GET /shares/no-such-user/one", "GET /users/no-such-user/shared", "GET /groups/no-such-group/shared", "GET /share-codes/ada/one", "GET /share-codes/ada/none", "GET /share-codes/no-such-user", "GET /share-codes/no-such-user/", "GET /shares")
table("shares", "admin erin carol ada reading teller", "GET /users/erin/shared/ada/one", "GET /users/carol/shared", "GET /users/carol/shared/ada/one", "GET /users/erin/shared/ada/", "GET /users/erin/shared/ada/none", "GET /users/erin/shared/no-such-user/", "GET /users/no-such-user/shared/ada/one", "GET /groups/lab/shared/ada/one", "GET /groups/lab/shared/ada/none", "GET /groups/no-such-group/shared/ada/one", "GET /groups/class/shared/ada/one", "GET /users/ada/shared/bob/")
for query in ("?limit=1", "?limit=1&offset=1", "?offset=5", "?limit=0", "?limit=-1", "?limit=x", "?offset=x", "?limit=1000", "?offset=1&limit=1&more=2"):
    table("shares", "admin", R(f"GET /shares/ada{query}"), R(f"GET /users/erin/shared{query}", headers=PAGED))
table("shares", BROWSERS, "GET /shares/ada")
table("shares", "admin", "OPTIONS /shares/ada/one", "PUT /shares/ada/one", "POST /users/ada/shared")

# --- giving

table("share", WHO, R("POST /shares/ada/one", {"user": "bob"}), then=BACK)
table("share", WHO, R("POST /shares/ada/one", {"group": "class"}), then=[R("PATCH /shares/ada/one", {"group": "class"})])
table("share", BROWSERS, R("POST /shares/ada/one", {"user": "ada"}), then=[R("PATCH /shares/ada/one", {"user": "ada"})])
table("share", "admin", R("POST /shares/ada/one", {"user": "bob", "scopes": ["read:servers"]}), R("POST /shares/ada/one", {"user": "bob", "scopes": ["read:servers!server=ada/one", "access:servers", "access:servers!server=ada/one"]}), R("POST /shares/ada/one", {"user": "bob", "scopes": []}), R("POST /shares/ada/one", {"user": "bob", "scopes": None}), R("POST /shares/ada/one", {"user": "bob", "group": None}), R("POST /shares/ada/one", {"user": "bob", "group": ""}), R("POST /shares/ada/one", {"user": "ada"}), R("POST /shares/ada/one", {"user": "bob", "scopes": ["custom:shop"]}), then=BACK + [R("PATCH /shares/ada/one", {"user": "ada"})])
for body in (
    None,
    {},
    [1],
    "text",
    {"user": "bob", "group": "class"},
    {"user": ""},
    {"group": ""},
    {"user": 5},
    {"user": ["bob"]},
    {"group": 5},
    {"user": "bob", "more": 1},
    {"user": "bob", "expires_in": 60},
    {"user": "bob", "scopes": "access:servers"},
    {"user": "bob", "scopes": [1]},
    {"user": "bob", "scopes": ["no-such-scope"]},
    {"user": "bob", "scopes": ["access:servers!server=ada/"]},
    {"user": "bob", "scopes": ["access:servers!user=ada"]},
    {"user": "bob", "scopes": ["access:servers!server"]},
    {"user": "no-such-user"},
    {"group": "no-such-group"},
):
    table("share", "admin", R("POST /shares/ada/one", body), R("PATCH /shares/ada/one", body))
table("share", "admin", R("POST /shares/ada/one", raw=b"{"), R("POST /shares/ada/none", {"user": "bob"}), R("POST /shares/no-such-user/", {"user": "bob"}), R("POST /shares/ada", {"user": "bob"}), R("PATCH /shares/ada", {"user": "bob"}), "DELETE /shares/ada")
table("share", "ada bob reading nobody", R("POST /shares/ada", {"user": "bob"}), R("PATCH /shares/ada", {"user": "bob"}), "DELETE /shares/ada", R("POST /shares/ada/none", {"user": "ada"}))
table("share", "ada", R("POST /shares/ada/one", {"user": "bob", "scopes": ["admin:servers"]}), R("POST /shares/ada/one", {"user": "ada", "scopes": ["admin:server_state"]}), R("POST /shares/ada/one", {"user": "ada", "scopes": ["read:servers", "start:servers"]}), R("POST /shares/ada/one", {"user": "ada", "scopes": ["custom:shop"]}), then=[R("PATCH /shares/ada/one", {"user": "ada"})])
table("share", "ada bob", R("POST /shares/ada/one", {"user": "no-such-user"}), R("POST /shares/ada/one", {"group": "no-such-group"}))
story(
    "a share grows and shrinks",
    ("admin", R("POST /shares/ada/one", {"user": "bob"})),
    ("admin", R("POST /shares/ada/one", {"user": "bob"})),
    ("admin", R("POST /shares/ada/one", {"user": "bob", "scopes": ["read:servers!server=ada/one"]})),
    ("bob", "GET /users/bob/shared"),
    ("bob", "GET /users/bob/shared/ada/one"),
    ("admin", R("PATCH /shares/ada/one", {"user": "bob", "scopes": ["admin:servers!server=ada/one"]})),
    ("admin", R("PATCH /shares/ada/one", {"user": "bob", "scopes": ["read:servers"]})),
    ("admin", R("PATCH /shares/ada/one", {"user": "bob", "scopes": ["access:servers!server=ada/one"]})),
    ("admin", R("PATCH /shares/ada/one", {"user": "bob", "scopes": ["read:servers!server=ada/one"]})),
    ("bob", "GET /users/bob/shared/ada/one"),
    ("admin", R("PATCH /shares/ada/one", {"user": "bob"})),
)
story(
    "somebody leaves what is shared with them",
    ("admin", R("POST /shares/ada/one", {"user": "bob"})),
    ("erin", "DELETE /users/bob/shared/ada/one"),
    ("ada", "DELETE /users/bob/shared/ada/one"),
    ("reading", "DELETE /users/bob/shared/ada/one"),
    ("bob", "DELETE /users/bob/shared/ada/one"),
    ("bob", "DELETE /users/bob/shared/ada/one"),
    ("bob", "DELETE /users/bob/shared/ada/none"),
    ("bob", "DELETE /users/bob/shared/no-such-user/one"),
)
story(
    "a group leaves what is shared with it",
    ("admin", R("POST /shares/ada/one", {"group": "class"})),
    ("bob", "GET /users/bob/shared"),
    ("bob", "DELETE /users/bob/shared/ada/one"),
    ("bob", "DELETE /groups/class/shared/ada/one"),
    ("reading", "GET /groups/class/shared/ada/one"),
    ("admin", "GET /groups/class/shared"),
    ("admin", "DELETE /groups/class/shared/ada/one"),
    ("admin", "DELETE /groups/class/shared/ada/one"),
    ("admin", "DELETE /groups/class/shared/no-such-user/one"),
    ("admin", "DELETE /groups/no-such-group/shared/ada/one"),
)
story(
    "nothing of a server is shared any more",
    ("ada", "PUT /users/ada/servers/to-share"),
    ("admin", R("POST /shares/ada/to-share", {"user": "bob"})),
    ("admin", R("POST /shares/ada/to-share", {"group": "class"})),
    ("admin", "POST /share-codes/ada/to-share"),
    ("reading", "DELETE /shares/ada/to-share"),
    ("bob", "DELETE /shares/ada/to-share"),
    ("ada", "DELETE /shares/ada/to-share"),
    ("ada", "DELETE /shares/ada/to-share"),
    ("ada", "GET /shares/ada/to-share"),
    ("admin", R("POST /shares/ada/to-share", {"user": "bob"})),
    ("ada", R("DELETE /users/ada/servers/to-share", {"remove": True})),
    ("bob", "GET /users/bob/shared"),
)
story(
    "a share stays with its server when that or its owner is renamed",
    ("admin", "POST /users/owner"),
    ("admin", "PUT /users/owner/servers/before"),
    ("admin", R("POST /shares/owner/before", {"user": "bob"})),
    ("admin", R("POST /share-codes/owner/before", {"scopes": ["access:servers"]})),
    ("admin", R("PATCH /users/owner", {"name": "owner-2"})),
    ("bob", "GET /users/bob/shared"),
    ("admin", "GET /share-codes/owner-2"),
    ("admin", R("PATCH /users/owner-2/servers/before", {"name": "after"})),
    ("bob", "GET /users/bob/shared"),
    ("bob", R("GET /user", ignore=("last_activity",))),
    ("admin", "GET /shares/owner-2"),
    ("admin", "GET /share-codes/owner-2/after"),
    ("admin", "DELETE /users/owner-2"),
    ("bob", "GET /users/bob/shared"),
)
story(
    "a share goes with whom it is for",
    ("admin", "POST /users/guest"),
    ("admin", "POST /groups/guests"),
    ("admin", R("POST /shares/ada/one", {"user": "guest"})),
    ("admin", R("POST /shares/ada/one", {"group": "guests"})),
    ("admin", "DELETE /users/guest"),
    ("admin", "DELETE /groups/guests"),
    ("ada", "GET /shares/ada/one"),
)

# --- codes

CODES_AWAY = ["DELETE /share-codes/ada/one"]
table("share code", WHO, "POST /share-codes/ada/one", then=["GET /share-codes/ada/one", *CODES_AWAY])
table("share code", "admin", *(R("POST /share-codes/ada/one", body) for body in ({}, {"scopes": ["read:servers"]}, {"scopes": []}, {"scopes": ["custom:shop"]}, {"expires_in": 60}, {"expires_in": "60"}, {"expires_in": 60.0}, {"expires_in": 31536000})), then=["GET /share-codes/ada", *CODES_AWAY])
for body in ([1], "text", {"more": 1}, {"user": "bob"}, {"scopes": "x"}, {"scopes": ["no-such-scope"]}, {"scopes": ["access:servers!server=ada/"]}, {"expires_in": None}, {"expires_in": 59}, {"expires_in": -1}, {"expires_in": 31536001}, {"expires_in": "soon"}, {"expires_in": 60.5}, {"expires_in": True}):
    table("share code", "admin", R("POST /share-codes/ada/one", body))
table("share code", "ada", R("POST /share-codes/ada/one", {"scopes": ["admin:server_state"]}), R("POST /share-codes/ada/one", {"scopes": ["custom:shop"]}), "PATCH /share-codes/ada/one", "PUT /share-codes/ada/one")
table("share code", "admin ada bob reading nobody", "POST /share-codes/ada", "DELETE /share-codes/ada", "POST /share-codes/ada/none", "POST /share-codes/no-such-user/", "DELETE /share-codes/ada/none", "DELETE /share-codes/ada/one?id=sc_999999", "DELETE /share-codes/ada/one?id=invalid", "DELETE /share-codes/ada/one?code=no-such-code", "DELETE /share-codes/no-such-user/")
for who in ("ada", "for-ada", "bob", "reading", "teller"):
    story(
        f"a code is revoked by {who}",
        ("admin", "POST /share-codes/ada/one"),
        (who, "DELETE /share-codes/ada/one?code={code}"),
        (who, "DELETE /share-codes/ada/one?code={code}"),
        (who, "DELETE /share-codes/ada/one?id={id}"),
        ("admin", "POST /share-codes/ada/one"),
        (who, "DELETE /share-codes/bob/?id={id}"),
        (who, "DELETE /share-codes/ada/one?id={id}"),
        ("admin", "GET /share-codes/ada"),
        ("admin", "POST /share-codes/ada/one"),
        ("admin", "POST /share-codes/ada/one"),
        (who, "DELETE /share-codes/ada/one"),
        ("admin", "GET /share-codes/ada"),
        ("admin", "DELETE /share-codes/ada/one"),
    )


# --- accepting, and then

@script("a code is accepted on its page")
def accepted(wire):
    made = call(wire, "ada", "POST", "/share-codes/ada/one", {"scopes": ["access:servers", "read:servers"]})["body"]
    code = made["code"]
    wire.secrets.append(code)
    found = {"accept_url": made["accept_url"], "full_accept_url": made["full_accept_url"]}
    bob, ada = browser(wire, "bob"), browser(wire, "ada")
    for who, person in (("bob", bob), ("ada", ada)):
        for name, query in (("none", ""), ("unknown", "?code=no-such-code"), ("good", f"?code={code}")):
            page = person.page("/hub/accept-share" + query, follow=False)
            found[f"{who} looks with {name}"] = page.status_code
            if name == "good" and who == "bob":
                found["the page tells of"] = {word: word in page.text for word in ("ada", "/user/ada/one/", "one")}
            if name != "good" or who == "ada":
                found[f"{who} accepts with {name}"] = person.form("/hub/accept-share", {"code": query[6:]} if query else {}).status_code
    found["without xsrf"] = bob.form("/hub/accept-share", {"code": code}, xsrf=False).status_code
    found["not logged in"] = place(send_page(wire, f"/hub/accept-share?code={code}"))
    found["before"] = call(wire, "bob", "GET", "/users/ada/servers/one")["status"]
    found["accepted"] = place(bob.form("/hub/accept-share", {"code": code}))
    found["shares"] = call(wire, "bob", "GET", "/users/bob/shared/ada/one")["body"].get("scopes")
    found["codes"] = [(one["exchange_count"], one["last_exchanged_at"] is not None) for one in call(wire, "ada", "GET", "/share-codes/ada/one")["body"]["items"]]
    found["the server's model"] = call(wire, "bob", "GET", "/users/ada/servers/one")
    found["the user's model"] = call(wire, "bob", "GET", "/users/ada")
    found["start"] = call(wire, "bob", "POST", "/users/ada/servers/one")["status"]
    found["again"] = place(bob.form("/hub/accept-share", {"code": code}))
    found["scopes"] = call(wire, "bob", "GET", "/user")["body"]["scopes"]
    call(wire, "ada", "PATCH", "/shares/ada/one", {"user": "bob"})
    found["taken back"] = call(wire, "bob", "GET", "/users/ada/servers/one")["status"]
    call(wire, "ada", "DELETE", "/share-codes/ada/one")
    found["the code is gone"] = bob.form("/hub/accept-share", {"code": code}).status_code
    return found


@script("a code leads where its link says, but never away")
def leads(wire):
    code = call(wire, "ada", "POST", "/share-codes/ada/one")["body"]["code"]
    wire.secrets.append(code)
    bob = browser(wire, "bob")
    found = {}
    for state in ("stopped", "running"):
        path = "/hub/accept-share?" + requests_query(code=code)
        page = bob.page(path, follow=False)
        found[f"without next, {state}"] = (page.status_code, "running" in page.text, place(bob.form(path, {})))
        path = "/hub/accept-share?" + requests_query(code=code, next="/user/ada/one/lab/tree/a.ipynb?param=5")
        found[f"with next, {state}"] = (bob.page(path, follow=False).status_code, place(bob.form(path, {})))
        if state == "stopped":
            found["start"] = call(wire, "ada", "POST", "/users/ada/servers/one")["status"]
    found["stop"] = call(wire, "ada", "DELETE", "/users/ada/servers/one")["status"]
    for target in ("/hub/home", "/user/ada/one/lab/tree/a.ipynb?x=1#y", "https://example.com/hub/home", "//example.com/", "{origin}/user/ada/one/lab", "relative", "/\\example.com", "///example.com/"):
        path = "/hub/accept-share?" + requests_query(code=code, next=target.replace("{origin}", wire.hub.origin))
        found[f"next={target}"] = (bob.page(path, follow=False).status_code, place(bob.form(path, {})))
    call(wire, "ada", "PATCH", "/shares/ada/one", {"user": "bob"})
    call(wire, "ada", "DELETE", "/share-codes/ada/one")
    return found


@script("a share code ends when its time has come")
def code_expires(wire):
    code = call(wire, "ada", "POST", "/share-codes/ada/one", {"expires_in": 60})["body"]["code"]
    wire.secrets.append(code)
    with sqlite3.connect(wire.hub.folder / "jupyterhub.sqlite", timeout=30) as database:
        database.execute("UPDATE share_codes SET expires_at = '2020-01-01 00:00:00.000000'")
    database.close()
    bob = browser(wire, "bob")
    found = {
        "listed": call(wire, "ada", "GET", "/share-codes/ada")["body"]["items"],
        "looked at": bob.page(f"/hub/accept-share?code={code}", follow=False).status_code,
        "accepted": bob.form("/hub/accept-share", {"code": code}).status_code,
        "revoked": call(wire, "ada", "DELETE", f"/share-codes/ada/one?code={code}"),
    }
    call(wire, "ada", "DELETE", "/share-codes/ada/one")
    return found


@script("what is shared can be used, and no more when it is not")
def used(wire):
    found = {}
    call(wire, "ada", "POST", "/users/ada/servers/one")
    for name, wish in (("bob", {"user": "bob"}), ("carol", {"group": "lab"})):
        call(wire, "admin", "POST", "/shares/ada/one", wish)
        person = browser(wire, name)
        found[f"{name}'s model"] = sorted(call(wire, name, "GET", "/user")["body"]["scopes"])
        found[f"{name} at the hub"] = place(person.page("/hub/user/ada/one/", follow=False))
        found[f"{name} at another"] = person.page("/hub/user/ada/two/", follow=False).status_code
        found[f"{name} stops it"] = call(wire, name, "DELETE", "/users/ada/servers/one")["status"]
        call(wire, "admin", "PATCH", "/shares/ada/one", wish)
        found[f"{name} afterwards"] = sorted(call(wire, name, "GET", "/user")["body"]["scopes"])
        found[f"{name} at the hub afterwards"] = person.page("/hub/user/ada/one/", follow=False).status_code
    call(wire, "admin", "POST", "/shares/ada/one", {"group": "lab"})
    call(wire, "ada", "DELETE", "/users/ada/servers/one")
    return found


def place(answer):
    return answer.status_code, answer.headers.get("Location")


def send_page(wire, path):
    import requests

    return requests.get(wire.hub.origin + path, allow_redirects=False, timeout=30)


def requests_query(**query):
    from urllib.parse import urlencode

    return urlencode(query)
