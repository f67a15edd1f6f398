"""Activity: servers tell when they were used."""

from suite import R, story, table
from world import BROWSERS, EVERYBODY

NOW = "2026-01-02T03:04:05.678901Z"

table("activity", EVERYBODY, R("POST /users/ada/activity", {"last_activity": NOW}))
table("activity", BROWSERS, R("POST /users/ada/activity", {"last_activity": NOW}))
table("activity", "ada admin activity", R("POST /users/ada/activity", {"servers": {"one": {"last_activity": NOW}}}))
table("activity", "ada activity admin", R("POST /users/no-such-user/activity", {"last_activity": NOW}), R("POST /users/bob/activity", {"last_activity": NOW}))
for body in (
    None,
    {},
    [],
    [1],
    "text",
    7,
    {"last_activity": ""},
    {"last_activity": None},
    {"last_activity": "soon"},
    {"last_activity": "2026-13-01T00:00:00Z"},
    {"last_activity": 5},
    {"last_activity": []},
    {"last_activity": "2036-01-01T00:00:00Z"},
    {"last_activity": "2026-01-02T03:04:05"},
    {"last_activity": "2026-01-02 03:04:05+02:00"},
    {"last_activity": "Fri, 02 Jan 2026 03:04:05 GMT"},
    {"servers": {}},
    {"servers": []},
    {"servers": [1]},
    {"servers": "one"},
    {"servers": {"none": {"last_activity": NOW}}},
    {"servers": {"one": {}}},
    {"servers": {"one": []}},
    {"servers": {"one": NOW}},
    {"servers": {"one": {"last_activity": "soon"}}},
    {"servers": {"one": {"last_activity": "2036-01-01T00:00:00Z"}}},
    {"servers": {"one": {"last_activity": NOW, "more": 1}}},
    {"servers": {"one": {"last_activity": NOW}, "none": {"last_activity": NOW}}},
    {"last_activity": "soon", "servers": {"one": {"last_activity": NOW}}},
    {"last_activity": NOW, "servers": {"one": {"last_activity": NOW}}, "more": 1},
):
    table("activity", "ada", R("POST /users/ada/activity", body))
table("activity", "ada", R("POST /users/ada/activity", raw=b"{"), R("POST /users/ada/activity", raw=b"\xff\xfe"), "GET /users/ada/activity", "PUT /users/ada/activity")
story(
    "activity only ever moves on",
    ("admin", "POST /users/fresh-one"),
    ("admin", R("POST /users/fresh-one/activity", {"last_activity": "2026-01-02T03:04:05.678901Z"})),
    ("admin", "GET /users/fresh-one"),
    ("admin", R("POST /users/fresh-one/activity", {"last_activity": "2025-01-02T03:04:05.678901Z"})),
    ("admin", "GET /users/fresh-one"),
    ("admin", "DELETE /users/fresh-one"),
)
