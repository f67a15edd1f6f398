"""What each scope, filtered or not, lets a token see: one story for each list of scopes."""

from flows import browser, call, with_token
from suite import R, script, story

#: Scopes of tokens of an admin, of whom everything can be had.
OF_AN_ADMIN = [
    [],
    ["inherit"],
    ["self"],
    ["all"],
    ["admin:users"],
    ["admin:users!user=ada"],
    ["admin:users!group=class"],
    ["admin:users!server=ada/one"],
    ["users"],
    ["users!group=lab", "list:users!group=class"],
    ["list:users"],
    ["list:users!user=ada"],
    ["list:users!user=ada", "list:users!user=bob", "list:users!group=lab"],
    ["list:users!user=nobody-at-all"],
    ["list:users!group=nothing-like-it"],
    ["list:users!group=nobody-in-it"],
    ["list:users!service=plain"],
    ["list:users!server=ada/one", "list:users!user=bob"],
    ["list:users", "read:users:name!user=ada"],
    ["list:users", "read:users:groups!group=class"],
    ["list:users", "read:users:activity!user=ada", "read:roles:users!user=bob"],
    ["read:users"],
    ["read:users!user=ada", "read:users:name"],
    ["read:users:name!user=ada", "read:users:name!group=class", "read:users!user=ada"],
    ["read:users!group=class"],
    ["read:users!group=class", "read:users!user=carol"],
    ["read:users:activity"],
    ["read:roles"],
    ["read:roles:users!group=class", "list:users!group=class"],
    ["read:roles:groups", "list:groups"],
    ["read:roles:services", "list:services"],
    ["read:servers", "list:users"],
    ["read:servers!user=ada", "list:users"],
    ["read:servers!server=ada/one", "list:users!group=class"],
    ["read:servers!server=ada/one", "admin:server_state!server=ada/one"],
    ["admin:server_state"],
    ["admin:servers!server=ada/"],
    ["admin:auth_state!user=ada"],
    ["admin:auth_state", "read:users"],
    ["admin:groups"],
    ["admin:groups!group=class"],
    ["groups!group=class", "list:groups!group=lab"],
    ["list:groups!group=class", "list:groups!group=lab", "read:groups:name"],
    ["list:groups!user=ada"],
    ["list:groups!group=nothing-like-it"],
    ["read:groups!group=class"],
    ["read:groups:name!group=class", "read:groups!group=lab", "list:groups"],
    ["read:groups!user=ada"],
    ["list:services"],
    ["list:services!service=plain", "read:services!service=boss"],
    ["read:services!service=plain"],
    ["read:services:name", "list:services", "read:roles:services!service=boss"],
    ["admin:services!service=plain"],
    ["read:services!user=ada"],
    ["tokens"],
    ["read:tokens!user=ada"],
    ["proxy"],
    ["shutdown"],
    ["read:hub"],
    ["read:metrics"],
    ["admin-ui"],
    ["access:servers!user=ada", "access:services!service=plain"],
    ["custom:shop"],
    ["custom:shop:read"],
    ["shares", "users:shares", "groups:shares"],
    ["read:shares!server=ada/one"],
    ["read:shares!user=ada"],
    ["read:shares!group=class"],
    ["shares!server=ada/one"],
    ["read:users:shares"],
    ["users:shares!user=erin"],
    ["read:users:shares!group=lab"],
    ["read:groups:shares"],
    ["groups:shares!group=lab"],
]
#: Scopes of tokens of an ordinary user.
OF_A_USER = [
    ["inherit"],
    ["self"],
    ["read:users!user"],
    ["read:users:name!user", "read:servers!user"],
    ["read:users:groups!user=ada", "list:users!user"],
    ["list:users!user=ada"],
    ["read:users:activity!user", "read:tokens!user"],
    ["access:servers!user"],
    ["access:servers!server=ada/one"],
    ["access:servers!server=bob/", "read:servers!server=bob/"],
    ["access:services!service=shopper"],
    ["shares!user"],
    # More than a user has.
    ["list:users"],
    ["read:users!group=class"],
    ["read:users!user=bob"],
    ["admin:users"],
    ["custom:shop"],
    # Nothing like it.
    ["nothing"],
    ["read:users!nothing=ada"],
    ["read:users!user="],
    ["read:users!"],
    ["custom:nothing"],
]
PATHS = ["/user", "/users", "/users?include_stopped_servers=1&sort=name", "/users/ada?include_stopped_servers=1", "/users/bob", "/users/carol", "/groups", "/groups/class", "/groups/lab", "/services", "/services/plain", "/services/boss"]
OTHERS = ["GET /proxy", "GET /info", "GET /users/ada/tokens", "GET /users/nothing-like-it", "GET /groups/nothing-like-it", "GET /services/nothing-like-it", "GET /shares/ada", "GET /shares/ada/one", "GET /share-codes/ada", "GET /share-codes/ada/one", "GET /users/erin/shared", "GET /users/carol/shared/ada/one", "GET /groups/lab/shared", "GET /groups/lab/shared/ada/one"]


