"""Heads of requests and answers on their way through."""

from servers import Server, saying
from suite import case
from wire import Message, get

# What the hop to the server is framed with, and what a proxy adds.
HOP = {"connection", "keep-alive", "transfer-encoding", "proxy-connection"}


def mine(seen: dict) -> list | dict:
    """The headers that the server has seen, without the framing and X-Forwarded-*."""
    if "headers" not in seen:
        return seen
    return [(name, value) for name, value in seen["headers"] if name.lower() not in HOP and not name.lower().startswith("x-forwarded-")]


def small(headers: list | dict | str) -> list | dict | str:
    """The same with names in small letters, for cases that are not about them."""
    return [(name.lower(), value) for name, value in headers] if isinstance(headers, list) else headers


def forwarded(seen: dict) -> dict:
    if "headers" not in seen:
        return seen
    return {name.lower().removeprefix("x-forwarded-"): value for name, value in seen["headers"] if name.lower().startswith("x-forwarded-")}


def names(seen: dict) -> list | dict:
    if "headers" not in seen:
        return seen
    return sorted({name.lower() for name, _ in seen["headers"]})


def request_headers(name: str, lines: list[str], expect: list, *, exact: bool = False) -> None:
    @case(f"headers: requests: {name}", expect if exact else small(expect))
    def _(proxy):
        got = mine(proxy.seen("\r\n".join(["GET /x HTTP/1.1", *lines, "", ""])))
        return got if exact else small(got)


request_headers("order and case are kept", ["X-b: 1", "Host: h", "x-A: 2", "ACCEPT: */*"], [("X-b", "1"), ("Host", "h"), ("x-A", "2"), ("ACCEPT", "*/*")], exact=True)
request_headers("duplicates stay apart", ["Host: h", "X-A: 1", "x-a: 2", "X-A: 1"], [("Host", "h"), ("X-A", "1"), ("x-a", "2"), ("X-A", "1")])
request_headers("two Cookie headers", ["Host: h", "Cookie: a=1", "Cookie: b=2"], [("Host", "h"), ("Cookie", "a=1"), ("Cookie", "b=2")])
request_headers("two User-Agent headers", ["Host: h", "User-Agent: a", "User-Agent: b"], [("Host", "h"), ("User-Agent", "a"), ("User-Agent", "b")])
request_headers("an empty value", ["Host: h", "X-Empty:", "X-Last: 1"], [("Host", "h"), ("X-Empty", ""), ("X-Last", "1")])
request_headers("no space behind the colon", ["Host:h", "X-A:1", "X-B:  2 "], [("Host", "h"), ("X-A", "1"), ("X-B", "2")])
request_headers("bytes that are not ASCII", ["Host: h", "X-A: caf\u00e9"], [("Host", "h"), ("X-A", "caf\u00e9")])
request_headers("odd but lawful names", ["Host: h", "X_A!#$%&'*+.^`|~: 1"], [("Host", "h"), ("X_A!#$%&'*+.^`|~", "1")])
request_headers("the name of a property of objects", ["Host: h", "constructor: 1", "__proto__: 2"], [("Host", "h"), ("constructor", "1"), ("__proto__", "2")])
request_headers("a value of 8,000 bytes", ["Host: h", "X-Long: " + "v" * 8000], [("Host", "h"), ("X-Long", "v" * 8000)])
request_headers("80 headers", ["Host: h", *(f"X-{n}: {n}" for n in range(80))], [("Host", "h"), *((f"X-{n}", str(n)) for n in range(80))])
request_headers("the token of a user reaches the server", ["Host: h", "Authorization: token abc", "Cookie: x"], [("Host", "h"), ("Authorization", "token abc"), ("Cookie", "x")])


@case("headers: requests: hop-by-hop headers stay here", ["host", "x-kept"])
def _(proxy):
    lines = ["X-Kept: 1", "Connection: X-Secret, keep-alive", "X-Secret: 1", "Keep-Alive: timeout=5", "TE: gzip", "Proxy-Connection: keep-alive"]
    return [name for name in names(proxy.seen(get("/x", *lines))) if name != "connection" and not name.startswith("x-forwarded-")]


@case("headers: requests: what Connection lists is not what decides", {"host": True, "for": True})
def _(proxy):
    # A client that lists them must not take away the headers that servers trust.
    seen = proxy.seen(get("/x", "Connection: close, X-Forwarded-For, Host"))
    return {"host": "host" in names(seen), "for": "for" in forwarded(seen)}


