"""Users: lists and their pages, models, making, changing and deleting them."""

from suite import R, story, table
from world import BROWSERS, EVERYBODY, MANY, SEVERAL

PAGES = {"Accept": "application/jupyterhub-pagination+json"}
GONE = ["GET /users/new", "DELETE /users/new"]


def paged(line: str, accept: str = "") -> R:
    headers = {"Accept": accept} if accept else PAGES
    return R(line, headers=headers, label=f"Accept: {headers['Accept']}")


table("self", EVERYBODY, "GET /user")
table("self", BROWSERS, "GET /user")
table("self", "ada plain nobody", "HEAD /user", "POST /user", "PUT /user", "DELETE /user", "PATCH /user", "GET /user/", "GET /user?include_stopped_servers", "GET /user?x=1")

# Lists

table("users: list", EVERYBODY, "GET /users")
table("users: list", BROWSERS, "GET /users")
table("users: list", "admin carol dave for-class for-ada for-server culler", "GET /users?include_stopped_servers=1", "GET /users?include_stopped_servers", "GET /users?include_stopped_servers=0", "GET /users?include_stopped_servers=False")
table(
    "users: list: pages",
    "admin for-class",
    *[f"GET /users?{query}" for query in ("limit=2", "limit=2&offset=1", "offset=3", "offset=100", "limit=0", "limit=-3", "offset=-2", "limit=1000", "limit=2&limit=3", "limit=", "offset=", "limit=x", "offset=1.5", "limit=%20%32%20", "limit=1_0", "limit=99999999999999999999", "offset=99999999999999999999")],
    *[paged(f"GET /users{query}") for query in ("", "?limit=2", "?limit=2&offset=1", "?offset=3", "?offset=100", "?limit=0", "?limit=1000", "?limit=2&sort=-name", "?limit=1&x=%C3%A9+%26&y=&include_stopped_servers", "?limit=2&state=inactive", "?limit=1&name_filter=a", "?limit=x", "?name_filter=nothing-like-this")],
)
table(
    "users: list: pages",
    "admin",
    paged("GET /users", "application/json, Application/JupyterHub-Pagination+JSON"),
    paged("GET /users", "application/jupyterhub-pagination+json; q=1"),
    paged("GET /users", "text/html,application/jupyterhub-pagination+json"),
    paged("GET /users", "application/json"),
    paged("GET /users", "*/*"),
    R("GET /users?limit=1", headers=PAGES | {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "other.example.org"}, label="forwarded"),
)
table(
    "users: list: order",
    "admin for-class carol",
    *[f"GET /users?sort={sort}" for sort in ("id", "-id", "name", "-name")],
    *[f"GET /users?name_filter=idle-&sort={sort}" for sort in ("last_activity", "-last_activity", "-id", "name")],
    *[f"GET /users?sort={sort}" for sort in ("", "-", "--name", "+name", "nothing", "created", "ID", "%20name")],
)
table(
    "users: list: filters",
    "admin for-class culler",
    *[f"GET /users?state={state}" for state in ("active", "inactive", "ready", "", "nothing", "Active")],
    *[f"GET /users?name_filter={name}" for name in ("a", "A", "da", "zo%C3%AB", "%25", "_", "%5C", "'", "%00", "nobody", "", "%20ada%20")],
    "GET /users?state=inactive&name_filter=a&sort=-name&limit=2&offset=1",
)

# One user

table("users: read", EVERYBODY, "GET /users/ada", "GET /users/erin", "GET /users/nothing")
table("users: read", BROWSERS, "GET /users/ada", "GET /users/bob")
table("users: read", "admin ada for-ada carol culler", "GET /users/ada?include_stopped_servers=1", "GET /users/grace", "GET /users/carol", "GET /users/bob?include_stopped_servers")
table(
    "users: read: names",
    "admin ada",
    *[f"GET /users/{name}" for name in ("zo%C3%AB", "o'brien@example.org", "o%27brien%40example.org", "ADA", "Frank", "frank", "%20ada", "ada%20", "ada%2F", "a%00b", "%FF", "x" * 300)],
    "GET /users/", "GET /users//", "GET /users/ada/", "GET /users/ada//", "GET /users/ada/nothing", "GET /users/ada?x", "HEAD /users/ada", "HEAD /users/nothing",
)

# Making one

