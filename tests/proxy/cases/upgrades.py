"""Websockets: the handshake and what follows it, as bytes."""

import threading
import time

from servers import Server, dead
from suite import case
from wire import get

ASKING = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
AGREED = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"


def mirror(visit) -> None:
    """Agree, then give back what comes until the client ends."""
    if not (message := visit.first()):
        return
    visit.asked = message
    visit.send(AGREED + "\r\n")
    if visit.held:
        visit.send(bytes(visit.held))
    while data := visit.socket.recv(65536):
        visit.send(data)


def opened(proxy, *headers: str):
    client = proxy.connect()
    client.send(get(proxy.prefix + "/ws?a=%20b", *(headers or ASKING)))
    return client, client.head()


@case("websockets: bytes go both ways as they are", {"status": 101, "echo": True})
def _(proxy):
    with Server(mirror) as server:
        proxy.route(proxy.prefix, server)
        client, head = opened(proxy)
        with client:
            data = bytes(range(256)) * 1000
            threading.Thread(target=client.send, args=(data,), daemon=True).start()
            return {"status": head.status, "echo": client.exactly(len(data)) == data}


@case("websockets: the handshake reaches the server", {"line": "GET ^/ws?a=%20b HTTP/1.1", "upgrade": "websocket", "connection": "upgrade", "key": "dGhlIHNhbXBsZSBub25jZQ==", "version": "13", "host": "example.org:8000"})
def _(proxy):
    with Server(mirror) as server:
        proxy.route(proxy.prefix, server)
        client, _ = opened(proxy)
        client.close()
        seen = server.requests[0]
        return {
            "line": seen.start.replace(proxy.prefix, "^"),
            "upgrade": seen.get("upgrade"),
            "connection": seen.get("connection").lower(),
            "key": seen.get("sec-websocket-key"),
            "version": seen.get("sec-websocket-version"),
            "host": seen.get("host"),
        }


@case("websockets: the server's agreement reaches the client", {"start": "HTTP/1.1 101 Switching Protocols", "accept": ["s3pPLMBiTxaQ9kYGzzhZRbK+xOo="], "cookies": ["a=1", "b=2"], "x": ["1", "2"]})
def _(proxy):
    def script(visit):
        visit.first()
        visit.send(AGREED + "Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nX-A: 1\r\nX-A: 2\r\n\r\n")
        visit.rest(5)

    with Server(script) as server:
        proxy.route(proxy.prefix, server)
        client, head = opened(proxy)
        client.close()
        return {"start": head.start, "accept": head.all("sec-websocket-accept"), "cookies": head.all("set-cookie"), "x": head.all("x-a")}


@case("websockets: Connection may list more, in any case", 101)
def _(proxy):
    with Server(mirror) as server:
        proxy.route(proxy.prefix, server)
        client, head = opened(proxy, "Connection: keep-alive, uPGRADE", "Upgrade: WebSocket", *ASKING[2:])
        client.close()
        return head.status


@case("websockets: data sent with the handshake is not lost", "early late")
def _(proxy):
    with Server(mirror) as server, proxy.connect() as client:
        proxy.route(proxy.prefix, server)
        client.send(get(proxy.prefix, *ASKING) + "early ")
        client.head()
        client.send("late")
        try:
            return client.exactly(10, 3).decode()
        except Exception as error:
            return f"{bytes(client.held).decode()!r} and {error}"


@case("websockets: data that the server sends with its agreement is not lost", "early")
def _(proxy):
    def script(visit):
        visit.first()
        visit.send(AGREED + "\r\nearly")
        visit.rest(5)

    with Server(script) as server:
        proxy.route(proxy.prefix, server)
        client, _ = opened(proxy)
        with client:
            return client.exactly(5).decode()


def end_at_the_server(proxy, leave):
    """How the server's side of a websocket ends when its client leaves."""
    ends = []

    def script(visit):
        visit.first()
        visit.send(AGREED + "\r\n")
        ends.append(visit.rest(proxy.patience)[1])

    with Server(script) as server:
        proxy.route(proxy.prefix, server)
        client, _ = opened(proxy)
        leave(client)
        await_(lambda: ends, proxy)
    return ends[0]


@case("websockets: the client's end reaches the server", "closed")
def _(proxy):
    return end_at_the_server(proxy, lambda client: client.close())


@case("websockets: the client's reset reaches the server", "closed")
def _(proxy):
    return end_at_the_server(proxy, lambda client: client.reset())


