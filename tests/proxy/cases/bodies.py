"""Bodies in both directions: whole, streamed, cut."""

import hashlib
import json
import threading
import time

from servers import Server, ok, saying
from suite import OneOf, case
from wire import Message, get


def outcome(answer: Message | str):
    """An answer in short: its status, its body, and whether that was cut."""
    if isinstance(answer, str):
        return answer
    return [answer.status, answer.text(), answer.cut]


# To the server


def sent(name: str, request: str, expect: dict) -> None:
    @case(f"bodies: requests: {name}", expect)
    def _(proxy):
        # Servers of their own: what is left of a body on a connection must not meet another case.
        with Server() as server:
            proxy.route(proxy.prefix, server)
            seen = proxy.seen(request.replace(" /x ", f" {proxy.prefix}/x ", 1))
        seen = seen | {"line": seen["line"].replace(proxy.prefix, "")} if "line" in seen else seen
        return {key: seen.get(key, seen) for key in expect}


CHUNKED = "Transfer-Encoding: chunked"
PIECES = "5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
for _method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "GET", "REPORT"):
    sent(f"{_method} with a length", get("/x", method=_method, body="hello"), {"line": f"{_method} /x HTTP/1.1", "body": "hello", "framing": "length"})
for _method in ("POST", "DELETE", "OPTIONS", "GET"):
    sent(f"{_method} in chunks", get("/x", CHUNKED, method=_method).replace("Content-Length: 0\r\n", "") + PIECES, {"line": f"{_method} /x HTTP/1.1", "body": "hello world", "framing": "chunked"})
for _method in ("GET", "DELETE"):
    sent(f"{_method} without a body", get("/x", method=_method), {"line": f"{_method} /x HTTP/1.1", "body": "", "framing": "none"})
sent("POST of nothing", get("/x", method="POST"), {"body": "", "framing": "length"})
sent("chunk extensions are dropped", "POST /x HTTP/1.1\r\nHost: h\r\n" + CHUNKED + "\r\n\r\n5;a=b\r\nhello\r\n0;c\r\n\r\n", {"body": "hello"})
sent("trailers", "POST /x HTTP/1.1\r\nHost: h\r\nTrailer: X-Sum\r\n" + CHUNKED + "\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n", {"body": "hello", "trailers": [["X-Sum", "1"]]})
sent("HTTP/1.0 with a length", "POST /x HTTP/1.0\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello", {"body": "hello"})


@case("bodies: requests: 5 MB arrive whole", True)
def _(proxy):
    body = bytes(range(256)) * 20000

    def script(visit):
        visit.reply(hashlib.sha256(visit.request().body).hexdigest())

    with Server(script) as server:
        proxy.route(proxy.prefix, server)
        head = f"POST {proxy.prefix} HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n\r\n"
        answer = proxy.ask(head.encode() + body)
        return answer.text() == hashlib.sha256(body).hexdigest()


@case("bodies: requests: pieces reach the server as they come", ["one", "two"])
def _(proxy):
    got, arrived = [], threading.Event()

    def script(visit):
        visit.first()
        for _ in range(2):
            size = int(visit.until(b"\r\n"), 16)
            got.append(visit.exactly(size + 2)[:-2].decode())
            arrived.set()
        visit.until(b"0\r\n\r\n")
        visit.reply()

    with Server(script) as server, proxy.connect() as client:
        proxy.route(proxy.prefix, server)
        client.send(f"POST {proxy.prefix} HTTP/1.1\r\nHost: h\r\n{CHUNKED}\r\n\r\n3\r\none\r\n")
        arrived.wait(proxy.patience)  # The second is not sent before the first is there.
        if got == ["one"]:
            client.send("3\r\ntwo\r\n0\r\n\r\n")
            client.answer()
        return got