def looks(owner: str, scopes: list[str], lines: list[str]) -> None:
    token = {"Authorization": "token {token}"}
    story(
        f"scopes: of {owner}: {scopes}",
        ("boss", R(f"POST /users/{owner}/tokens", {"scopes": scopes, "note": "looks around"})),
        *[("nobody", R(line, headers=token, ignore=("last_activity", "state", "python", "sys_executable", "version", "class", "api_tokens"))) for line in lines],
        ("boss", f"DELETE /users/{owner}/tokens/{{id}}"),
    )


for scopes in OF_AN_ADMIN:
    looks("grace", scopes, [f"GET {path}" for path in PATHS] + OTHERS)
for scopes in OF_A_USER:
    looks("ada", scopes, [f"GET {path}" for path in PATHS])

# What a token says counts only as far as its owner has it, now.
HEADERS = {"Authorization": "token {token}"}
story(
    "scopes: a token has no more than its owner has now",
    ("admin", "POST /users/new"),
    ("admin", R("PATCH /users/new", {"admin": True})),
    ("boss", R("POST /users/new/tokens", {"scopes": ["list:users", "read:users:groups", "admin:groups!group=class"]})),
    ("nobody", R("GET /users?limit=1", headers=HEADERS)), ("nobody", R("GET /groups/class", headers=HEADERS)),
    ("admin", R("PATCH /users/new", {"admin": False})),
    ("nobody", R("GET /users", headers=HEADERS)), ("nobody", R("GET /groups/class", headers=HEADERS)), ("nobody", R("GET /user", headers=HEADERS)),
    ("admin", R("POST /groups/lab/users", {"users": ["new"]})),
    ("nobody", R("GET /users", headers=HEADERS)), ("nobody", R("GET /users/ada", headers=HEADERS)), ("nobody", R("GET /user", headers=HEADERS)),
    ("admin", "DELETE /users/new"),
    ("nobody", R("GET /user", headers=HEADERS)),
)
story(
    "scopes: a user named like a service is somebody else",
    ("admin", "POST /users/culler"),
    ("boss", R("POST /users/culler/tokens", {})),
    ("nobody", R("GET /users", headers=HEADERS)), ("nobody", R("GET /user", headers=HEADERS)), ("culler", "GET /user"),
    ("admin", "DELETE /users/culler"), ("culler", "GET /user"),
)


@script("scopes: who sees the metrics")
def metrics(wire):
    found = {}
    for owner, scopes in (("grace", ["inherit"]), ("grace", ["read:metrics"]), ("grace", ["read:metrics!user=ada"]), ("grace", ["read:hub"]), ("ada", ["inherit"])):
        made = call(wire, "boss", "POST", f"/users/{owner}/tokens", {"scopes": scopes})["body"]
        for path in ("/metrics", "/hub/metrics"):
            found[f"{path} of {owner} with {scopes}"] = with_token(wire, made["token"], "GET", path)["status"]
        call(wire, "boss", "DELETE", f"/users/{owner}/tokens/{made['id']}")
    found["nobody"] = call(wire, "nobody", "GET", "/metrics")["status"]
    return found


@script("scopes: the page for administrators")
def admin_page(wire):
    # Dave has `admin-ui` by a role; Bob has not.
    return {name: browser(wire, name).page("/hub/admin", follow=False).status_code for name in ("grace", "dave", "bob")}