@case("headers: requests: an upgrade to something else is not asked for", ["host", "x-kept"])
def _(proxy):
    return [name for name in names(proxy.seen(get("/x", "X-Kept: 1", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"))) if name != "connection" and not name.startswith("x-forwarded-")]


@case("headers: requests: Proxy-Authorization reaches the server", [("host", "h"), ("proxy-authorization", "x")])
def _(proxy):
    return small(mine(proxy.seen("GET / HTTP/1.1\r\nHost: h\r\nProxy-Authorization: x\r\n\r\n")))


# X-Forwarded-*

X = {"for": "127.0.0.1", "proto": "http", "host": "example.org:8000", "port": "8000"}


def forwarding(name: str, expect: dict, *lines: str, host: str = "example.org:8000", upgrade: bool = False, **options) -> None:
    @case(f"headers: forwarded: {name}", expect, **options)
    def _(proxy):
        more = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="] if upgrade else []
        return forwarded(proxy.seen(get("/x", *lines, *more, host=host)))


forwarding("by default", X)
forwarding("no port in Host", X | {"host": "example.org", "port": "80"}, host="example.org")
forwarding("an IPv6 address as Host", X | {"host": "[::1]:8000", "port": "8000"}, host="[::1]:8000")
forwarding("are appended to", {"for": "1.1.1.1,127.0.0.1", "proto": "https,http", "host": "a.b", "port": "443,8000"}, "X-Forwarded-For: 1.1.1.1", "X-Forwarded-Proto: https", "X-Forwarded-Port: 443", "X-Forwarded-Host: a.b")
forwarding("two of one", X | {"for": "1.1.1.1, 2.2.2.2,127.0.0.1"}, "X-Forwarded-For: 1.1.1.1", "X-Forwarded-For: 2.2.2.2")
forwarding("an empty one", X, "X-Forwarded-For:")
forwarding("of a websocket", {"for": "127.0.0.1", "proto": "ws", "port": "8000"}, upgrade=True)
forwarding("--no-x-forward", {}, options=["--no-x-forward"])
forwarding("--no-x-forward passes on what comes", {"for": "1.1.1.1"}, "X-Forwarded-For: 1.1.1.1", options=["--no-x-forward"])


@case("headers: forwarded: a client without Host", {"for": "127.0.0.1", "proto": "http", "host": "", "port": "80"})
def _(proxy):
    return {"host": ""} | forwarded(proxy.seen("GET /x HTTP/1.0\r\n\r\n"))


# Options that change headers of requests

CUSTOM = ["--custom-header", "X-Site: here:there", "--custom-header", " k2 : v2 ", "--custom-header", "x-site2:1", "--custom-header", "Authorization: mine"]


@case("headers: --custom-header adds and replaces", {"x-site": ["here:there"], "k2": ["v2"], "x-site2": ["1"]}, options=CUSTOM)
def _(proxy):
    seen = proxy.seen(get("/x", "X-Other: 1"))
    return {name: [value for key, value in seen["headers"] if key.lower() == name] for name in ("x-site", "k2", "x-site2")}


@case("headers: --custom-header is stronger than the client's", ["mine"], options=CUSTOM)
def _(proxy):
    seen = proxy.seen(get("/x", "authorization: theirs"))
    return [value for key, value in seen["headers"] if key.lower() == "authorization"]


@case("headers: --custom-header of a websocket", ["here:there"], options=CUSTOM)
def _(proxy):
    seen = proxy.seen(get("/x", "Connection: Upgrade", "Upgrade: websocket"))
    return [value for key, value in seen["headers"] if key.lower() == "x-site"]


@case("headers: --change-origin names the target as Host", {"host": True, "forwarded": "example.org:8000"}, options=["--change-origin"])
def _(proxy):
    seen = proxy.seen(get("/x"))
    return {"host": [value for name, value in seen["headers"] if name.lower() == "host"] == [proxy.echo.host], "forwarded": forwarded(seen).get("host")}


@case("headers: Host is the client's", ["example.org:8000"])
def _(proxy):
    return [value for name, value in proxy.seen(get("/x"))["headers"] if name.lower() == "host"]


# Answers

# Framing apart, and the time, which a test of its own looks at.
def answered(answer: Message | str, *without: str) -> list | str:
    if isinstance(answer, str):
        return answer
    return [header for header in answer.headers if header[0].lower() not in HOP | set(without)]


def response_headers(name: str, lines: list[str], expect: list, *, exact: bool = False) -> None:
    @case(f"headers: answers: {name}", expect if exact else small(expect))
    def _(proxy):
        with Server(saying("\r\n".join(["HTTP/1.1 200 OK", *lines, "Content-Length: 2", "", "ok"]))) as server:
            proxy.route(proxy.prefix, server)
            got = answered(proxy.ask(get(proxy.prefix)), "date", "content-length")
            return got if exact else small(got)


response_headers("order and case are kept", ["X-b: 1", "server: s", "x-A: 2"], [("X-b", "1"), ("server", "s"), ("x-A", "2")], exact=True)
response_headers("duplicates stay apart", ["Set-Cookie: a=1", "X-A: 1", "Set-Cookie: b=2", "X-A: 2"], [("Set-Cookie", "a=1"), ("X-A", "1"), ("Set-Cookie", "b=2"), ("X-A", "2")])
response_headers("bytes that are not ASCII", ["X-A: caf\u00e9"], [("X-A", "caf\u00e9")])
response_headers("an empty value", ["X-Empty:"], [("X-Empty", "")])
response_headers("hop-by-hop headers stay here", ["Connection: X-Secret, keep-alive", "X-Secret: 1", "Keep-Alive: timeout=5", "X-Kept: 1"], [("X-Kept", "1")])
response_headers("100 headers", [f"X-{n}: {n}" for n in range(100)], [(f"X-{n}", str(n)) for n in range(100)])
response_headers("a value of 8,000 bytes", ["X-Long: " + "v" * 8000], [("X-Long", "v" * 8000)])


@case("headers: answers: Date is the server's", ["Sun, 06 Nov 1994 08:49:37 GMT"])
def _(proxy):
    return proxy.ask(get("/x")).all("date")


def status_line(name: str, line: str, expect: str) -> None:
    @case(f"headers: answers: {name}", expect)
    def _(proxy):
        with Server(saying(f"HTTP/1.1 {line}\r\nContent-Length: 2\r\n\r\nok")) as server:
            proxy.route(proxy.prefix, server)
            answer = proxy.ask(get(proxy.prefix))
            return answer if isinstance(answer, str) else answer.start


status_line("the words of the status are kept", "200 Fine by me", "HTTP/1.1 200 Fine by me")
status_line("an unusual status", "499 Odd", "HTTP/1.1 499 Odd")
status_line("a status without words", "200 ", "HTTP/1.1 200 ")

# Redirects


def redirect(name: str, location: str, expect: str, *options: str, status: str = "302 Found") -> None:
    """`location` and `expect` name the target's host as `@`."""

    @case(f"headers: redirects: {name}", expect, options=options)
    def _(proxy):
        def script(visit):
            while visit.request():
                visit.reply("", "Location: " + location.replace("@", visit.server.host), status=status)

        with Server(script) as server:
            proxy.route(proxy.prefix, server)
            answer = proxy.ask(get(proxy.prefix))
            return answer if isinstance(answer, str) else (answer.get("location") or "none").replace(server.host, "@")


AUTO, HTTPS = "--auto-rewrite", ("--protocol-rewrite", "https")
redirect("are left alone", "http://@/y", "http://@/y")
redirect("--auto-rewrite puts the client's host", "http://@/y?z=1", "http://example.org:8000/y?z=1", AUTO)
redirect("--auto-rewrite leaves other hosts", "http://other.example/y", "http://other.example/y", AUTO)
redirect("--auto-rewrite leaves a path", "/y", "/y", AUTO)
for _status in ("201 Created", "301 Moved", "307 Temporary", "308 Permanent"):
    redirect(f"--auto-rewrite at {_status[:3]}", "http://@/y", "http://example.org:8000/y", AUTO, status=_status)
for _status in ("200 OK", "303 See Other", "304 Not Modified"):
    redirect(f"--auto-rewrite not at {_status[:3]}", "http://@/y", "http://@/y", AUTO, status=_status)
redirect("--protocol-rewrite", "http://@/y", "https://@/y", *HTTPS)
redirect("--protocol-rewrite leaves other hosts", "http://other.example/y", "http://other.example/y", *HTTPS)
redirect("both", "http://@/y", "https://example.org:8000/y", AUTO, *HTTPS)
