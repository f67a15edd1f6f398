"""Where configurable-http-proxy 5.3.0 does something else, what, and why we do not.

The one list: a difference that is not in it fails, and so does one that is in it but is gone.
Each reason is a row of docs/proxy-differences.md; below it are the cases that show it, with what
the original is seen to do in them.
"""

from suite import Difference, OneOf, Reason

REASONS: list[Reason] = []


def because(area: str, chp: str, ours: str, kind: str, cases: dict[str, object]) -> None:
    REASONS.append(Reason(area, chp, ours, kind, cases))


BETTER, STRICTER, CHOICE, SAFER = "wrong there", "too lenient there", "our choice", "a hole there"

# Paths

because(
    "Paths",
    "Resolves dot segments, also escaped ones, and drops a lone `?`",
    "The path and the query reach the server byte for byte. Routes are found by the resolved and decoded path in both",
    BETTER,
    {
        "paths: a lone question mark": "GET /x HTTP/1.1",
        "paths: dot segments": "GET /y/z HTTP/1.1",
        "paths: escaped dot segments": "GET /y HTTP/1.1",
        "paths: dots above the root": "GET /etc/passwd HTTP/1.1",
        "framing: a request line with a fragment": {"status": 200, "forwarded": ["GET @/a HTTP/1.1"], "closed": True},
    },
)
because(
    "Paths",
    "Rewrites `\\` to `/`, and escapes `'`, `\"`, `<`, `>`, `` ` ``, `{` and `}`",
    "Passed on as they are",
    BETTER,
    {
        "paths: a backslash": "GET /a/b HTTP/1.1",
        "paths: a quote in the query": "GET /a?b=%27c%27 HTTP/1.1",
        "paths: other characters that URLs must escape": "GET /a%22b%3Cc%3Ed^e%60f%7Bg|h%7D HTTP/1.1",
        "paths: the same in a query": "GET /a?%22b%3Cc%3Ed^e`f{g|h} HTTP/1.1",
    },
)
because(
    "Paths",
    "Answers 500 to malformed escapes, escapes that are no UTF-8, `//` and more slashes, and 400 to bytes that are not ASCII",
    "They are served",
    BETTER,
    {
        "paths: three slashes": {"answer": 500},
        "paths: a malformed escape": {"answer": 500},
        "paths: an escape that is no UTF-8": {"answer": 500},
        "paths: bytes that are not ASCII": [{"answer": 400}],
    },
)
because(
    "Paths",
    "Answers 500 to `/constructor`, `/__proto__` and other names that each JavaScript object has",
    "They are names like others",
    BETTER,
    {
        "paths: the name of a property of each object": {"answer": 500},
        "paths: another such name": {"answer": 500},
        "paths: routes: names of properties of objects": {"^/toString/x": "/toString", "^/valueOf": 500, "^/__proto__": 500},
    },
)
because(
    "Paths",
    "Takes `host` in `//host/path` for a host and chooses the route of `/path`, while the server gets `//host/path`",
    "`//host/path` is a path",
    SAFER,
    {"paths: routes: two slashes at the begin are no host": ""},
)
because(
    "Paths",
    "Keeps the `Host` header beside a request line with a whole URL",
    "The host of the request line counts (RFC 9112, 3.2.2)",
    BETTER,
    {"paths: an absolute URL counts, its host too": {"line": "GET /x?y HTTP/1.1", "host": ["example.org:8000"]}},
)
because(
    "Paths",
    "Makes `OPTIONS /*` of `OPTIONS *`",
    "Passed on, or refused",
    BETTER,
    {"paths: OPTIONS of a star": "OPTIONS /* HTTP/1.1"},
)
because(
    "Paths",
    "`--no-include-prefix` cuts as many characters as the decoded prefix has, in the middle of an escape",
    "It cuts segments",
    BETTER,
    {"paths: targets: --no-include-prefix and an escaped name": {"/a%40b/x": "/0b/x", "/a@b/x": "/x"}},
)

