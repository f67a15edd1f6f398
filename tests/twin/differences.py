"""Where JupyterHub 6.1.1 answers something else, what, and why we do not.

The one list: a difference that is not in it fails, and so does one that is in it but is gone. Each reason
is a row of docs/api-differences.md. `cases` maps patterns of case names to what differs in them: part →
(upstream's value, ours), or `ANY` for values that say nothing. Every case of a pattern must differ so.
"""

import differences_servers
from suite import ANY, Reason

REASONS: list[Reason] = []


def because(area: str, upstream: str, ours: str, kind: str, cases: dict[str, dict]) -> None:
    REASONS.append(Reason(area, upstream, ours, kind, cases))


BETTER, STRICTER, CHOICE, SAFER = "wrong there", "too lenient there", "our choice", "a hole there"

#: Parts that differ in many cases, wherever one of the pairs is seen: part → pairs of upstream's and ours.
EVERYWHERE: dict[str, list[tuple]] = {
    "header x-content-type-options": [(None, "nosniff")],
    "header allow": [(None, ANY)],
    "header content-type": [("text/html", "text/html; charset=utf-8"), ("application/json; charset=UTF-8", "application/json")],
    "body.message": [(None, words) for words in ("Forbidden", "Not Found", "Method Not Allowed")],
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
    {f"*: HEAD /{path} as *": {"status": (405, ANY)} for path in ("user", "users*", "groups*", "services*", "proxy", "info", "", "user (no token)")},
)
because(
    "Methods",
    "A method of no standard is refused by its proxy",
    "The hub says that it has no such method",
    CHOICE,
    {"users: wrong methods: FOO /users as *": {"status": (400, 405), "header *": (None, ANY), "body*": ANY}},
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
    {"users: make one: names: POST /users/a%00b as admin": {"status": (201, 400), "*": ANY}, "last: a user with a NUL in its name": {"status": (201, 400), "*": ANY}},
)
because(
    "Lists",
    "A NUL in an argument is looked for, and makes 500 on PostgreSQL",
    "400",
    STRICTER,
    {"users: list: filters: GET /users?name_filter=%00 as *": {"status": (200, 400), "*": ANY}},
)
because(
    "Bodies",
    "Takes texts with a NUL, which makes 500 on PostgreSQL where it cannot keep them",
    "400",
    STRICTER,
    {'groups: properties: bodies: PUT /groups/class/properties {"a": null, *': {"status": (200, 400), "*": ANY}},
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
    "A service with `admin:users` deletes administrators",
    "403: only admins delete admins",
    SAFER,
    {
        "users: delete: an admin: by teller": {
            "2. DELETE /users/chief as teller: status": (204, 403),
            "2. DELETE /users/chief as teller: change of the database": (ANY, None),
            "2. DELETE /users/chief as teller: *": ANY,
            "3. GET /users/chief as admin: status": (404, 200),
            "3. GET /users/chief as admin: *": ANY,
            "4. DELETE /users/chief as heidi: status": (404, 204),
            "4. DELETE /users/chief as heidi: *": ANY,
        },
    },
)
because(
    "Users",
    "A service that has every scope of the role `admin`, by a role, makes no administrators; one that is named `admin` does",
    "Who may do all that an administrator may makes administrators",
    CHOICE,
    {
        'users: admins made by services: POST /users {"usernames": ["chief"], "admin": true} as deputy': {"status": (403, 201), "2. DELETE /users/chief as admin: status": (404, 204), "*": ANY},
        'users: admins made by services: POST /users/chief {"admin": true} as deputy': {"status": (403, 201), "2. DELETE /users/chief as admin: status": (404, 204), "*": ANY},
        'users: admins made by services: PATCH /users/erin {"admin": true} as deputy': {"status": (403, 200), "2. PATCH /users/erin as admin: change of the database": (None, ANY), "*": ANY},
    },
)
because(
    "Users",
    "Whoever may make or rename users may give one a name of `Authenticator.admin_users`, who is an administrator at their next login",
    "403: only admins give the name of an admin",
    SAFER,
    {
        "last: a name that the configuration makes an administrator's": {
            "2. POST /users/irene as teller: status": (201, 403),
            "3. GET /users/irene as admin: status": (200, 404),
            "4. DELETE /users/irene as admin: status": (204, 404),
            "5. POST /users as teller: status": (201, 403),
            "6. DELETE /users/irene as admin: status": (204, 404),
            "7. PATCH /users/idle-3 as teller: status": (200, 403),
            "*": ANY,
        },
    },
)
because(
    "Tokens",
    "A password can be guessed at by asking for a token, as often and as fast as one likes",
    "429 after five failures, as at the login page; `Retry-After` says how long to wait",
    SAFER,
    {
        "token by password: guesses have to wait": {
            f"{number}. POST /users/idle-1/tokens as nobody: {part}": pair
            for number in (6, 7)
            for part, pair in {"status": (403, 429), "body.status": (403, 429), "body.message": (None, ANY), "header retry-after": (None, ANY)}.items()
        },
    },
)
because(
    "Scopes",
    "`read:metrics` with any filter (`read:metrics!user=ada`) shows all metrics",
    "403: what is filtered is no right to the whole",
    SAFER,
    {"scopes: who sees the metrics": {f"{path} of grace with ['read:metrics!user=ada']": (200, 403) for path in ("/metrics", "/hub/metrics")}},
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
    {f"users: make one: bodies: POST /users/new b'NaN' as {who}": {"body.message": ANY} for who in ("admin", "teller")}
    | {f"http: bodies: POST /users b'{number}' as admin": {"body.message": ANY} for number in ("-Infinity", "1e999")},
)
because(
    "Headers",
    "`Content-Type: text/html` in redirects without a body; `text/html` without its character set in pages",
    "No type where there is no body, and the character set",
    CHOICE,
    {f"http: {what} as *": {"header content-type": ("text/html", None)} for what in ("unknown paths: GET =/api/users", "slashes: GET =//hub/api/users")},
)
because(
    "Errors",
    "A request of a browser without its XSRF token for an address that does not exist is told so",
    "403, as for each address",
    STRICTER,
    {f"http: unknown paths: {line} as ada-browser-without-xsrf": {"status": (404, 403), "body.status": (404, 403), "body.message": ANY} for line in (*[f"GET /{path}" for path in ("nothing", "nothing/", "nothing/at/all", "Users", "USER", "users/ada/nothing", "user/ada", "authorizations", "%75sers", "users%2Fada", "users;x=1", "login", "error", "oauth2", "nothing (Accept: text/html)")], "POST /nothing", "POST /nothing b'{'", "PUT /nothing", "PATCH /nothing", "DELETE /nothing")}
    | {f"http: what browsers get: GET /nothing as ada-browser-{kind}": {"status": (404, 403), "body.status": (404, 403), "body.message": ANY} for kind in ("without-xsrf", "other-site")},
)
because(
    "Errors",
    "Repeats a body with its keys in the order they were sent",
    "By the alphabet",
    CHOICE,
    {f"services: make: bodies: POST /services/fresh {body} as *": {"body.message": ANY} for body in ('{"nothing": 1}', '{"roles": []}')},
)
because(
    "Bodies",
    "Bodies of any size",
    "413 beyond 1 MB of JSON",
    SAFER,
    {"http: large bodies: PUT /groups/lab/properties (3 MB) as admin": {"status": (200, 413), "*": ANY}},
)
because(
    "Bodies",
    "JSON nested about a thousand times",
    "400 beyond 128 times",
    STRICTER,
    {"groups: properties: bodies: PUT /groups/class/properties (nested 300 times) as *": {"status": (200, 400), "*": ANY}},
)
because(
    "Bodies",
    "Takes half of a surrogate pair (`\\ud800`), and stores text that is no Unicode",
    "400",
    STRICTER,
    {"groups: properties: bodies: PUT /groups/class/properties b'{\"a\": \"\\\\ud800\"}' as *": {"status": (200, 400), "*": ANY}, "http: bodies: POST /users b'{\"usernames\": [\"\\\\ud83d\"]}' as admin": {"status": (500, 400), "body.*": ANY}},
)
because(
    "Bodies",
    "Keeps whole numbers of any length",
    "Those of more than 64 bits become floating point",
    CHOICE,
    {'groups: properties: bodies: PUT /groups/class/properties {"big": 12345678901234567890123, "float": 1e+300, "int": -1} as *': {"*body.properties.big": ANY, "*change of the database": ANY}},
)
because(
    "Methods",
    "Methods have case, and `get` is refused by its proxy",
    "The hub says that it has no such method",
    CHOICE,
    {"http: wrong methods: get /users as *": {"status": (400, 405), "header *": (None, ANY), "body*": ANY}},
)
because(
    "Cross-site requests",
    "Takes a `POST` without XSRF token whose `Sec-Fetch-Mode` is `websocket`",
    "403: only a `GET` opens a websocket",
    SAFER,
    {"http: Sec-Fetch: POST /users/ada/activity (websocket, same-origin) as ada-browser-without-xsrf": {"status": (200, 403), "body*": ANY}},
)
because(
    "Groups",
    "Tells whoever may list some groups how many there are in all",
    "How many they may see",
    SAFER,
    {f"groups: list: pages: GET /groups{query} (paged) as {who}": {"body._pagination.*": ANY} for who in ("for-class", "dave") for query in ("", "?limit=1", "?limit=2&offset=1", "?offset=10")},
)
because(
    "Groups",
    "500 when names of users or groups are no texts; a name that is `1` or `null` makes a group",
    "400",
    BETTER,
    {f'groups: make one: bodies: POST /groups/new {{"users": [{name}]}} as {who}': {"status": (500, 400), "body.*": ANY} for name in ("1", "null") for who in ("admin", "teller")}
    | {f'groups: members: {method}: bodies: {method} /groups/class/users {{"users": [1]}} as *': {"status": (500, 400), "body.*": ANY} for method in ("POST", "DELETE")}
    | {f'groups: make several: other types: POST /groups {{"groups": {names}}} as admin': {"status": (500, 400), "body.*": ANY} for names in ("5", "true", '[["new"]]')}
    | {'groups: make several: other types: POST /groups {"groups": [1]} as admin': {"status": (201, 400), "*": ANY}, "last: a group whose name is null": {"status": (201, 400), "*": ANY}},
)
because(
    "Groups",
    "`POST /groups` takes a text for a list of letters",
    "400: `groups` is a list of texts",
    STRICTER,
    {'groups: make several: other types: POST /groups {"groups": "new"} as admin': {"status": (201, 400), "*": ANY}},
)
because(
    "Groups",
    "`POST /groups` with a name that is there already, or given twice, makes those before it and answers 409",
    "Makes all or none",
    BETTER,
    {f'groups: make several: bodies: POST /groups {{"groups": ["new", "{name}"]}} as admin': {"*": ANY} for name in ("class", "new")},
)
because(
    "Groups",
    "500 when a group is made with a user who is named twice",
    "The user is in it",
    BETTER,
    {f'groups: make one: bodies: POST /groups/new {{"users": ["ada", "ada"]}} as {who}': {"status": (500, 201), "*": ANY} for who in ("admin", "teller")},
)
because(
    "Groups",
    "Makes a group without a name, which nothing can delete",
    "400",
    BETTER,
    {"last: a group without a name": {"status": (201, 400), "*": ANY}},
)
because(
    "Users",
    "`PATCH` with the name that a user has already takes the name away: the user has none, and nothing reaches them any more",
    "Nothing changes",
    BETTER,
    {"last: a name that is not changed": {"*": ANY}},
)
because(
    "Services",
    "A service whose token is too short, whose OAuth client has no address to come back to, whose name has a `/` or whose scopes are wrong is refused with 400 or 500, but is there afterwards",
    "400, and nothing is there",
    BETTER,
    {f"services: make: bodies: POST /services/fresh {body} as {who}": {"*": ANY} for who in ("admin", "shopper", "for-service") for body in ('{"api_token": "short"}',)}
    | {f"last: a service {what}": {"*": ANY} for what in ("with a slash in its name", "whose client has no address to come back to", "that asks nobody and is no client", "whose client is not named as clients of services are")},
)
because(
    "Services",
    "500 to scopes that do not exist, or are no texts",
    "400",
    BETTER,
    {f'services: make: bodies: POST /services/fresh {{"oauth_client_allowed_scopes": [{scope}]}} as *': {"status": (500, 400), "body.*": ANY} for scope in ('"nothing"', "5")},
)
because(
    "Services",
    "A service that is made with the `oauth_client_id` of another one takes its client over",
    "409",
    SAFER,
    {'services: make: bodies: POST /services/fresh {"oauth_client_id": "service-shopper", "oauth_redirect_uri": "http://fresh.example.org/cb"} as *': {"*": ANY}},
)
because(
    "Services",
    "A token of an admin that may make one service only makes one that may do everything the admin may",
    "400: what a service may be given is what the token has",
    SAFER,
    {f"services: make: bodies: POST /services/fresh {body} as for-service": {"status": (201, 400), "*": ANY} for body in ('{"admin": true}', '{"oauth_client_allowed_scopes": ["admin:users"]}', '{"oauth_client_allowed_scopes": ["read:users!user"]}')},
)
because(
    "Services",
    "The note of a token that came with `POST /services/…` is `from config`",
    "`from a request to the API`",
    CHOICE,
    {f"services: make: {what}": {"*change of the database": ANY} for what in ("whole: *", 'bodies: POST /services/fresh {"api_token": "the-token-of-fresh-0123456789abcdef"} as *', "its token works and ends with it", "one of an admin is an admin")},
)
because(
    "Errors",
    "Python's quotes around a sentence on unknown scopes, and two kinds of them of which it knows why",
    "One sentence, without",
    CHOICE,
    {f"scopes: of {owner}: ['{scope}']": {"body.message": ANY} for owner, scope in (("grace", "all"), ("ada", "nothing"), ("ada", "read:users!nothing=ada"), ("ada", "read:users!user="), ("ada", "custom:nothing"))},
)
because(
    "Servers",
    "`user_options` and `state` of a server that stands still are empty or `null`, depending on what the hub was asked before",
    "Depending on what the server was started with",
    BETTER,
    {},
)
because(
    "Scopes",
    "Users who lack the role `user`, since `load_roles` once said that it is nobody's, get it back when they log in",
    "Also when the hub starts and `load_roles` does not say so any more",
    CHOICE,
    {"roles: the role `user` is nobody's, and then everybody's again": {"start 2": ([], ["(\"user's role\", 'alpha', 'user', 0)"])}},
)
because(
    "The hub",
    "500 when what `POST /shutdown` asks for is a list or an object",
    "400",
    BETTER,
    {f"http: shutdown: bad bodies: POST /shutdown {body} as *": {"status": (500, 400), "body.*": ANY} for body in ('{"servers": [true]}', '{"proxy": {}}')},
)
because(
    "Scopes",
    "The role `admin` has no `read:audit`",
    "It has: this scope is for the audit log, which JupyterHub does not have",
    CHOICE,
    {},
)

REASONS += differences_servers.REASONS