@case("websockets: the server's end reaches the client", ("bye", "closed"))
def _(proxy):
    def script(visit):
        visit.first()
        visit.send(AGREED + "\r\nbye")

    with Server(script) as server:
        proxy.route(proxy.prefix, server)
        client, _ = opened(proxy)
        with client:
            data, how = client.rest()
            return data.decode(), how


@case("websockets: a client that says no more still hears", "all of it")
def _(proxy):
    def script(visit):
        visit.first()
        visit.send(AGREED + "\r\n")
        visit.rest(5)
        visit.send("all of it")

    with Server(script) as server:
        proxy.route(proxy.prefix, server)
        client, _ = opened(proxy)
        with client:
            client.send("question").shut()
            return client.rest()[0].decode()


def await_(condition, proxy):
    deadline = time.monotonic() + proxy.patience
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return value


# Refused ones


def refused(name: str, answer: str, expect, *, close: bool = False) -> None:
    @case(f"websockets: refused: {name}", expect)
    def _(proxy):
        def script(visit):
            while visit.first():
                visit.send(answer)
                if close:
                    return

        with Server(script) as server, proxy.connect() as client:
            proxy.route(proxy.prefix, server)
            client.send(get(proxy.prefix, *ASKING))
            got = client.answer()
            return got if isinstance(got, str) else [got.status, got.text(), got.get("x-why"), bool(got.cut)]


refused("with a length", "HTTP/1.1 403 Forbidden\r\nX-Why: so\r\nContent-Length: 2\r\n\r\nno", [403, "no", "so", False])
refused("in chunks", "HTTP/1.1 403 Forbidden\r\nX-Why: so\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n", [403, "no", "so", False])
refused("until the end", "HTTP/1.1 403 Forbidden\r\nX-Why: so\r\n\r\nno", [403, "no", "so", False], close=True)
refused("a redirect", "HTTP/1.1 302 Found\r\nX-Why: so\r\nContent-Length: 0\r\n\r\n", [302, "", "so", False])
refused("by an end without a word", "", [503, "", None, False], close=True)


@case("websockets: refused: no route", {"start": "HTTP/1.1 404", "body": "", "type": None}, default=False)
def _(proxy):
    answer = proxy.ask(get("/nothing", *ASKING))
    return {"start": answer.start[:12], "body": answer.text(), "type": answer.get("content-type")} if not isinstance(answer, str) else answer


@case("websockets: refused: a server that is not there", {"start": "HTTP/1.1 503", "body": "", "type": None})
def _(proxy):
    url = dead()
    proxy.route(proxy.prefix, url)
    answer = proxy.ask(get(proxy.prefix, *ASKING))
    return {"start": answer.start[:12], "body": answer.text(), "type": answer.get("content-type")} if not isinstance(answer, str) else answer


@case("websockets: refused: its sockets are given back", True, default=False, alone=True)
def _(proxy):
    """After 20 that no route was for, whose clients stay, and then go."""
    before = proxy.sockets()
    clients = [proxy.connect().send(get("/nothing", *ASKING)) for _ in range(20)]
    for client in clients:
        client.head()
        client.close()
    return bool(await_(lambda: proxy.sockets() <= before, proxy))


@case("websockets: sockets of ended ones are given back", True, alone=True)
def _(proxy):
    with Server(mirror) as server:
        proxy.route(proxy.prefix, server)
        proxy.api("GET", "/api/routes")
        before = proxy.sockets()
        for client, _ in [opened(proxy) for _ in range(20)]:
            client.close()
        return bool(await_(lambda: proxy.sockets() <= before, proxy))


# Upgrades that are none


@case("websockets: an upgrade to something else is an ordinary request", "GET /x HTTP/1.1")
def _(proxy):
    seen = proxy.seen(get("/x", "Connection: Upgrade", "Upgrade: h2c"))
    return seen.get("line") or seen


@case("websockets: POST is no websocket", "POST /x HTTP/1.1 hello")
def _(proxy):
    seen = proxy.seen(get("/x", "Connection: Upgrade", "Upgrade: websocket", method="POST", body="hello"))
    return f"{seen['line']} {seen['body']}" if "line" in seen else seen


@case("websockets: Upgrade without Connection is an ordinary request", "GET /x HTTP/1.1")
def _(proxy):
    seen = proxy.seen(get("/x", "Upgrade: websocket"))
    return seen.get("line") or seen


@case("websockets: a path that none expects", 101)
def _(proxy):
    with Server(mirror) as server:
        proxy.route(proxy.prefix, server)
        client = proxy.connect()
        with client:
            client.send(get(proxy.prefix + "/a/../b?", *ASKING))
            return client.head().status
