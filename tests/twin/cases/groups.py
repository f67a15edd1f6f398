"""Groups: lists, models, members and properties."""

from suite import R, story, table
from world import BROWSERS, EVERYBODY, MANY, SEVERAL

PAGES = {"Accept": "application/jupyterhub-pagination+json"}
GONE = ["GET /groups/new", "DELETE /groups/new"]

table("groups: list", EVERYBODY, "GET /groups", "GET /groups/class", "GET /groups/nothing")
table("groups: list", BROWSERS, "GET /groups", "GET /groups/class")
table("groups: read", "admin dave for-class reading naming roles teller", "GET /groups/lab", "GET /groups/with%20space", "GET /groups/nobody-in-it", "GET /groups/CLASS", "GET /groups/class/", "GET /groups/", "GET /groups/class/users", "GET /groups/class/properties", "GET /groups/class/nothing", "HEAD /groups/class")
table(
    "groups: list: pages",
    "admin for-class dave",
    *[f"GET /groups?{query}" for query in ("limit=2", "limit=2&offset=1", "offset=10", "limit=0", "limit=-1", "limit=x", "offset=x", "limit=1000")],
    *[R(f"GET /groups{query}", headers=PAGES, label="paged") for query in ("", "?limit=1", "?limit=2&offset=1", "?offset=10", "?limit=x")],
)

table("groups: make one", MANY, R("POST /groups/new"), then=GONE)
table("groups: make one", BROWSERS, R("POST /groups/new", {}), then=GONE)
table("groups: make one: who is there", SEVERAL, "POST /groups/class", R("POST /groups/class", {"users": ["nobody-at-all"]}))
table(
    "groups: make one: bodies",
    "admin teller for-class",
    *[R("POST /groups/new", body) for body in (
        {}, {"users": []}, {"users": ["ada"]}, {"users": ["ada", "ada"]}, {"users": ["ADA"]}, {"users": ["nothing"]}, {"users": ["ada", "nothing"]}, {"users": "ada"}, {"users": {"ada": 1}}, {"users": None}, {"users": [1]}, {"users": [None]}, {"users": [" ada "]}, {"users": [""]},
        {"name": "other"}, {"name": 1}, {"roles": ["reader"]}, {"roles": "x"}, {"properties": {"a": 1}}, {"nothing": 1}, {"groups": ["x"]}, [], [1], "x", 5, False,
    )],
    R("POST /groups/new", raw=b"null"), R("POST /groups/new", raw=b"{"), R("POST /groups/new", raw=b"\xff"),
    then=GONE,
)
table(
    "groups: make one: names",
    "admin",
    *[f"POST /groups/{name}" for name in ("n%C3%A9w", "new%20one", "%20new", "NEW", "new%2Fone", "x" * 255, "new%3Cb%3E", "new,comma", "new!bang", "new=equal")],
    then=["GET /groups?offset=4", *[f"DELETE /groups/{name}" for name in ("n%C3%A9w", "new%20one", "%20new", "NEW", "new%2Fone", "x" * 255, "new%3Cb%3E", "new,comma", "new!bang", "new=equal")]],
)
table("groups: make several", MANY, R("POST /groups", {"groups": ["new", "newer"], "users": ["bob"]}), then=["GET /groups/newer", "DELETE /groups/newer", *GONE])
table(
    "groups: make several: bodies",
    "admin for-class",
    *[R("POST /groups", body) for body in (
        {}, [], ["new"], "new", 5, {"groups": []}, {"groups": None}, {"groups": ["class"]}, {"groups": ["new", "class"]}, {"groups": ["new", "new"]}, {"groups": ["new"], "users": []}, {"groups": ["new"], "users": ["nothing"]}, {"groups": ["new"], "users": "ada"}, {"groups": ["new"], "x": 1},
        {"groups": ["new"], "properties": {}}, {"groups": ["new"], "name": "x"}, {"groups": {"new": ["ada"]}},
    )],
    R("POST /groups"), R("POST /groups", raw=b"{"),
    then=["GET /groups?offset=4", *GONE],
)
table("groups: make several: other types", "admin", *[R("POST /groups", {"groups": names}) for names in ("new", 5, True, [1], [["new"]])], then=["GET /groups?offset=4", "DELETE /groups/1", "DELETE /groups/n", "DELETE /groups/e", "DELETE /groups/w", *GONE])

