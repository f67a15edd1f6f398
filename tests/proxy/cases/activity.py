"""What counts as activity of a server: hubs cull servers that have none."""

import json
import threading
import time

from servers import Server, dead, ok, saying
from suite import case
from wire import get


def last(proxy) -> str:
    return json.loads(proxy.api("GET", f"/api/routes{proxy.prefix}")[1])["last_activity"]


def moves(proxy, before: str, seconds: float | None = None) -> bool:
    """Whether the time changes soon."""
    deadline = time.monotonic() + (seconds or 2)
    while time.monotonic() < deadline:
        if last(proxy) != before:
            return True
        time.sleep(0.02)
    return False


def counts(name: str, answer: str, expect: bool, request=None) -> None:
    @case(f"activity: {name}", expect)
    def _(proxy):
        with Server(saying(answer)) as server:
            proxy.route(proxy.prefix, server)
            before = last(proxy)
            time.sleep(0.02)  # The time has milliseconds, and is to be another one.
            proxy.ask(request(proxy) if request else get(proxy.prefix))
            return moves(proxy, before, 2 if expect else 0.4)


counts("an answer", ok(), True)
counts("204", "HTTP/1.1 204 No Content\r\n\r\n", True)
for _status in ("301 Moved", "304 Not Modified", "403 Forbidden", "404 Not Found", "500 Oops"):
    counts(f"not {_status}", f"HTTP/1.1 {_status}\r\nContent-Length: 0\r\n\r\n", False)
counts("a body that is sent, whatever the answer", "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", True, lambda proxy: get(proxy.prefix, method="POST", body="hello"))


@case("activity: not a server that is not there", False)
def _(proxy):
    url = dead()
    proxy.route(proxy.prefix, url)
    before = last(proxy)
    time.sleep(0.02)
    proxy.ask(get(proxy.prefix))
    return moves(proxy, before, 0.4)


@case("activity: not of the route above or beside", [True, False, False])
def _(proxy):
    with Server() as server:
        paths = ["/a/b", "/a", "/c"]
        for path in paths:
            proxy.route(proxy.prefix + path, server)
        time.sleep(0.02)

        def times():
            routes = proxy.routes()
            return [routes[proxy.prefix + path]["last_activity"] for path in paths]

        before = times()
        proxy.ask(get(proxy.prefix + "/a/b/c"))
        time.sleep(0.3)
        return [now != then for now, then in zip(times(), before)]


def while_(proxy, script, request: str, step) -> bool:
    """Whether the time moves with the second of two steps of something long."""
    with Server(script) as server, proxy.connect() as client:
        proxy.route(proxy.prefix, server)
        client.send(request)
        step(client, 1)
        time.sleep(0.3)
        before = last(proxy)
        time.sleep(1.1)
        step(client, 2)
        return moves(proxy, before)


@case("activity: an upload that runs", True)
def _(proxy):
    request = f"POST {proxy.prefix} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    return while_(proxy, lambda visit: visit.rest(10), request, lambda client, _: client.send("3\r\nabc\r\n"))


@case("activity: a download that runs", True)
def _(proxy):
    more = threading.Semaphore(0)

    def script(visit):
        visit.first()
        visit.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(2):
            more.acquire(timeout=10)
            visit.send("abc")
        visit.rest(10)

    return while_(proxy, script, get(proxy.prefix), lambda client, _: (more.release(), client.until(b"abc")))


WEBSOCKET = ("Connection: Upgrade", "Upgrade: websocket")
AGREED = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"


@case("activity: a websocket's messages to the server", True)
def _(proxy):
    def script(visit):
        visit.first()
        visit.send(AGREED)
        visit.rest(10)

    return while_(proxy, script, get(proxy.prefix, *WEBSOCKET), lambda client, _: client.send("abc"))


@case("activity: a websocket's messages from the server", True)
def _(proxy):
    more = threading.Semaphore(0)

    def script(visit):
        visit.first()
        visit.send(AGREED)
        for _ in range(2):
            more.acquire(timeout=10)
            visit.send("abc")
        visit.rest(10)

    return while_(proxy, script, get(proxy.prefix, *WEBSOCKET), lambda client, _: (more.release(), client.until(b"abc")))


@case("activity: not a websocket that says nothing", False)
def _(proxy):
    def script(visit):
        visit.first()
        visit.send(AGREED)
        visit.rest(10)

    return while_(proxy, script, get(proxy.prefix, *WEBSOCKET), lambda client, number: number == 1 and client.head())
