"""Requests that two readers may read differently: one request reaches the server, or none.

`smuggled` is what an attacker hides behind the first request. It must never be a request of its
own to the server, nor a second answer to the client that did not ask for it.
"""

import time

from servers import Server
from suite import OneOf, case
from wire import get

REFUSED = {"status": 400, "forwarded": [], "closed": True}


def framed(name: str, head: str | bytes, expect=REFUSED, *, method: str = "POST") -> None:
    """`head` has `@` where the path belongs."""

    @case(f"framing: {name}", expect)
    def _(proxy):
        raw = head.encode("latin-1") if isinstance(head, str) else head
        raw = raw.replace(b"@", proxy.prefix.encode())
        with Server() as server, proxy.connect() as client:
            proxy.route(proxy.prefix, server)
            try:
                client.send(raw)
            except OSError:
                pass
            answer = client.answer(method)
            closed = client.ends(1.5) if not client.ended else True
            forwarded = [message.start.replace(proxy.prefix, "@") for message in server.requests]
        status = answer if isinstance(answer, str) else answer.status
        return {"status": status, "forwarded": forwarded, "closed": closed}


SMUGGLED = "GET @/smuggled HTTP/1.1\r\nHost: h\r\n\r\n"


def post(*lines: str, body: str = "", version: str = "1.1", host: str = "Host: h") -> str:
    return "\r\n".join([f"POST @ HTTP/{version}", host, *lines, "", ""]) + body


CHUNKS = "0\r\n\r\n"
# Lengths
framed("Content-Length and Transfer-Encoding", post("Content-Length: 4", "Transfer-Encoding: chunked", body=CHUNKS + SMUGGLED))
framed("Transfer-Encoding and Content-Length", post("Transfer-Encoding: chunked", "Content-Length: 4", body=CHUNKS + SMUGGLED))
framed("two different lengths", post("Content-Length: 3", "Content-Length: 4", body="abcd" + SMUGGLED))
framed("the same length twice", post("Content-Length: 3", "Content-Length: 3", body="abc"))
framed("a list of lengths", post("Content-Length: 3, 3", body="abc"))
for _name, _length in {"with a plus sign": "+3", "below zero": "-3", "hexadecimal": "0x3", "with an underscore": "1_0", "of nothing": "", "with a fraction": "3.0", "with a space": "1 1", "that overflows": "99999999999999999999", "that overflows to 3": "18446744073709551619"}.items():
    framed(f"a length {_name}", post(f"Content-Length: {_length}", body="abc" + SMUGGLED))
# Encodings
for _name, _coding in {
    "unknown": "xchunked",
    "identity": "identity",
    "gzip behind chunked": "chunked, gzip",
    "chunked twice": "chunked, chunked",
    "a semicolon": "chunked;x=y",
    "a quoted one": '"chunked"',
    "a vertical tab before it": "\x0bchunked",
    "nothing": "",
}.items():
    framed(f"the encoding {_name}", post(f"Transfer-Encoding: {_coding}", body=CHUNKS + SMUGGLED))
framed("the encoding in two headers", post("Transfer-Encoding: chunked", "Transfer-Encoding: identity", body=CHUNKS + SMUGGLED))
framed("the encoding in HTTP/1.0", post("Transfer-Encoding: chunked", version="1.0", body=CHUNKS))
framed("the encoding in great letters", post("Transfer-Encoding: CHUNKED", "Connection: close", body=CHUNKS), {"status": 200, "forwarded": ["POST @ HTTP/1.1"], "closed": True})
# Chunks
for _name, _chunks in {
    "no number": "zz\r\nabc\r\n",
    "a number with 0x": "0x3\r\nabc\r\n0\r\n\r\n",
    "below zero": "-3\r\nabc\r\n0\r\n\r\n",
    "a plus sign": "+3\r\nabc\r\n0\r\n\r\n",
    "nothing": "\r\nabc\r\n0\r\n\r\n",
    "that overflows": "10000000000000003\r\nabc\r\n0\r\n\r\n",
    "a bare line feed": "3\nabc\n0\n\n",
    "a bare line feed behind the data": "3\r\nabc\n0\r\n\r\n",
    "longer than it says": "3\r\nabcd\r\n0\r\n\r\n",
    "a space before the number": " 3\r\nabc\r\n0\r\n\r\n",
    "a space behind the number": "3 \r\nabc\r\n0\r\n\r\n",
    "a bare line feed in an extension": "3;a\nb\r\nabc\r\n0\r\n\r\n",
    "a bare carriage return in an extension": "3;a\rb\r\nabc\r\n0\r\n\r\n",
}.items():

    @case(f"framing: a chunk with {_name}", {"status": 400, "whole requests": 0, "closed": True})
    def _(proxy, chunks=_chunks):
        with Server() as server, proxy.connect() as client:
            proxy.route(proxy.prefix, server)
            client.send(f"POST {proxy.prefix} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}")
            answer = client.answer("POST")
            closed = client.ended or client.ends(1.5)
            # The server may see a begin; what counts is that it takes it for no whole request.
            whole = [message for message in server.requests if not message.cut]
        return {"status": answer if isinstance(answer, str) else answer.status, "whole requests": len(whole), "closed": closed}