@case("bodies: requests: 100-continue comes from the server", {"interim": [100], "answer": [200, "hello", ""]})
def _(proxy):
    def script(visit):
        visit.first()
        visit.send("HTTP/1.1 100 Continue\r\n\r\n")
        visit.reply(visit.exactly(5))

    with Server(script) as server, proxy.connect() as client:
        proxy.route(proxy.prefix, server)
        client.send(f"POST {proxy.prefix} HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        first = client.head()
        if first.status != 100:
            return outcome(first)
        client.send("hello")
        return {"interim": [first.status], "answer": outcome(client.answer())}


@case("bodies: requests: the server may refuse instead of 100-continue", {"first": 417, "body": 0})
def _(proxy):
    got = []

    def script(visit):
        visit.first()
        visit.reply("no", "Connection: close", status="417 Expectation Failed")
        got.append(len(visit.rest(2)[0]))

    with Server(script) as server, proxy.connect() as client:
        proxy.route(proxy.prefix, server)
        client.send(f"POST {proxy.prefix} HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        return {"first": client.head().status, "body": sum(got)}


@case("bodies: requests: an answer before the body's end arrives", [413, "too large"])
def _(proxy):
    def script(visit):
        visit.first()
        visit.reply("too large", "Connection: close", status="413 Too Large")
        visit.shut()
        visit.rest(5)

    with Server(script) as server, proxy.connect() as client:
        proxy.route(proxy.prefix, server)
        client.send(f"POST {proxy.prefix} HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n", b"x" * 1000)
        answer = client.answer()
        return answer if isinstance(answer, str) else [answer.status, answer.text()]


@case("bodies: requests: a client that goes is told to the server", "closed")
def _(proxy):
    told_server = []

    def script(visit):
        visit.first()
        told_server.append(visit.rest(proxy.patience)[1])

    with Server(script) as server:
        proxy.route(proxy.prefix, server)
        with proxy.connect() as client:
            client.send(get(proxy.prefix))
            wait(lambda: server.requests, proxy)
        wait(lambda: told_server, proxy)
    return told_server[0]


@case("bodies: requests: a client that goes in mid body is told to the server", "cut")
def _(proxy):
    def script(visit):
        message = visit.request()
        visit.server.result = "cut" if message.cut else message.text()

    with Server(script) as server:
        server.result = ""
        proxy.route(proxy.prefix, server)
        with proxy.connect() as client:
            client.send(f"POST {proxy.prefix} HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nhello")
            time.sleep(0.2)
        wait(lambda: server.result, proxy)
        return server.result


def wait(condition, proxy):
    deadline = time.monotonic() + proxy.patience
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return value


# From the server


def received(name: str, answer: str, expect: dict | OneOf, *, close: bool = False, method: str = "GET", version: str = "1.1") -> None:
    """`answer` goes from the server to the client; `expect` has the parts that count."""

    @case(f"bodies: answers: {name}", expect)
    def _(proxy):
        with Server(saying(answer, close=close)) as server:
            proxy.route(proxy.prefix, server)
            got = proxy.ask(get(proxy.prefix, method=method, version=version))
        if isinstance(got, str):
            return {"answer": got}
        parts = {
            "status": got.status,
            "body": got.text(),
            "framing": got.framing,
            "cut": bool(got.cut),
            "length": got.get("content-length"),
            "trailers": got.trailers,
            "interim": [(one.status, [header for header in one.headers if header[0].lower() not in ("connection", "date")]) for one in got.interim],
        }
        wanted = expect.values[0] if isinstance(expect, OneOf) else expect
        return {key: parts[key] for key in wanted}


WHOLE = {"status": 200, "body": "hello world", "cut": False}
IN_CHUNKS = f"HTTP/1.1 200 OK\r\n{CHUNKED}\r\n\r\n{PIECES}"
received("with a length", ok("hello world"), WHOLE | {"framing": "length"})
received("in chunks", IN_CHUNKS, WHOLE | {"framing": "chunked"})
received("until the end of the connection", "HTTP/1.1 200 OK\r\n\r\nhello world", WHOLE | {"framing": "chunked"}, close=True)
received("of HTTP/1.0", "HTTP/1.0 200 OK\r\n\r\nhello world", WHOLE | {"framing": "chunked"}, close=True)
received("in chunks, for a client of HTTP/1.0", IN_CHUNKS, WHOLE | {"framing": "close"}, version="1.0")
received("with a length, for a client of HTTP/1.0", ok("hello world"), WHOLE | {"framing": "length"}, version="1.0")
received("trailers", f"HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\n{CHUNKED}\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n", {"body": "hello", "trailers": [("X-Sum", "1")]})
received("HEAD keeps the length", "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n", {"status": 200, "body": "", "length": "1234"}, method="HEAD")
received("204 has no body", "HTTP/1.1 204 No Content\r\nX: 1\r\n\r\n", {"status": 204, "body": "", "framing": "none", "length": None})
received("304 keeps the length", "HTTP/1.1 304 Not Modified\r\nContent-Length: 1234\r\n\r\n", {"status": 304, "length": "1234"})
received("nothing", ok(""), {"status": 200, "body": "", "length": "0"})
received("a length and chunks", f"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n{CHUNKED}\r\n\r\n{PIECES}", {"status": 200, "length": None}, close=True)
received("two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 2\r\n\r\nabc", {"status": 503}, close=True)
received("a length that is no number", "HTTP/1.1 200 OK\r\nContent-Length: 0x3\r\n\r\nabc", {"status": 503}, close=True)
received("garbage", "what do you want?\r\n\r\n", {"status": 503}, close=True)
received("an end before the answer", "", {"status": 503}, close=True)
received("an end in the head", "HTTP/1.1 200 OK\r\nContent-Le", {"status": 503}, close=True)
received("an end in a body with a length", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello", {"status": 200, "body": "hello", "cut": True}, close=True)
received("an end in a body in chunks", f"HTTP/1.1 200 OK\r\n{CHUNKED}\r\n\r\n5\r\nhello\r\n", {"status": 200, "body": "hello", "cut": True}, close=True)
received("a bad chunk", f"HTTP/1.1 200 OK\r\n{CHUNKED}\r\n\r\n5\r\nhello\r\nzz\r\n", OneOf({"status": 200, "body": "hello", "cut": True}, {"answer": "closed"}), close=True)
received("102 and 103", "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n" + ok(), {"status": 200, "body": "ok", "interim": [(102, []), (103, [("Link", "</a.css>")])]})
received("102 is not for a client of HTTP/1.0", "HTTP/1.1 102 Processing\r\n\r\n" + ok(), {"status": 200, "interim": []}, version="1.0")


@case("bodies: answers: a server that dies in mid body is told at once", {"cut": "closed", "in time": True})
def _(proxy):
    def script(visit):
        visit.first()
        visit.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello")
        time.sleep(0.2)
        visit.reset()

    with Server(script) as server:
        proxy.route(proxy.prefix, server)
        begun = time.monotonic()
        answer = proxy.ask(get(proxy.prefix))
        return {"cut": answer.cut, "in time": time.monotonic() - begun < 3}


def status_before_the_body(proxy, head, body):
    """The status of an answer whose body the server sends only when that has come."""
    release = threading.Event()

    def script(visit):
        visit.first()
        visit.send(head)
        release.wait(20)
        visit.send(body)

    with Server(script) as server, proxy.connect() as client:
        proxy.route(proxy.prefix, server)
        client.send(get(proxy.prefix))
        try:
            return client.head().status
        except Exception as error:
            return str(error)
        finally:
            release.set()


@case("bodies: answers: the head comes before the body's first byte", 200)
def _(proxy):
    return status_before_the_body(proxy, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", "ok")


@case("bodies: answers: the head of chunks comes before the first chunk", 200)
def _(proxy):
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{CHUNKED}\r\n\r\n"
    return status_before_the_body(proxy, head, "0\r\n\r\n")


@case("bodies: answers: server-sent events come one by one", ["data: 0", "data: 1", "data: 2"])
def _(proxy):
    next_one = threading.Semaphore(0)

    def script(visit):
        visit.first()
        visit.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
        for number in range(3):
            visit.send(f"data: {number}\n\n")
            if not next_one.acquire(timeout=15):
                return

    got = []
    with Server(script) as server, proxy.connect() as client:
        proxy.route(proxy.prefix, server)
        client.send(get(proxy.prefix))
        for number in range(3):
            # The next event is made when this one has come.
            got.append(client.until(b"\n\n").decode().strip().splitlines()[-1])
            next_one.release()
    return got


@case("bodies: answers: 20 MB arrive whole", True)
def _(proxy):
    body = bytes(range(256)) * 80000
    with Server(saying(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)) as server:
        proxy.route(proxy.prefix, server)
        answer = proxy.ask(get(proxy.prefix))
        return hashlib.sha256(answer.body).digest() == hashlib.sha256(body).digest()


@case("bodies: answers: a slow client holds the server back", True)
def _(proxy):
    """A client that reads nothing does not make the proxy read everything."""
    sent = []

    def script(visit):
        visit.first()
        visit.socket.settimeout(1)
        visit.send(f"HTTP/1.1 200 OK\r\n{CHUNKED}\r\n\r\n")
        chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
        try:
            for _ in range(2000):
                visit.send(chunk)
                sent.append(1)
        except OSError:
            pass
        sent.append("end")

    with Server(script) as server, proxy.connect() as client:
        proxy.route(proxy.prefix, server)
        client.send(get(proxy.prefix))
        wait(lambda: "end" in sent, proxy)
        return "end" in sent and len(sent) < 500


# Connections


@case("bodies: connections: requests share a connection", {"answers": [200, 200, 200], "connection": False})
def _(proxy):
    with proxy.connect() as client:
        answers = [client.send(get("/x")).answer() for _ in range(3)]
        return {"answers": [answer if isinstance(answer, str) else answer.status for answer in answers], "connection": "close" in (answers[-1].get("connection") or "")}


@case("bodies: connections: requests one behind the other without waiting", ["GET /1 HTTP/1.1", "GET /2 HTTP/1.1", "GET /3 HTTP/1.1"])
def _(proxy):
    with proxy.connect() as client:
        client.send(get("/1") + get("/2") + get("/3"))
        return [json.loads(client.answer().body)["line"] for _ in range(3)]


@case("bodies: connections: the next request behind a body", ["POST /1 HTTP/1.1 hello", "POST /2 HTTP/1.1 hello world", "GET /3 HTTP/1.1 "])
def _(proxy):
    with proxy.connect() as client:
        client.send(get("/1", method="POST", body="hello"), f"POST /2 HTTP/1.1\r\nHost: h\r\n{CHUNKED}\r\n\r\n{PIECES}", get("/3"))
        seen = [json.loads(client.answer().body) for _ in range(3)]
        return [f"{one['line']} {one['body']}" for one in seen]


@case("bodies: connections: Connection: close is heeded", {"says": "close", "ends": True})
def _(proxy):
    with proxy.connect() as client:
        answer = client.send(get("/x", "Connection: close")).answer()
        return {"says": (answer.get("connection") or "").lower(), "ends": client.ends()}


@case("bodies: connections: HTTP/1.0 ends", True)
def _(proxy):
    with proxy.connect() as client:
        client.send(get("/x", version="1.0")).answer()
        return client.ends()


@case("bodies: connections: HTTP/1.0 with keep-alive stays", {"says": "keep-alive", "second": 200})
def _(proxy):
    with proxy.connect() as client:
        first = client.send(get("/x", "Connection: keep-alive", version="1.0")).answer()
        try:
            second = client.send(get("/x", version="1.0")).answer()
        except OSError:
            second = "closed"
        return {"says": (first.get("connection") or "").lower(), "second": second if isinstance(second, str) else second.status}


@case("bodies: connections: the server's wish to close is its own", {"answers": [200, 200], "connections": 2})
def _(proxy):
    """A server that closes after each answer does not cost the client its connection."""

    def script(visit):
        visit.request()
        visit.reply("ok", "Connection: close")

    with Server(script) as server, proxy.connect() as client:
        proxy.route(proxy.prefix, server)
        answers = []
        for _ in range(2):
            try:
                answers.append(client.send(get(proxy.prefix)).answer())
            except OSError:
                answers.append("closed")
        return {"answers": [one if isinstance(one, str) else one.status for one in answers], "connections": server.connections}


@case("bodies: connections: a client that says no more gets its answer", [200, "late", ""])
def _(proxy):
    def script(visit):
        visit.first()
        time.sleep(0.5)
        visit.reply("late")

    with Server(script) as server, proxy.connect() as client:
        proxy.route(proxy.prefix, server)
        client.send(get(proxy.prefix))
        client.shut()
        return outcome(client.answer())


@case("bodies: connections: connections to servers are used again", OneOf(1, 2))
def _(proxy):
    # Two threads of ours may each hold one.
    with Server() as server, proxy.connect() as client:
        proxy.route(proxy.prefix, server)
        for _ in range(5):
            client.send(get(proxy.prefix)).answer()
        return server.connections


@case("bodies: connections: a server that closed one meanwhile is asked again", [200] * 5)
def _(proxy):
    def script(visit):
        visit.request()
        visit.reply("ok")  # And the end, without a word about it.

    with Server(script) as server, proxy.connect() as client:
        proxy.route(proxy.prefix, server)
        answers = []
        for _ in range(5):
            answers.append(client.send(get(proxy.prefix)).answer())
            time.sleep(0.05)
        return [one if isinstance(one, str) else one.status for one in answers]


@case("bodies: connections: lines before a request are no harm", "GET /x HTTP/1.1")
def _(proxy):
    return proxy.seen("\r\n" + get("/x")).get("line")


@case("bodies: connections: no request is answered twice", {"answers": 1, "requests": 1})
def _(proxy):
    with Server() as server, proxy.connect() as client:
        proxy.route(proxy.prefix, server)
        client.send(get(proxy.prefix, "Connection: close", method="POST", body="once"))
        raw, _ = client.rest()
        return {"answers": raw.count(b"HTTP/1.1 "), "requests": len(server.requests)}