# Headers

because(
    "Headers",
    "Writes names in small letters and joins headers of one name; of some, like `User-Agent`, it drops all but the first",
    "Order, case and duplicates reach the other side as they were sent",
    BETTER,
    {
        "headers: requests: order and case are kept": [["x-b", "1"], ["host", "h"], ["x-a", "2"], ["accept", "*/*"]],
        "headers: requests: duplicates stay apart": [["host", "h"], ["x-a", "1, 2, 1"]],
        "headers: requests: two Cookie headers": [["host", "h"], ["cookie", "a=1; b=2"]],
        "headers: requests: two User-Agent headers": [["host", "h"], ["user-agent", "a"]],
        "headers: requests: the name of a property of objects": [["host", "h"], ["constructor", "1"]],
        "headers: answers: order and case are kept": [["x-b", "1"], ["server", "s"], ["x-a", "2"]],
        "headers: answers: duplicates stay apart": [["set-cookie", "a=1"], ["set-cookie", "b=2"], ["x-a", "1, 2"]],
        "websockets: the server's agreement reaches the client": {"start": "HTTP/1.1 101 Switching Protocols", "accept": ["s3pPLMBiTxaQ9kYGzzhZRbK+xOo="], "cookies": ["a=1", "b=2"], "x": ["1, 2"]},
    },
)
because(
    "Headers",
    "Passes hop-by-hop headers on, in both directions, also a server's `Connection: close`",
    "They stay on their hop, also those that `Connection` lists",
    BETTER,
    {
        "headers: requests: hop-by-hop headers stay here": ["host", "keep-alive", "proxy-connection", "te", "x-kept", "x-secret"],
        "headers: answers: hop-by-hop headers stay here": [["x-secret", "1"], ["x-kept", "1"]],
        "bodies: connections: the server's wish to close is its own": {"answers": [200, "closed"], "connections": 1},
    },
)
because(
    "Headers",
    "Closes the connection when a client asks for an upgrade to something else than a websocket, or with another method than GET",
    "It is an ordinary request, answered without the upgrade (RFC 9110, 7.8)",
    BETTER,
    {
        "headers: requests: an upgrade to something else is not asked for": ["answer"],
        "websockets: an upgrade to something else is an ordinary request": {"answer": "closed"},
        "websockets: POST is no websocket": {"answer": "closed"},
    },
)
because(
    "Headers",
    "`X-Forwarded-Port` of `Host: [::1]:8000` is 1",
    "It is 8000",
    BETTER,
    {"headers: forwarded: an IPv6 address as Host": {"for": "127.0.0.1", "port": "1", "proto": "http", "host": "[::1]:8000"}},
)
because(
    "Headers",
    "Adds the usual words to a status without words",
    "Passed on as it is",
    CHOICE,
    {"headers: answers: a status without words": "HTTP/1.1 200 OK"},
)

# Bodies

