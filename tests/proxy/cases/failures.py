"""What people see when there is no route, or no server behind it; the health check."""

import time

from servers import Server, dead, saying
from suite import case, own
from wire import get

NOWHERE = "/nothing/here?a=b&c"


def page(answer) -> dict | str:
    if isinstance(answer, str):
        return answer
    return {"status": answer.status, "type": answer.get("content-type"), "body": answer.text()}


# Our pages have their own words, so only what programs may look at is compared.


@case("failures: the page for no route", {"status": 404, "type": "text/html", "title": True}, default=False)
def _(proxy):
    answer = proxy.ask(get(NOWHERE))
    return {"status": answer.status, "type": (answer.get("content-type") or "").split(";")[0], "title": "<title>404: Not " in answer.text()}


@case("failures: the page for no server", {"status": 503, "type": "text/html", "title": True})
def _(proxy):
    proxy.route(proxy.prefix, dead())
    answer = proxy.ask(get(proxy.prefix))
    return {"status": answer.status, "type": (answer.get("content-type") or "").split(";")[0], "title": "<title>503: " in answer.text()}


for _method in ("HEAD", "POST", "DELETE"):

    @case(f"failures: {_method} of no route", [404, _method != "HEAD"], default=False)
    def _(proxy, method=_method):
        answer = proxy.ask(get(NOWHERE, method=method, body="hello" if method == "POST" else ""))
        return answer if isinstance(answer, str) else [answer.status, bool(answer.body)]


@case("failures: the connection outlives a failure", [404, 404], default=False)
def _(proxy):
    with proxy.connect() as client:
        return [client.send(get(NOWHERE)).answer().status for _ in range(2)]


@case("failures: a body sent to no route does not become a request", [404, 404], default=False)
def _(proxy):
    with proxy.connect() as client:
        first = client.send(get(NOWHERE, method="POST", body=get("/smuggled"))).answer()
        second = client.send(get(NOWHERE)).answer()
        rest = client.rest(0.5)[0]
        return [first.status, second.status] + ([rest.decode()] if rest else [])


@case("failures: a server that cannot be found", 503)
def _(proxy):
    proxy.route(proxy.prefix, "http://no-such-host.invalid:1234")
    answer = proxy.ask(get(proxy.prefix))
    return answer if isinstance(answer, str) else answer.status


@case("failures: a server that comes back is found again", [503, 200])
def _(proxy):
    server = Server()
    proxy.route(proxy.prefix, server)
    statuses = [proxy.ask(get(proxy.prefix)).status]
    with server:
        return [*statuses, proxy.ask(get(proxy.prefix)).status]


# --error-target


def error_target(name: str, expect, answer: str, *, path: str = "/hub/error", request: str | None = None, status: int = 404):
    """What people get, and what the error target was asked."""

    @own(f"failures: --error-target: {name}", expect)
    def _(site):
        def script(visit):
            while message := visit.request():
                asked.append(message)
                visit.send(answer)
                if "Connection: close" in answer:
                    return

        asked = []
        with Server(script) as server:
            proxy = site.start("--error-target", server.url + path)
            if status == 503:
                proxy.route("/dead", dead())
            got = proxy.ask(request or get(NOWHERE if status == 404 else "/dead/x?y"))
            shown = page(got)
            if "body" in shown and "<!doctype html>" in shown["body"]:
                shown["body"] = "ours"
            return {"page": shown, "asked": [one.start for one in asked], "x": None if isinstance(got, str) else got.get("x-secret")}


def told(body: str, *headers: str, status: str = "200 OK") -> str:
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}", "", body])


