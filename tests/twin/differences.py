"""Where JupyterHub 6.1.1 answers something else, what, and why we do not.

The one list: a difference that is not in it fails, and so does one that is in it but is gone. Each reason
is a row of docs/api-differences.md. `cases` maps patterns of case names to what differs in them: part →
(upstream's value, ours), or `ANY` for values that say nothing. Every case of a pattern must differ so.
"""

from suite import ANY, Reason  # noqa: F401

REASONS: list[Reason] = []


def because(area: str, upstream: str, ours: str, kind: str, cases: dict[str, dict]) -> None:
    REASONS.append(Reason(area, upstream, ours, kind, cases))


BETTER, STRICTER, CHOICE, SAFER = "wrong there", "too lenient there", "our choice", "a hole there"

#: Parts that differ in many cases, wherever one of the pairs is seen: part → pairs of upstream's and ours.
EVERYWHERE: dict[str, list[tuple]] = {
    "header x-content-type-options": [(None, "nosniff")],
    "header allow": [(None, ANY)],
    "body.message": [(None, words) for words in ("Bad Request", "Forbidden", "Not Found", "Method Not Allowed")],
}
because(
    "Headers",
    "No `X-Content-Type-Options`",
    "`X-Content-Type-Options: nosniff`, so that no browser takes data for a page",
    SAFER,
    {},
)
because(
    "Errors",
    "`\"message\": null` in errors of which there is nothing more to say",
    "The words of the status, as JupyterHub has with older releases of Tornado",
    BETTER,
    {},
)
because(
    "Headers",
    "No `Allow` in answers of 405 and to `OPTIONS`",
    "`Allow`, as RFC 9110 (15.5.6) wants it",
    BETTER,
    {},
)
because(
    "Methods",
    "405 to `HEAD`",
    "As `GET`, without a body",
    BETTER,
    {"*: HEAD /user as *": {"status": (405, ANY)}, "*: HEAD /users* as *": {"status": (405, ANY)}},
)
because(
    "Methods",
    "A method of no standard is refused by its proxy",
    "The hub says that it has no such method",
    CHOICE,
    {"users: wrong methods: FOO /users as *": {"status": (400, 405), "header content-type": (None, "application/json"), "body*": ANY}},
)
because(
    "Users",
    "`POST /users` with a name given twice answers with the user twice",
    "Once",
    BETTER,
    {f'users: make several: bodies: POST /users {{"usernames": ["new", "{name}"]}} as {who}': {"body*": ANY} for name in ("new", "NEW") for who in ("admin", "teller")},
)
because(
    "Users",
    "`POST /users` takes a text for a list of letters, and an object for a list of its keys",
    "400: `usernames` is a list of texts",
    STRICTER,
    {f'users: make several: other types: POST /users {{"usernames": {names}}} as admin': {"status": (201, 400), "*": ANY} for names in ('"new"', '{"new": 1}')},
)
because(
    "Users",
    "500 when `usernames` is no list of texts",
    "400",
    BETTER,
    {f'users: make several: other types: POST /users {{"usernames": {names}}} as admin': {"status": (500, 400), "body.*": ANY} for names in ("5", "true", "[1]", "[null]", '[["new"]]', '[{"name": "new"}]', '["new", 1]')},
)
because(
    "Users",
    "Makes a user whose name has a NUL in it",
    "400",
    STRICTER,
    {"users: make one: names: POST /users/a%00b as admin": {"status": (201, 400), "*": ANY}},
)
because(
    "Users",
    "A token of an admin that may change some users only (`admin:users!user=ada`) may make these admins, who may do everything",
    "403: who makes admins must be an admin, and not with a token for less",
    SAFER,
    {
        'users: change: an admin: PATCH /users/ada {"admin": true} as for-*': {"status": (200, 403), "*": ANY},
    },
)
because(
    "Users",
    "500 when `PATCH` is to change `groups` or `roles`",
    "400: these are changed elsewhere",
    BETTER,
    {f"users: change: {what}": {"*status": ANY, "*body.message": ANY} for what in ("groups and roles", "roles")},
)
because(
    "Users",
    "After a change of name, servers have their old address in models until something looks at them",
    "The new one",
    BETTER,
    {"users: change: name keeps tokens, groups, servers": {"*body.servers.*url": ANY}},
)
because(
    "Lists",
    "500 to an `offset` beyond what a database can count",
    "An empty page",
    BETTER,
    {"users: list: pages: GET /users?offset=99999999999999999999 as *": {"status": (500, 200), "body*": ANY}},
)
because(
    "Lists",
    "The URL of the next page has the scheme of the last proxy",
    "The scheme that the browser used",
    BETTER,
    {"users: list: pages: GET /users?limit=1 (forwarded) as admin": {"body._pagination.next.url": ("http://hub.example.org/hub/api/users?limit=1&offset=1", "https://hub.example.org/hub/api/users?limit=1&offset=1")}},
)
because(
    "Errors",
    "500, as a page, to a path that is no UTF-8",
    "400, as JSON",
    BETTER,
    {"users: read: names: GET /users/%FF as *": {"status": (500, 400), "*": ANY}},
)
because(
    "Errors",
    "Takes `NaN` and `Infinity` for JSON",
    "400: RFC 8259 has no such numbers",
    STRICTER,
    {f"users: make one: bodies: POST /users/new b'NaN' as {who}": {"body.message": ANY} for who in ("admin", "teller")},
)
because(
    "Scopes",
    "A token does not reach servers that are shared with a group of its owner, while the owner's browser does",
    "What is shared with a group is shared with each member's tokens",
    BETTER,
    {"self: GET /user as carol": {"body.scopes": ANY}},
)
because(
    "Scopes",
    "The role `admin` has no `read:audit`",
    "It has: this scope is for the audit log, which JupyterHub does not have",
    CHOICE,
    {},
)