because(
    "Bodies",
    "Sends the body of a `DELETE` or `OPTIONS` in chunks behind a length of 0: the server takes it for the next request, which is somebody else's",
    "The body is a body",
    SAFER,
    {
        "bodies: requests: DELETE in chunks": {"line": "DELETE /x HTTP/1.1", "body": "", "framing": "length"},
        "bodies: requests: OPTIONS in chunks": {"line": "OPTIONS /x HTTP/1.1", "body": "", "framing": "length"},
        "framing: a request in a body of DELETE": {"requests": 2, "next": False},
        "framing: a request in a body of OPTIONS": {"requests": 2, "next": False},
    },
)
because(
    "Bodies",
    "Adds `Content-Length: 0` to a `DELETE` without a body",
    "Nothing is added",
    CHOICE,
    {"bodies: requests: DELETE without a body": {"line": "DELETE /x HTTP/1.1", "body": "", "framing": "length"}},
)
because(
    "Bodies",
    "Answers 503 when a server's answer has a length and chunks",
    "The chunks count, and the length is taken away (RFC 9112, 6.3)",
    CHOICE,
    {"bodies: answers: a length and chunks": {"status": 503, "length": None}},
)
because(
    "Bodies",
    "Drops trailers",
    "Passed on, in both directions",
    BETTER,
    {"bodies: requests: trailers": {"body": "hello", "trailers": []}, "bodies: answers: trailers": {"body": "hello", "trailers": []}},
)
because(
    "Bodies",
    "Says `100 Continue` itself before the server was asked, and drops 102 and 103",
    "Interim answers are the server's, and reach the client",
    BETTER,
    {
        "bodies: requests: the server may refuse instead of 100-continue": {"first": 100, "body": 0},
        "bodies: answers: 102 and 103": {"status": 200, "body": "ok", "interim": []},
    },
)
because(
    "Bodies",
    "Holds the head of an answer back until the first byte of the body",
    "It is sent at once",
    BETTER,
    {
        "bodies: answers: the head comes before the body's first byte": "no answer",
        "bodies: answers: the head of chunks comes before the first chunk": "no answer",
    },
)
because(
    "Bodies",
    "Lets a client wait for ever when its server dies, or is silent for `--proxy-timeout`, in the middle of an answer",
    "The connection is cut at once, so that nobody takes half for the whole",
    BETTER,
    {
        "bodies: answers: a server that dies in mid body is told at once": {"cut": "no answer", "in time": False},
        "failures: --proxy-timeout: silence in mid body cuts the answer": ["hel", "no answer"],
    },
)
because(
    "Bodies",
    "Gives no answer to a client that has ended its direction of the connection",
    "It gets its answer",
    BETTER,
    {"bodies: connections: a client that says no more gets its answer": "closed"},
)

# Websockets

because(
    "Websockets",
    "Loses data that the client sends with its handshake",
    "It reaches the server",
    BETTER,
    {"websockets: data sent with the handshake is not lost": "'late' and no answer"},
)
because(
    "Websockets",
    "Leaks the socket of each websocket that it refuses with 404",
    "It is closed",
    BETTER,
    {"websockets: refused: its sockets are given back": False},
)

# Framing

because(
    "What is refused",
    "Serves requests of HTTP/0.9 and HTTP/2.0 as HTTP/1.1, request lines of two spaces, and chunks in HTTP/1.0",
    "400. Each request is forwarded as exactly one request, or refused",
    STRICTER,
    {
        "framing: a request line without a version": {"status": 200, "forwarded": ["GET @ HTTP/1.1"], "closed": True},
        "framing: a request line of two spaces": {"status": 200, "forwarded": ["GET @ HTTP/1.1"], "closed": True},
        "framing: a request line of HTTP/2.0": {"status": 200, "forwarded": ["GET @ HTTP/1.1"], "closed": True},
        "framing: a request line of HTTP/0.9": {"status": 200, "forwarded": ["GET @ HTTP/1.1"], "closed": True},
        "framing: the encoding in HTTP/1.0": {"status": 200, "forwarded": ["POST @ HTTP/1.1"], "closed": True},
    },
)
because(
    "What is refused",
    "Takes the first of two `Host` headers",
    "400",
    STRICTER,
    {"framing: two Hosts": {"status": 200, "forwarded": ["GET @ HTTP/1.1"], "closed": False}},
)
because(
    "What is refused",
    "Passes on the first 2,000 of 5,000 headers",
    "431: too many",
    BETTER,
    {"framing: 5,000 headers": {"status": 200, "forwarded": ["GET @ HTTP/1.1"], "closed": False}},
)
because(
    "What is refused",
    "Closes the connection without a word at `CONNECT`",
    "400",
    BETTER,
    {"framing: CONNECT": {"status": "closed", "forwarded": [], "closed": True}},
)
because(
    "What is refused",
    "Refuses methods that Node.js does not know",
    "They reach the server",
    BETTER,
    {"framing: a method of the server's own": {"status": 400, "forwarded": [], "closed": True}},
)