table("groups: members: add", MANY, R("POST /groups/class/users", {"users": ["erin"]}), then=["GET /users/erin", R("DELETE /groups/class/users", {"users": ["erin"]})])
table("groups: members: remove", MANY, R("DELETE /groups/class/users", {"users": ["ada"]}), then=[R("POST /groups/class/users", {"users": ["ada"]})])
table("groups: members", BROWSERS, R("POST /groups/class/users", {"users": ["erin"]}), R("DELETE /groups/class/users", {"users": ["erin"]}), then=["GET /groups/class"])
for method in ("POST", "DELETE"):
    table(
        f"groups: members: {method}: bodies",
        "admin for-class dave",
        *[R(f"{method} /groups/class/users", body) for body in (
            {}, {"users": []}, {"users": ["carol", "carol"]}, {"users": ["CAROL"]}, {"users": ["carol", "nothing"]}, {"users": ["nothing"]}, {"users": "carol"}, {"users": None}, {"users": [1]}, {"users": {"carol": 1}}, {"users": ["carol"], "name": "x"}, {"users": ["carol"], "roles": []}, {"users": ["carol"], "x": 1}, {"name": "x"}, [], "x",
        )],
        R(f"{method} /groups/class/users"), R(f"{method} /groups/class/users", raw=b"{"), R(f"{method} /groups/class/users", raw=b"null"),
        then=["GET /groups/class", R("DELETE /groups/class/users", {"users": ["carol"]})],
    )
    table(f"groups: members: {method}: no such group", SEVERAL, R(f"{method} /groups/nothing/users", {"users": ["ada"]}))

table("groups: properties", MANY, R("PUT /groups/class/properties", {"room": 8}), then=["GET /groups/class", R("PUT /groups/class/properties", {"room": 7, "tags": ["a", "b"]})])
table("groups: properties", SEVERAL, R("PUT /groups/nothing/properties", {"room": 8}), "POST /groups/class/properties", "PATCH /groups/class/properties", "DELETE /groups/class/properties")
table("groups: properties", BROWSERS, R("PUT /groups/class/properties", {"room": 9}), then=[R("PUT /groups/class/properties", {"room": 7, "tags": ["a", "b"]})])
table(
    "groups: properties: bodies",
    "admin for-class",
    *[R("PUT /groups/class/properties", body) for body in ({}, [], ["x"], "x", 5, True, {"a": None, "b": [{"c": 1.5}], "ü": "é\u0000", "": {}}, {"big": 12345678901234567890123, "float": 1e300, "int": -1}, {"a": {"b": {"c": {"d": [[[[]]]]}}}})],
    R("PUT /groups/class/properties"), R("PUT /groups/class/properties", raw=b"{"), R("PUT /groups/class/properties", raw=b"null"), R("PUT /groups/class/properties", raw=b'{"a": 1, "a": 2}'), R("PUT /groups/class/properties", raw=b'\xef\xbb\xbf{"a": 1}'),
    R("PUT /groups/class/properties", raw=b'{"a": "\\ud800"}'), R("PUT /groups/class/properties", raw=b'{"a": 1.0, "b": 1e5, "c": 0.1000}'),
    R("PUT /groups/class/properties", raw=b'{"a":' + b"[" * 100 + b"]" * 100 + b"}", label="nested 100 times"), R("PUT /groups/class/properties", raw=b'{"a":' + b"[" * 300 + b"]" * 300 + b"}", label="nested 300 times"), R("PUT /groups/class/properties", raw=b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", label="nested 100,000 times"),
    then=["GET /groups/class", R("PUT /groups/class/properties", {"room": 7, "tags": ["a", "b"]})],
)

table("groups: delete", MANY, "DELETE /groups/new", then=["GET /groups/new", R("POST /groups/new", {"users": ["ada"]})])
table("groups: delete", SEVERAL, "DELETE /groups/nothing", "DELETE /groups", "DELETE /groups/")
story("groups: delete: one with a role", ("admin", "POST /groups/new"), ("admin", R("POST /groups/new/users", {"users": ["ada"]})), ("ada", "GET /user"), ("admin", "DELETE /groups/new"), ("admin", "DELETE /groups/new"), ("ada", "GET /user"))
story("groups: a group's roles are its members'", ("admin", R("POST /groups/lab/users", {"users": ["erin"]})), ("erin", "GET /user"), ("erin", "GET /users"), ("admin", R("DELETE /groups/lab/users", {"users": ["erin"]})), ("erin", "GET /user"), ("erin", "GET /users"))
story("groups: who joins a group comes under its filters", ("for-class", "GET /users/erin"), ("admin", R("POST /groups/class/users", {"users": ["erin"]})), ("for-class", "GET /users/erin"), ("for-class", R("PATCH /users/erin", {"admin": False})), ("dave", "GET /users"), ("admin", R("DELETE /groups/class/users", {"users": ["erin"]})), ("for-class", "GET /users/erin"))
table("groups: wrong methods", "admin nobody", "PUT /groups", "PATCH /groups", "PUT /groups/class", "PATCH /groups/class", "PUT /groups/class/users", "OPTIONS /groups", "OPTIONS /groups/class", "OPTIONS /groups/class/users", "OPTIONS /groups/class/properties", "HEAD /groups")