PAGE = told("<b>away</b>", "Content-Type: text/html; charset=utf-8", "X-Secret: 1", "Set-Cookie: a=1")
SHOWN = {"status": 404, "type": "text/html; charset=utf-8", "body": "<b>away</b>"}
ASKED = "GET /hub/error/404?url=%2Fnothing%2Fhere%3Fa%3Db%26c HTTP/1.1"
error_target("no route", {"page": SHOWN, "asked": [ASKED], "x": None}, PAGE)
error_target("a slash at its end", {"page": SHOWN, "asked": [ASKED], "x": None}, PAGE, path="/hub/error/")
error_target("at the root", {"page": SHOWN, "asked": [ASKED.replace("/hub/error", "")], "x": None}, PAGE, path="")
error_target("with a query", {"page": SHOWN, "asked": ["GET /e/404?url=%2Fnothing%2Fhere%3Fa%3Db%26c HTTP/1.1"], "x": None}, PAGE, path="/e")
error_target("no server", {"page": SHOWN | {"status": 503}, "asked": ["GET /hub/error/503?url=%2Fdead%2Fx%3Fy HTTP/1.1"], "x": None}, PAGE, status=503)
error_target("its own status does not count", {"page": SHOWN, "asked": [ASKED], "x": None}, PAGE.replace("200 OK", "500 Oops"))
error_target("in chunks", {"page": SHOWN, "asked": [ASKED], "x": None}, "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n<b>away</b>\r\n0\r\n\r\n")
error_target("a POST is asked for as well", {"page": SHOWN, "asked": [ASKED], "x": None}, PAGE, request=get(NOWHERE, method="POST", body="hello"))
error_target("that breaks off", {"page": {"status": 404, "type": "text/html", "body": "ours"}, "asked": [ASKED], "x": None}, "Connection: close")


@own("failures: --error-target: its encoding is told", {"encoding": "gzip", "same": True})
def _(site):
    import gzip

    packed = gzip.compress(b"away", mtime=0)
    script = saying(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed) + packed)
    with Server(script) as server:
        proxy = site.start("--error-target", server.url)
        answer = proxy.ask(get(NOWHERE))
        return {"encoding": answer.get("content-encoding"), "same": answer.body == packed}


@own("failures: --error-target: a websocket has no page", ["HTTP/1.1 404", "", 0])
def _(site):
    with Server() as server:
        proxy = site.start("--error-target", server.url)
        answer = proxy.ask(get(NOWHERE, "Connection: Upgrade", "Upgrade: websocket"))
        return answer if isinstance(answer, str) else [answer.start[:12], answer.text(), len(server.requests)]


@own("failures: --error-target: on a unix socket", {"page": {"status": 404, "type": "text/plain", "body": "away"}, "asked": ["GET /e/404?url=%2Fnothing%2Fhere%3Fa%3Db%26c HTTP/1.1"]})
def _(site):
    with Server(saying(told("away", "Content-Type: text/plain")), unix=site.folder / "e") as server:
        proxy = site.start("--error-target", server.url + "/e")
        return {"page": page(proxy.ask(get(NOWHERE))), "asked": [one.start for one in server.requests]}


@own("failures: --error-target: that is not there", {"status": 404, "page": True})
def _(site):
    proxy = site.start("--error-target", dead())
    answer = proxy.ask(get(NOWHERE))
    return {"status": answer.status, "page": "<html" in answer.text()}


# --error-path


def error_path(name: str, files: dict[str, str], expect: dict) -> None:
    @own(f"failures: --error-path: {name}", expect)
    def _(site):
        folder = site.folder / "pages"
        if files:
            folder.mkdir()
        for file, text in files.items():
            (folder / file).write_text(text)
        proxy = site.start("--error-path", folder)
        proxy.route("/dead", dead())
        found = {}
        for path in expect:
            answer = proxy.ask(get(path))
            found[path] = answer if isinstance(answer, str) else [answer.status, answer.get("content-type"), answer.text()]
        return found


error_path("a page for each", {"404.html": "not", "503.html": "dead"}, {NOWHERE: [404, "text/html", "not"], "/dead": [503, "text/html", "dead"]})
error_path("error.html for the others", {"404.html": "not", "error.html": "any"}, {NOWHERE: [404, "text/html", "not"], "/dead": [503, "text/html", "any"]})


@own("failures: --error-path: without any page", {"status": 404, "page": True})
def _(site):
    proxy = site.start("--error-path", site.folder / "none")
    answer = proxy.ask(get(NOWHERE))
    return {"status": answer.status, "page": "<html" in answer.text()}