# The API

because(
    "The REST API",
    "Stores a target that is no URL, and answers 500 to every request for it",
    "400 when it is added, and nothing is stored",
    BETTER,
    {f"api: POST: a target that {what}": {"status": 201, "stored": True} for what in ("is no URL", "is empty", "has no scheme", "is of another scheme", "has no host", "has a bad port")},
)
because(
    "The REST API",
    "Never answers a path with a malformed escape, or one that is no UTF-8",
    "400 or 404",
    BETTER,
    {"api: a malformed escape": "no answer", "api: an escape that is no UTF-8": "no answer"},
)
because(
    "The REST API",
    "Never answers `DELETE /api/routes`",
    "It is of the root, as `POST` is",
    BETTER,
    {"api: DELETE without a path is of the root": ["no answer", "no answer"]},
)
because(
    "The REST API",
    "Finds the token anywhere in the header, and behind a tab",
    "`Authorization: token …` and nothing else",
    STRICTER,
    {"api: token: behind something else": [404, ""], "api: token: and something else": [404, ""], "api: token: a tab": [404, ""]},
)
because(
    "The REST API",
    "`Token …` is not `token …`",
    "The word has no case (RFC 9110, 11.1)",
    CHOICE,
    {"api: token: a great letter": [403, ""]},
)
because(
    "The REST API",
    "Reads bodies, of any size, before it looks at the token",
    "The token first; bodies of up to 1 MB",
    SAFER,
    {"api: token: it is looked at before the body": "no answer", "api: a body of 2 MB": 201},
)
because(
    "The REST API",
    "Resolves dot segments in front of `/api/routes`",
    "404",
    STRICTER,
    {"api: dot segments are not resolved": [404, ""]},
)
because(
    "The REST API",
    "Knows no `PUT`",
    "`PUT /api/routes` replaces all routes in one step",
    CHOICE,
    {"api: PUT of all routes replaces the table": [405, ["/x"]]},
)

# Errors

because(
    "Error pages",
    "Two words without a type when the error target does not answer, or the folder of `--error-path` has no page",
    "The page that is built in",
    BETTER,
    {
        "failures: --error-target: that is not there": {"status": 404, "page": False},
        "failures: --error-target: that breaks off": {"page": {"status": 404, "type": None, "body": "Not Found"}, "asked": ["GET /hub/error/404?url=%2Fnothing%2Fhere%3Fa%3Db%26c HTTP/1.1"], "x": None},
        "failures: --error-path: without any page": {"status": 404, "page": False},
    },
)

# Activity

because(
    "Activity",
    "A running download, and what a websocket sends to the browser, are no activity: a busy server may be culled",
    "They are",
    BETTER,
    {"activity: a download that runs": False, "activity: a websocket's messages from the server": False},
)

# TLS

because(
    "TLS",
    "Checks a server's certificate against the `Host` that the browser sent",
    "Against the name in the target",
    SAFER,
    {
        "tls: servers: the name is the target's, not the browser's": {"hub.example.org": 503, "127.0.0.1:1": 200},
        "tls: servers: a certificate for another name": 200,
    },
)
because(
    "TLS",
    "`--insecure` does nothing for servers over TLS",
    "It turns the check of their certificates off",
    BETTER,
    {"tls: servers: --insecure checks none": 503},
)
because(
    "TLS",
    "Speaks suites without forward secrecy",
    "Suites with forward secrecy alone",
    STRICTER,
    {"tls: users: by default old versions and weak suites are not spoken": ["closed", ["TLSv1.2", "AES128-SHA"], "TLSv1.3"]},
)
because(
    "TLS",
    "HTTP/1.1 alone",
    "HTTP/2 as well",
    CHOICE,
    {"tls: users: HTTP/2 is offered": "http/1.1"},
)
because(
    "TLS",
    "SIGHUP ends it, and a new certificate needs a new start",
    "SIGHUP, or a change of the files, takes up a new certificate; connections stay",
    BETTER,
    {"tls: users: SIGHUP takes up a new certificate": "ended", "programs: SIGHUP does not end it": False},
)
because(
    "TLS",
    "Redirects with `--redirect-to 443` to `https://host:443/`, and from `[::1]` to `https://[:443/`",
    "To `https://host/` and `https://[::1]/`",
    BETTER,
    {
        "tls: --redirect-port: --redirect-to 443 needs no number": {"status": 301, "location": "https://example.org:443/x", "log": True},
        "tls: --redirect-port: an IPv6 address": {"status": 301, "location": "https://[:8443/x", "log": True},
    },
)