table("users: make one", MANY, "POST /users/new", then=GONE)
table("users: make one", BROWSERS, R("POST /users/new", {}), then=GONE)
table("users: make one: who is there", SEVERAL, "POST /users/ada", "POST /users/grace")
table(
    "users: make one: bodies",
    "admin teller for-class",
    *[R("POST /users/new", body) for body in (
        {}, {"admin": False}, {"admin": True}, {"name": "other"}, {"admin": "yes"}, {"admin": 1}, {"admin": None}, {"groups": ["class"]}, {"groups": "class"}, {"groups": [1]}, {"roles": ["reader"]},
        {"auth_state": {"a": 1}}, {"auth_state": None}, {"nothing": 1}, {"name": 5}, [], [1], "text", 5, 0, False, True, {"users": ["a"]},
    )],
    R("POST /users/new", raw=b"null"),
    R("POST /users/new", raw=b"{"), R("POST /users/new", raw=b"\xff\xfe"), R("POST /users/new", raw=b" "), R("POST /users/new", raw=b"{} x"), R("POST /users/new", raw=b"NaN"),
    then=GONE,
)
table(
    "users: make one: names",
    "admin",
    *[R(f"POST /users/{name}") for name in ("NEW", "n%C3%A9w", "new%20one", "%20new", "new%2Fone", "a%00b", "x" * 255, "new;x", "new%3Cb%3E", "new.", "-", "%2520")],
    then=["GET /users?name_filter=n&sort=-id&limit=2", "DELETE /users/NEW", "DELETE /users/n%C3%A9w", "DELETE /users/new%20one", "DELETE /users/%20new", "DELETE /users/new%2Fone", "DELETE /users/a%00b", f"DELETE /users/{'x' * 255}", "DELETE /users/new;x", "DELETE /users/new%3Cb%3E", "DELETE /users/new.", "DELETE /users/-", "DELETE /users/%2520", "DELETE /users/new"],
)

# Making several

table("users: make several", MANY, R("POST /users", {"usernames": ["new", "newer"]}), then=["GET /users/newer", "DELETE /users/newer", *GONE])
table("users: make several", BROWSERS, R("POST /users", {"usernames": ["new"]}), then=GONE)
table(
    "users: make several: bodies",
    "admin teller for-class",
    *[R("POST /users", body) for body in (
        {}, [], {"usernames": []}, {"usernames": None}, {"usernames": ["ada"]}, {"usernames": ["ada", "bob"]}, {"usernames": ["ada", "new"]}, {"usernames": ["new", "new"]}, {"usernames": ["new", "NEW"]}, {"usernames": ["NEW"]},
        {"usernames": ["new"], "admin": True}, {"usernames": ["new"], "admin": False}, {"usernames": ["new"], "admin": "x"}, {"usernames": ["new"], "x": 1}, {"usernames": ["new"], "groups": ["class"]},
        {"usernames": [""]}, {"usernames": ["new", ""]}, {"usernames": ["", " "]}, {"usernames": ["a/b"]}, {"usernames": [" new "]}, {"names": ["new"]}, ["new"], "new", 7,
    )],
    R("POST /users"), R("POST /users", raw=b"{"), R("POST /users", raw=b"\xff\xfe"), R("POST /users", raw=b"null"),
    then=["GET /users?sort=-id&limit=3", "DELETE /users/a%2Fb", *GONE],
)
table("users: make several: names that the site does not want", "admin teller", R("POST /users", {"usernames": ["New", "!ADA", "!bob"]}), R("POST /users", {"usernames": ["!ada"]}), R("POST /users/!ada", {}), then=["GET /users?sort=-id&limit=3", "DELETE /users/!ada", *GONE])
table("users: make several: other types", "admin", *[R("POST /users", {"usernames": names}) for names in ("new", {"new": 1}, 5, True, [1], [None], [["new"]], [{"name": "new"}], ["new", 1])], then=["GET /users?sort=-id&limit=3", "DELETE /users/n", "DELETE /users/e", "DELETE /users/w", *GONE])

# Changing