@own("failures: --error-path: pages are read when they are needed", ["first", "second"])
def _(site):
    folder = site.folder / "pages"
    folder.mkdir()
    (folder / "404.html").write_text("first")
    proxy = site.start("--error-path", folder)
    pages = [proxy.ask(get(NOWHERE)).text()]
    (folder / "404.html").write_text("second")
    return [*pages, proxy.ask(get(NOWHERE)).text()]


# The health check


@case("failures: the health check", {"status": 200, "type": "application/json", "body": '{"status":"OK"}'}, default=False)
def _(proxy):
    return page(proxy.ask(get("/_chp_healthz")))


@case("failures: the health check is there with a default target", {"status": 200, "type": "application/json", "body": '{"status":"OK"}'})
def _(proxy):
    return page(proxy.ask(get("/_chp_healthz")))


@case("failures: below the health check is nothing", [404, 404], default=False)
def _(proxy):
    return [proxy.ask(get(path)).status for path in ("/_chp_healthz/x", "/_chp_healthz?x")]


# Time limits


def timed(answer, begun: float, least: float, most: float):
    took = time.monotonic() - begun
    return [answer if isinstance(answer, str) else answer.status, "in time" if least <= took <= most else f"after {took:.1f} s"]


@case("failures: --proxy-timeout: a silent server", [503, "in time"], options=["--proxy-timeout", "2000"])
def _(proxy):
    with Server(lambda visit: visit.rest(10)) as server:
        proxy.route(proxy.prefix, server)
        begun = time.monotonic()
        return timed(proxy.ask(get(proxy.prefix)), begun, 1.8, 10)


@case("failures: --proxy-timeout: an answer in time", [200, "in time"], options=["--proxy-timeout", "2000"])
def _(proxy):
    def script(visit):
        visit.request()
        time.sleep(0.3)
        visit.reply("ok")

    with Server(script) as server:
        proxy.route(proxy.prefix, server)
        begun = time.monotonic()
        return timed(proxy.ask(get(proxy.prefix)), begun, 0.2, 10)


@case("failures: --proxy-timeout: silence in mid body cuts the answer", ["hel", "closed"], options=["--proxy-timeout", "2000"])
def _(proxy):
    def script(visit):
        visit.request()
        visit.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel")
        visit.rest(10)

    with Server(script) as server:
        proxy.route(proxy.prefix, server)
        answer = proxy.ask(get(proxy.prefix))
        return answer if isinstance(answer, str) else [answer.text(), answer.cut]


@case("failures: --timeout: a silent request ends", "closed", options=["--timeout", "2500"])
def _(proxy):
    with Server(lambda visit: visit.rest(10)) as server:
        proxy.route(proxy.prefix, server)
        answer = proxy.ask(get(proxy.prefix))
        return answer if isinstance(answer, str) else answer.status


@case("failures: --timeout: a busy request does not end", "0123456789", options=["--timeout", "2500"])
def _(proxy):
    def script(visit):
        visit.request()
        visit.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")
        for digit in "0123456789":
            visit.send(digit)
            time.sleep(0.4)

    with Server(script) as server:
        proxy.route(proxy.prefix, server)
        answer = proxy.ask(get(proxy.prefix))
        return answer if isinstance(answer, str) else answer.text()


@case("failures: --keep-alive-timeout: an idle connection ends", [True, "in time"], options=["--keep-alive-timeout", "4000"])
def _(proxy):
    with proxy.connect() as client:
        client.send(get("/x")).answer()
        begun = time.monotonic()
        ends = client.ends()
        took = time.monotonic() - begun
        return [ends, "in time" if 3 <= took <= 12 else f"after {took:.1f} s"]


@case("failures: --keep-alive-timeout: a connection in use stays", [200, 200, 200], options=["--keep-alive-timeout", "4000"])
def _(proxy):
    with proxy.connect() as client:
        statuses = []
        for _ in range(3):
            answer = client.send(get("/x")).answer()
            statuses.append(answer if isinstance(answer, str) else answer.status)
            time.sleep(1.5)
        return statuses
