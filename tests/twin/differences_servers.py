"""Where the two differ about servers, activity, tokens, shares and OAuth: a part of the one list in `differences.py`."""

from suite import ANY, Reason
from world import EVERYBODY

BETTER, STRICTER, CHOICE, SAFER = "wrong there", "too lenient there", "our choice", "a hole there"
REASONS: list[Reason] = []


def because(area: str, upstream: str, ours: str, kind: str, cases: dict[str, dict]) -> None:
    REASONS.append(Reason(area, upstream, ours, kind, cases))


FAILS = {"status": (500, 400), "body.status": (500, 400), "body.message": ("Internal Server Error", ANY)}
WORDS = {"body.message": ANY}

because(
    "Errors",
    "500 to bodies of another type than expected, and to names of scopes that there are not, in requests about servers, tokens and shares",
    "400, with what is wrong",
    BETTER,
    {
        **{f"share: {method} /shares/ada/one {body} as admin": FAILS for method in ("POST", "PATCH") for body in ("[1]", '"text"', '{"user": ""}', '{"group": ""}', '{"user": "bob", "scopes": ["no-such-scope"]}')},
        **{f"share code: POST /share-codes/ada/one {body} as admin": FAILS for body in ("[1]", '"text"', '{"scopes": ["no-such-scope"]}')},
        **{f"change: PATCH /users/ada/servers/one {body} as ada": FAILS for body in ("[1]", '"text"', '{"name": 5}', '{"unknown": 1}', '{"name": "x", "state": {}}')},
        **{f"stop: DELETE /users/ada/servers/one {body} as ada": FAILS for body in ("[1]", '"text"')},
        'token: POST /users/ada/tokens {"note": ["a"]} as ada': FAILS,
    },
)
because(
    "Errors",
    "Several lines with names of Python classes and a link to the pages of pydantic, when the body of a request about shares is wrong",
    "One sentence",
    BETTER,
    {
        **{
            f"share: {method} /shares/ada/one{body} as admin": WORDS
            for method in ("POST", "PATCH")
            for body in ("", " {}", ' {"user": "bob", "group": "class"}', ' {"user": 5}', ' {"user": ["bob"]}', ' {"group": 5}', ' {"user": "bob", "more": 1}', ' {"user": "bob", "expires_in": 60}', ' {"user": "bob", "scopes": "access:servers"}', ' {"user": "bob", "scopes": [1]}')
        },
        **{
            f"share code: POST /share-codes/ada/one {body} as admin": WORDS
            for body in ('{"more": 1}', '{"user": "bob"}', '{"scopes": "x"}', *(f'{{"expires_in": {value}}}' for value in ("null", "59", "-1", "31536001", '"soon"', "60.5", "true")))
        },
    },
)
because(
    "Errors",
    "Python's quotes around a sentence on unknown scopes, and Python's way to write line ends; a name of any length in them",
    "The sentence; names are cut and what cannot be printed is written `\\u{a}`",
    BETTER,
    {
        **{f'token: POST /users/ada/tokens {{"scopes": ["{scope}"]}} as ada': WORDS for scope in ("no-such-scope", "read:users!no-such-filter=x", "read:users!user=")},
        '*: P* /users/ada/servers/fresh {"display_name": "line\\nbreak"} as ada': WORDS,
        'make: PUT /users/ada/servers/fresh {"display_name": "xxxxxxxx*': WORDS,
    },
)
because(
    "Servers",
    "`PATCH` gives a server any name to show, with line ends in it",
    "400, as when it is made",
    STRICTER,
    {'change: PATCH /users/ada/servers/one {"display_name": "line\\nbreak"} as ada': {"status": (200, 400), "*body*": ANY, "*change of the database": ANY}},
)
because(
    "Servers",
    "`user_options` of a server without options are `{}` or `null`, depending on what the hub was asked before",
    "`{}`",
    BETTER,
    {
        'change: PATCH /users/ada/servers/one {"user_options": {}} as ada': {"*.user_options*": ANY},
    },
)
because(
    "Servers",
    "404 to the progress of a server that stands still and that the hub has not looked at since its start; else 400",
    "400: it is not starting",
    BETTER,
    {f"progress: GET /users/ada/servers/one/progress as {who}": {"status": (404, 400), "body.status": (404, 400), "body.message": ANY} for who in ("admin", "ada", "for-class", "teller", "reading", "ada-reading", "culler", "ada-browser", "ada-browser-navigates", "admin-browser")},
)
because(
    "Servers",
    "`OPTIONS` to a stream of progress answers as `text/event-stream`",
    "As `application/json`, like elsewhere",
    CHOICE,
    {"server: OPTIONS /users/ada/servers/one/progress as admin": {"header content-type": ("text/event-stream", "application/json")}},
)
because(
    "Servers",
    "The event of a failed start says that it failed",
    "Also why, in `cause` and `exit_code`",
    CHOICE,
    {"a server that ends at once is a failed start": {"last event's keys": ANY}},
)
because(
    "Tokens",
    "A service with the scope `tokens` makes tokens of administrators, with which it may do everything",
    "403: only admins make tokens for admins",
    SAFER,
    {"token, by no admin: *": {"status": (201, 403), "*": ANY}},
)
because(
    "Tokens",
    "Takes a number for a note",
    "400: a note is a text",
    STRICTER,
    {"token, with a note: *": {"status": (201, 400), "*": ANY}},
)
because(
    "Tokens",
    "500 to ids of tokens that no database can have",
    "404",
    BETTER,
    {"tokens: GET /users/ada/tokens/a99999999999999999999 as ada": {"status": (500, 404), "body.status": (500, 404), "body.message": ANY}},
)
because(
    "Tokens",
    "`/authorizations/token` without a token, and `POST` with one, are 500",
    "405 and 404",
    BETTER,
    {
        "authorizations: GET /authorizations/token as plain": {"status": (500, 405), "body.status": (500, 405), "body.message": ANY},
        "authorizations: GET /authorizations/token as nobody": {"status": (403, 405), "body.status": (403, 405)},
        "authorizations: POST /authorizations/token/*": {"status": (500, 404), "body.status": (500, 404), "body.message": ANY},
    },
)
because(
    "Tokens",
    "`GET /authorizations/cookie/{name}` takes the cookie in a body, as before JupyterHub 0.8",
    "404: the cookie stands in the address",
    CHOICE,
    {"authorizations: GET /authorizations/cookie/jupyterhub-hub-login as nobody": {"status": (403, 404), "body.status": (403, 404)}},
)
because(
    "Scopes",
    "A token does not reach servers that are shared with a group of its owner, while the owner's browser does",
    "What is shared with a group is shared with each member's tokens",
    BETTER,
    {
        "self: GET /user as carol": {"body.scopes": ANY},
        "tokens: GET /users/carol/tokens as admin": {"body.api_tokens*": ANY},
        "tokens: GET /users/carol/tokens as teller": {"body.api_tokens*": ANY},
        "a server's own client": {"carol is known": ANY},
        "what is shared can be used, and no more when it is not": {"carol's model": ANY},
    },
)
because(
    "Shares",
    "After a change of name, servers have their old address in shares until something looks at them",
    "The new one",
    BETTER,
    {"a share stays with its server when that or its owner is renamed": {"*url": ANY}},
)
because(
    "Shares",
    "Scopes of shares are written anew with the new name when somebody looks at them",
    "They are read with the new name, and written anew when they change",
    CHOICE,
    {"the default server is renamed, and there is another": {"*change of the database": ANY}},
)
because(
    "OAuth",
    "Redirects to the login page and back to an application have a `Content-Type`, without a body",
    "None",
    CHOICE,
    {f"authorize: GET /oauth2/authorize?client_id=service-shopper&redirect_uri=*&response_type=code&state=x as {who}": {"header content-type": ("text/html", None)} for who in EVERYBODY},
)
because(
    "OAuth",
    "Parameters with nothing in them (`redirect_uri=`, `scope=`, `response_type=`, `code_verifier=`) are wrong",
    "They are as left out, as RFC 6749 (3.1, 3.2) wants it",
    BETTER,
    {"parameters without a value": {"*": ANY}},
)
because(
    "OAuth",
    "An application is told `unsupported_response_type` or `invalid_scope` without a word",
    "With an `error_description`, which servers and services show",
    CHOICE,
    {"words of a refusal to the client": {"*": (None, ANY)}},
)
because(
    "OAuth",
    "The form of the page that asks gives a code for a service also to those who may not use it",
    "403, as for the page",
    SAFER,
    {"a form for a service that one may not use": {"carol": ANY}},
)
because(
    "OAuth",
    "A code can be tried with one verifier after the other",
    "A code is spent by its first try with the client's secret",
    SAFER,
    {"a code after a wrong verifier": {"status": (200, 400), "body": ANY}},
)
because(
    "OAuth",
    "Ignores a verifier for a code that was given without a challenge",
    "`invalid_grant`, as RFC 9700 (4.8.2) wants it: somebody may have taken the challenge away",
    SAFER,
    {"a verifier for a code without a challenge": {"status": (200, 400), "body": ANY}},
)
because(
    "OAuth",
    "500 to parameters in the address of the token endpoint",
    "`invalid_request`",
    BETTER,
    {"token endpoint: POST /oauth2/token?grant_type*": {"status": (500, 400), "body*": ANY, "header *": ANY}},
)
because(
    "OAuth",
    "403 at the token endpoint for requests from other sites that bring a cookie of the hub",
    "Clients prove themselves by their secret there, and no cookie counts",
    CHOICE,
    {"token endpoint: POST /oauth2/token (by others) as ada-browser-other-site": {"status": (403, 400), "body*": ANY, "header *": ANY}},
)
because(
    "OAuth",
    "The grant `refresh_token` is known, but never given",
    "`unsupported_grant_type`",
    BETTER,
    {"a grant that there is not": {"refresh": ANY}},
)