for _name, _trailer in {"a folded trailer": "X: 1\r\n 2", "a trailer without a colon": "X 1", "a trailer that is a length": "Content-Length: 9"}.items():

    @case(f"framing: chunks with {_name}", OneOf({"status": 400, "trailers": []}, {"status": 200, "trailers": [[]]}))
    def _(proxy, trailer=_trailer):
        with Server() as server:
            proxy.route(proxy.prefix, server)
            answer = proxy.ask(f"POST {proxy.prefix} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n{trailer}\r\n\r\n")
            whole = [message.trailers for message in server.requests if not message.cut]
        return {"status": answer if isinstance(answer, str) else answer.status, "trailers": whole}


@case("framing: a huge chunk extension", {"status": 400, "whole requests": 0})
def _(proxy):
    with Server() as server, proxy.connect() as client:
        proxy.route(proxy.prefix, server)
        client.send(f"POST {proxy.prefix} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3;")
        try:
            for _ in range(40):
                client.send("x" * 4096)
            client.send("\r\nabc\r\n0\r\n\r\n")
        except OSError:
            pass
        answer = client.answer("POST")
        whole = [message for message in server.requests if not message.cut]
        status = answer if isinstance(answer, str) else answer.status
        # Who sends on while he is refused may lose the answer.
        return {"status": 400 if status in ("closed", 413) else status, "whole requests": len(whole)}


# Lines
framed("a space before the colon", post("X : 1", "Content-Length: 0"))
framed("a space before the colon of a length", post("Content-Length : 3", body="abc"))
framed("a line without a colon", post("Nonsense", "Content-Length: 0"))
framed("a header without a name", post(": 1", "Content-Length: 0"))
framed("a folded line", post("X: 1", " 2", "Content-Length: 0"))
framed("a folded line of an encoding", post("Transfer-Encoding:", " chunked", body=CHUNKS))
framed("a space before the first header", "POST @ HTTP/1.1\r\n Host: h\r\nContent-Length: 0\r\n\r\n")
framed("a NUL in a value", post("X: a\0b", "Content-Length: 0"))
framed("a bare carriage return in a value", post("X: a\rb", "Content-Length: 0"))
framed("a bare carriage return that hides a length", post("X: a\rContent-Length: 3", body="abc"))
framed("a bare line feed in the head", "POST @ HTTP/1.1\r\nHost: h\nContent-Length: 0\r\n\r\n")
framed("bare line feeds alone", "GET @ HTTP/1.1\nHost: h\n\n", method="GET")
framed("a name that is not ASCII", post("X\xe9: 1", "Content-Length: 0"))
framed("a control character in a value", post("X: a\x01b", "Content-Length: 0"))
# Request lines
for _name, _line in {
    "without a version": "GET @",
    "of two spaces": "GET  @ HTTP/1.1",
    "of a tab": "GET\t@\tHTTP/1.1",
    "with a space in the path": "GET @/a b HTTP/1.1",
    "with a space at its end": "GET @ HTTP/1.1 ",
    "of HTTP/1.2": "GET @ HTTP/1.2",
    "of HTTP/2.0": "GET @ HTTP/2.0",
    "of HTTP/0.9": "GET @ HTTP/0.9",
    "of another protocol": "GET @ ICAP/1.0",
    "in small letters": "GET @ http/1.1",
    "with a NUL": "GET @/a\0b HTTP/1.1",
    "with a control character": "GET @/a\x01b HTTP/1.1",
    "with DEL": "GET @/a\x7fb HTTP/1.1",
    "with a bare carriage return": "GET @/a\rb HTTP/1.1",
    "without a slash": "GET x@ HTTP/1.1",
    "with a method that is none": "G(T @ HTTP/1.1",
    "without a method": " @ HTTP/1.1",
}.items():
    framed(f"a request line {_name}", _line + "\r\nHost: h\r\nConnection: close\r\n\r\n", method="GET")