# The program

because(
    "The program",
    "Runs on without listening when one of its ports is taken",
    "It ends, and says which",
    BETTER,
    {f"programs: a taken place: {what}": "runs on" for what in ("the users' port", "the API's port", "the metrics' port", "an address of another machine")},
)
because(
    "The program",
    "Leaves its unix sockets behind, and does not start where one was left",
    "They are removed at the end, and replaced when nobody listens on them",
    BETTER,
    {
        "programs: --socket: sockets go with the program": {"s": True, "a": True},
        "programs: --socket: one left by a killed program is replaced": OneOf("ended", "no answer"),
        "metrics: --metrics-socket": {"status": 200, "gone": False},
    },
)
because(
    "The program",
    "SIGTERM and SIGINT cut what runs; the exit status is 2",
    "Requests and websockets have `--drain-timeout` to end; the exit status is 0",
    BETTER,
    {"programs: SIGTERM ends it": [2, False], "programs: SIGINT ends it": [2, False], "programs: SIGTERM lets a running answer end": "hel"},
)
because(
    "The program",
    "Starts with a default target or error target that is no URL, and fails at every request",
    "Refused at start",
    BETTER,
    {"programs: refused: a default target that is no URL": "runs on", "programs: refused: an error target that is no URL": "runs on"},
)
because(
    "The program",
    "Host names of `--host-routing` have case",
    "They have none (RFC 9110, 4.2.3)",
    BETTER,
    {
        "programs: --host-routing: hosts have no case": [["A.Example", "/x", "/"], ["a.EXAMPLE:8000", "/x", "/"]],
        "programs: --host-routing: routes of hosts have no case": [["a.example", "/x", "/"]],
    },
)

# Log and metrics

because(
    "Log and metrics",
    "Writes addresses as `http://8000:127.0.0.1`",
    "As `http://127.0.0.1:8000`",
    BETTER,
    {
        "logs: the begin: where it listens": ["info: Proxying http://PORT:127.0.0.1 to (no default)", "info: Proxy API at http://API:127.0.0.1/api/routes"],
        "logs: the begin: the metrics": "info: Serve metrics at http://METRICS:127.0.0.1/metrics",
    },
)
because(
    "Log and metrics",
    "Colours in files, too",
    "No colours",
    CHOICE,
    {"logs: no colours in a file": True},
)
because(
    "Log and metrics",
    "`--log-level debug` shows the tokens of refused calls of the API",
    "Tokens are never shown",
    SAFER,
    {"logs: tokens are not in them": True},
)
because(
    "Log and metrics",
    "Metrics of Node.js itself",
    "No `nodejs_*`",
    CHOICE,
    {
        "metrics: what the process itself needs": {"process_cpu_seconds_total": True, "process_resident_memory_bytes": True, "process_open_fds": True, "process_start_time_seconds": True, "nodejs_version_info": True},
    },
)

DIFFERENCES = {name: Difference(reason, chp) for reason in REASONS for name, chp in reason.cases.items()}
assert len(DIFFERENCES) == sum(len(reason.cases) for reason in REASONS), "a case has two reasons"