table("users: change", MANY, R("PATCH /users/erin", {"admin": False}), R("PATCH /users/nothing", {"admin": False}))
table("users: change", MANY, R("PATCH /users/ada", {"name": "lovelace"}), then=["GET /users/lovelace", R("PATCH /users/lovelace", {"name": "ada"})])
table("users: change: an admin", "heidi ada teller boss for-ada for-class activity dave", R("PATCH /users/ada", {"admin": True}), R("PATCH /users/grace", {"admin": True}), R("PATCH /users/heidi", {"admin": False}), then=["GET /users/ada", R("PATCH /users/ada", {"admin": False}), R("PATCH /users/heidi", {"admin": True})])
table("users: change", BROWSERS, R("PATCH /users/erin", {"admin": False}))
table(
    "users: change: bodies",
    "admin teller for-ada",
    *[R("PATCH /users/ada", body) for body in (
        {}, {"name": "ADA"}, {"name": "bob"}, {"name": "BOB"}, {"name": ""}, {"name": " "}, {"name": "a/b"}, {"name": 5}, {"name": None}, {"admin": "x"}, {"admin": None}, {"admin": 0},
        {"auth_state": {"token": "x"}}, {"auth_state": {}}, {"auth_state": None}, {"auth_state": "x"}, {"auth_state": [1]}, {"nothing": 1}, {"kind": "user"}, {"name": "Lovelace"}, {"name": "löve lace"},
        [], "x", 3,
    )],
    R("PATCH /users/ada"), R("PATCH /users/ada", raw=b"{"), R("PATCH /users/ada", raw=b"null"), R("PATCH /users/ada", raw=b"\xff"),
    then=["GET /users?name_filter=l&sort=-id&limit=2", R("PATCH /users/lovelace", {"name": "ada", "admin": False}), R("PATCH /users/l%C3%B6ve%20lace", {"name": "ada"}), R("PATCH /users/ada", {"auth_state": {}})],
)
table("users: change: name and admin", "admin teller", R("PATCH /users/ada", {"name": "lovelace", "admin": True}), then=[R("PATCH /users/lovelace", {"name": "ada", "admin": False})])
table("users: change: auth state", "admin heidi teller for-ada reading ada", "GET /users/erin", then=[R("PATCH /users/erin", {"auth_state": {"a": [1, {"b": None}], "ü": "é"}}), "GET /users/erin", "GET /users?name_filter=erin"])
table("users: change: auth state: one's own", "ada ada-browser for-ada", R("PATCH /users/ada", {"auth_state": {"a": 1}}), then=["GET /users/ada", R("PATCH /users/ada", {"auth_state": {}})])
story(
    "users: change: auth state: what is kept of somebody is not for them",
    ("admin", R("PATCH /users/ada", {"auth_state": {"secret": "hello"}})), ("ada", "GET /users/ada"), ("ada", "GET /user"), ("ada-browser", "GET /users/ada"), ("for-ada", "GET /users/ada"), ("reading", "GET /users/ada"),
    ("admin", R("PATCH /users/ada", {"auth_state": {}})),
)
story(
    "users: change: groups and roles",
    ("admin", R("PATCH /users/erin", {"groups": ["lab"]})), ("admin", "GET /users/erin"), ("admin", R("PATCH /users/erin", {"groups": ["with space"]})),
)
story("users: change: roles", ("admin", R("PATCH /users/erin", {"roles": ["reader"]})), ("admin", "GET /users/erin"))
story("users: change: name keeps tokens, groups, servers", ("admin", R("PATCH /users/ada", {"name": "lovelace"})), ("ada", "GET /user?include_stopped_servers"), ("ada-browser", "GET /user"), ("admin", "GET /groups/class"), ("admin", R("PATCH /users/lovelace", {"name": "ada"})), ("ada", "GET /user"))

# Deleting

table("users: delete", MANY, "DELETE /users/new", then=["GET /users/new", "POST /users/new"])
story("users: delete: it is gone", ("admin", "DELETE /users/new"), ("admin", "DELETE /users/new"))
table("users: delete: who is not there, or oneself", SEVERAL, "DELETE /users/nothing", "DELETE /users/", "DELETE /users")
for who in ("teller", "deputy", "boss", "for-ada", "dave"):
    story(f"users: delete: an admin: by {who}", ("admin", R("POST /users/chief", {"admin": True})), (who, "DELETE /users/chief"), ("admin", "GET /users/chief"), ("heidi", "DELETE /users/chief"))
for line, body, back in (("POST /users", {"usernames": ["chief"], "admin": True}, "DELETE /users/chief"), ("POST /users/chief", {"admin": True}, "DELETE /users/chief"), ("PATCH /users/erin", {"admin": True}, R("PATCH /users/erin", {"admin": False}))):
    table("users: admins made by services", "teller deputy boss", R(line, body), then=[back])
table("users: delete: oneself", "heidi", "DELETE /users/heidi")
story(
    "users: delete: what was theirs goes along",
    ("admin", "POST /users/new"), ("admin", R("POST /groups/class/users", {"users": ["new"]})), ("admin", R("POST /users/new/tokens", {"note": "of the new one"})), ("nobody", R("GET /user", headers={"Authorization": "token {token}"})),
    ("admin", R("POST /users/new/server", {})), ("admin", R("GET /users/new", settled=True, ignore=("state",))), ("admin", R("POST /shares/new/", {"user": "bob"})),
    ("admin", "DELETE /users/new"), ("nobody", R("GET /user", headers={"Authorization": "token {token}"})), ("admin", "GET /groups/class"), ("bob", "GET /user"), ("admin", "GET /users/new"),
)
story("users: delete: a service named like a user", ("teller", "POST /users/teller"), ("teller", "DELETE /users/teller"), ("admin", "DELETE /users/teller"))
table("users: wrong methods", "admin nobody", "PUT /users/ada", "PUT /users", "DELETE /users", "PATCH /users", "OPTIONS /users", "OPTIONS /users/ada", "OPTIONS /users/nothing", "HEAD /users", "TRACE /users", "FOO /users", "POST /users/ada/admin-access", "GET /users/ada/admin-access", "OPTIONS /user")
table("users: admin access", SEVERAL, R("POST /users/ada/admin-access", {}), R("POST /users/nothing/admin-access", {}))