framed("a request line with a fragment", "GET @/a#b HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", OneOf(REFUSED, {"status": 200, "forwarded": ["GET @/a#b HTTP/1.1"], "closed": True}), method="GET")
framed("CONNECT", "CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\n\r\n", {"status": 400, "forwarded": [], "closed": True}, method="GET")
framed("HTTP/2 without TLS", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", OneOf(REFUSED, REFUSED | {"status": "closed"}), method="GET")
framed("TRACE", "TRACE @ HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", OneOf(REFUSED, {"status": 200, "forwarded": ["TRACE @ HTTP/1.1"], "closed": True}), method="GET")
framed("a method of the server's own", "FROB @ HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", {"status": 200, "forwarded": ["FROB @ HTTP/1.1"], "closed": True}, method="GET")
# Host: whoever routes by it has to look at it; the request is one request all the same.
ONCE = OneOf(REFUSED, {"status": 200, "forwarded": ["GET @ HTTP/1.1"], "closed": False})
framed("no Host", "GET @ HTTP/1.1\r\n\r\n", method="GET")
framed("two Hosts", "GET @ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", method="GET")
framed("a Host with a space", "GET @ HTTP/1.1\r\nHost: a b\r\n\r\n", ONCE, method="GET")
framed("a Host with a path", "GET @ HTTP/1.1\r\nHost: a/b\r\n\r\n", ONCE, method="GET")
# Sizes
framed("a head of 100 kB", "GET @ HTTP/1.1\r\nHost: h\r\n" + "".join(f"X-{n}: {'v' * 1000}\r\n" for n in range(100)) + "\r\n", {"status": 431, "forwarded": [], "closed": True}, method="GET")
framed("a path of 100 kB", f"GET @{'/a' * 50_000} HTTP/1.1\r\nHost: h\r\n\r\n", OneOf(REFUSED | {"status": 414}, REFUSED | {"status": 431}), method="GET")
framed("5,000 headers", "GET @ HTTP/1.1\r\nHost: h\r\n" + "a: 1\r\n" * 5000 + "\r\n", {"status": 431, "forwarded": [], "closed": True}, method="GET")


@case("framing: what follows a refused request is not read", {"answers": 1, "requests": []})
def _(proxy):
    with Server() as server, proxy.connect() as client:
        proxy.route(proxy.prefix, server)
        client.send((post("Content-Length: 3", "Content-Length: 4", body="abc") + SMUGGLED).replace("@", proxy.prefix))
        raw, _ = client.rest(3)
        return {"answers": raw.count(b"HTTP/1.1 "), "requests": [message.start for message in server.requests]}


def inside(name: str, method: str) -> None:
    """A body in chunks that looks like a request stays a body, whatever the method is."""

    @case(f"framing: a request in a body of {name}", {"requests": 1, "next": True})
    def _(proxy):
        with Server() as server, proxy.connect() as client:
            proxy.route(proxy.prefix, server)
            hidden = f"GET {proxy.prefix}/smuggled HTTP/1.1\r\nHost: h\r\n\r\n"
            client.send(f"{method} {proxy.prefix}/first HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{len(hidden):x}\r\n{hidden}\r\n0\r\n\r\n")
            client.answer(method)
            # A second request, if there is one, reaches the server in its own time.
            deadline = time.monotonic() + 1
            while len(server.requests) < 2 and time.monotonic() < deadline:
                time.sleep(0.01)
            first = len(server.requests)
            with proxy.connect() as other:
                second = other.send(get(f"{proxy.prefix}/second")).answer()
            starts = [message.start for message in server.requests]
            whole = not isinstance(second, str) and second.status == 200 and b"/second" in second.body
            return {"requests": first, "next": whole and not any("smuggled" in start for start in starts)}


for _method in ("POST", "GET", "DELETE", "OPTIONS"):
    inside(_method, _method)


def answers(name: str, answer: str, expect) -> None:
    """A server's answer that holds more than one."""

    @case(f"framing: answers: {name}", expect)
    def _(proxy):
        def script(visit):
            while visit.request():
                visit.send(answer)

        with Server(script) as server, proxy.connect() as client:
            proxy.route(proxy.prefix, server)
            first = client.send(get(proxy.prefix)).answer()
            with proxy.connect() as other:
                second = other.send(get(proxy.prefix)).answer()
            return [one if isinstance(one, str) else [one.status, one.text()] for one in (first, second)]


STRAY = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstray"
OK = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
answers("a second one that nobody asked for", OK + STRAY, [[200, "ok"], [200, "ok"]])
answers("a body of 204", "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nstray", [[204, ""], [204, ""]])
answers("a body of 304", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\nstray", [[304, ""], [304, ""]])
