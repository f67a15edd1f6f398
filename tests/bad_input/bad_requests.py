"""Requests nobody should send: each gets a status, a sentence, and never a way out of the hub."""

import base64
import http.client
import re
import sqlite3
import threading
import time
from pathlib import Path
from urllib.parse import quote, urljoin, urlsplit

import requests

from harness.client import AGENT, Person, api
from harness.hub import Hub
from harness.steps import Steps, require, same

PASSWORD = "a-password-for-bad-requests"
TOKEN = "the-token-of-the-service-of-bad-requests"
CONFIG = f"""
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = {PASSWORD!r}
c.Authenticator.allow_all = True
c.Spawner.cmd = ["sleep", "1000"]
c.Spawner.args = []
c.JupyterHub.services = [{{"name": "sender", "api_token": {TOKEN!r}, "admin": True}}]
"""


def tell(kind: str, steps: Steps) -> None:
    with Hub(kind, CONFIG) as hub:
        with steps.step("requests: the hub starts"):
            hub.start().wait_ready()
        if steps.failed:
            return
        ada, bob = Person(hub.origin, "ada", PASSWORD), Person(hub.origin, "bob", PASSWORD)
        for person in (ada, bob):
            with steps.step(f"requests: {person.name} logs in"):
                same(person.sign_in().status_code, 302, "POST /hub/login")
        next_addresses(hub, ada, steps)
        strange_paths(hub, ada, steps)
        cookies(hub, ada, bob, steps)
        tokens(hub, steps)
        bodies(hub, steps)
        large(kind, hub, steps)
        with steps.step("requests: after all this the hub answers as before"):
            same(ada.page("/hub/home").status_code, 200, "GET /hub/home")


def in_a_browser(base: str, location: str) -> str:
    """Where a browser goes: it drops tabs and newlines, trims, and takes a backslash for a slash."""
    location = re.sub(r"[\t\r\n]", "", location).strip("".join(map(chr, range(33))))
    scheme = re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*:", location)
    if not scheme or scheme.group().lower() in ("http:", "https:"):
        location = location.replace("\\", "/")
    if scheme and scheme.group().lower() in ("http:", "https:"):
        location = scheme.group() + "//" + location[scheme.end():].lstrip("/")
    elif location.startswith("//"):
        location = "//" + location.lstrip("/")
    return urljoin(base, location)


def next_addresses(hub: Hub, ada: Person, steps: Steps) -> None:
    inside = f"127.0.0.1:{hub.port}"
    ours = urlsplit(hub.origin).netloc
    refused = [
        "//evil.example", "///evil.example", "////evil.example/x", "http://evil.example", "https://evil.example/hub/home",
        "https:evil.example", "https:/evil.example", "http:///evil.example", "\\\\evil.example", "//\\evil.example",
        "/\t/evil.example", "\t//evil.example", " //evil.example", "\n//evil.example", "javascript:alert(1)",
        "JaVaScRiPt:alert(1)", "data:text/html,hello", "vbscript:x", f"http://{inside}@evil.example/",
        f"http://{inside}.evil.example/", f"//{inside}@evil.example", "evil.example", "//evil.example/%2e%2e", "",
    ]
    for address in refused:
        with steps.step(f"next={address!r} is not followed"):
            answer = ada.page("/hub/login?next=" + quote(address, safe=""), follow=False)
            same(answer.status_code, 302, "status")
            same(answer.headers["Location"], "/hub/spawn", "Location")
    kept_inside = [
        "/\\evil.example", f"http://{inside}//evil.example", f"//{inside}//evil.example", "/hub/..//evil.example",
        "/%2F/evil.example", "/.//evil.example", "/hub/home?x=//evil.example", f"//{inside}/hub/home", "/ /evil.example",
    ]
    for address in kept_inside:
        with steps.step(f"next={address!r} stays inside"):
            answer = ada.page("/hub/login?next=" + quote(address, safe=""), follow=False)
            same(answer.status_code, 302, "status")
            target = in_a_browser(hub.origin + "/hub/login", answer.headers["Location"])
            same(urlsplit(target).netloc, ours, f"the host of Location {answer.headers['Location']!r}")
    with steps.step("next with a line break sets no header"):
        answer = ada.page("/hub/login?next=" + quote("/hub/home\r\nX-Injected: yes", safe=""), follow=False)
        require("X-Injected" not in answer.headers, "a header was injected")
    with steps.step("the login form follows next no further than the link"):
        for address in ("//evil.example", "/\t/evil.example", "https:/evil.example"):
            carol = Person(hub.origin, "carol", PASSWORD)
            answer = carol.sign_in(quote(address, safe=""))
            same((answer.status_code, answer.headers["Location"]), (302, "/hub/spawn"), f"next={address!r}")
    with steps.step("next of the spawn page and user-redirect stay inside"):
        for path in ("/hub/spawn?next=//evil.example", "/hub/user-redirect//evil.example", "/hub/user-redirect/%5C%5Cevil.example", "//evil.example", "//evil.example/..", "/\\evil.example"):
            answer = raw(hub, "GET", path, ada)
            if location := answer.getheader("Location"):
                same(urlsplit(in_a_browser(hub.origin + "/hub/spawn", location)).netloc, ours, f"the host of Location {location!r} of {path}")


def raw(hub: Hub, method: str, path: str, person: Person | None = None, headers: dict | None = None, body: bytes = b"") -> http.client.HTTPResponse:
    """A request whose path and headers no library has tidied."""
    connection = http.client.HTTPConnection("127.0.0.1", hub.port, timeout=30)
    connection.putrequest(method, path, skip_accept_encoding=True)
    if person is not None:
        connection.putheader("Cookie", person.cookie_header("/hub/home"))
    connection.putheader("User-Agent", AGENT)
    for name, value in (headers or {}).items():
        connection.putheader(name, value)
    if body:
        connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body or None)
    answer = connection.getresponse()
    answer.text = answer.read().decode("utf-8", "replace")
    return answer


def strange_paths(hub: Hub, ada: Person, steps: Steps) -> None:
    with steps.step("paths that are not UTF-8 get an error, not a broken connection"):
        for path in ("/hub/api/users/%ff", "/hub/%ff", "/hub/spawn/%ff", "/hub/login?next=%ff", "/user/%ff/"):
            status = raw(hub, "GET", path, ada).status
            # Upstream answers some of these with 500; anything that says whose fault it is will do.
            require(status in (302, 400, 404, 500), f"GET {path}: {status}")
    with steps.step("no path leads out of the static files"):
        for path in ("/hub/static/../../../../etc/passwd", "/hub/static/%2e%2e/%2e%2e/%2e%2e/etc/passwd", "/hub/static/..%2f..%2f..%2f..%2fetc/passwd", "/hub/static//etc/passwd"):
            answer = raw(hub, "GET", path, ada)
            require("root:" not in answer.text, f"GET {path} gave the password file")
            require(answer.status != 200, f"GET {path}: 200")
    with steps.step("a name with a zero byte is nobody's"):
        same(api(hub.origin, TOKEN, "GET", "/users/a%00b").status_code, 404, "GET /users/a%00b")
    with steps.step("a method nobody knows is refused"):
        status = raw(hub, "BREW", "/hub/api/users", ada).status
        require(status in (400, 405, 501), f"BREW /hub/api/users: {status}")
        same(requests.put(hub.origin + "/hub/login", timeout=10).status_code in (403, 405), True, "PUT /hub/login is refused")


def cookies(hub: Hub, ada: Person, bob: Person, steps: Steps) -> None:
    good = ada.cookie("jupyterhub-hub-login", "/hub/").value.strip('"')

    def seen_as(value: str) -> str | None:
        answer = requests.get(hub.origin + "/hub/api/user", headers={"Cookie": f'jupyterhub-hub-login="{value}"', "User-Agent": AGENT}, timeout=10)
        require(answer.status_code in (200, 403), f"GET /hub/api/user: {answer.status_code}")
        return answer.json().get("name")

    with steps.step("ada's own cookie is good"):
        same(seen_as(good), "ada", "name")
    with steps.step("a cookie with a changed byte is nobody's, wherever it was changed"):
        for place in range(0, len(good), 7):
            changed = good[:place] + ("x" if good[place] != "x" else "y") + good[place + 1:]
            same(seen_as(changed), None, f"changed at {place}")
    with steps.step("half a cookie, no cookie and another cookie's signature are nobody's"):
        other = bob.cookie("jupyterhub-hub-login", "/hub/").value.strip('"')
        head, signature = good.rsplit("|", 1)
        for value in ("", "|", "2|1:0|", good[: len(good) // 2], head + "|", head + "|" + other.rsplit("|", 1)[1], "2|" * 1000, "\xe9"):
            same(seen_as(value), None, value[:40])
    with steps.step("a cookie signed for another name is nobody's"):
        xsrf = ada.hub_xsrf()
        same(seen_as(base64.urlsafe_b64decode(xsrf + "=" * (-len(xsrf) % 4)).decode("latin-1")), None, "the XSRF cookie's value")
    with steps.step("bob's cookie shows bob, whatever address is asked"):
        answer = bob.call("GET", "/hub/api/users/ada")
        same(answer.status_code, 404, "GET /users/ada")
        same(bob.page("/hub/spawn/ada").status_code, 404, "GET /hub/spawn/ada")
    with steps.step("a deleted user's cookie is nobody's"):
        dora = Person(hub.origin, "dora", PASSWORD)
        same(dora.sign_in().status_code, 302, "POST /hub/login")
        same(api(hub.origin, TOKEN, "DELETE", "/users/dora").status_code, 204, "DELETE")
        same(dora.call("GET", "/hub/api/user").status_code, 403, "GET /hub/api/user")
        same(dora.page("/hub/home", follow=False).headers.get("Location"), "/hub/login?next=%2Fhub%2Fhome", "GET /hub/home")
    with steps.step("a page with another's cookie leads to the login"):
        answer = requests.get(hub.origin + "/hub/home", headers={"Cookie": 'jupyterhub-hub-login="' + good[:-1] + '0x"'}, allow_redirects=False, timeout=10)
        same((answer.status_code, answer.headers.get("Location")), (302, "/hub/login?next=%2Fhub%2Fhome"), "GET /hub/home")


def tokens(hub: Hub, steps: Steps) -> None:
    with steps.step("unknown tokens, in every clothing, are 403"):
        for header in ("token " + "0" * 32, "Bearer " + "0" * 32, "token", "token ", "Basic YWRhOng=", TOKEN, "token " + TOKEN[:-1], "token " + TOKEN + "x", "token " + "x" * 5000, "token \xe9\xe9"):
            answer = raw(hub, "GET", "/hub/api/user", headers={"Authorization": header.encode("latin-1")})
            same(answer.status, 403, f"Authorization: {header[:40]!r}")
    with steps.step("an expired token is 403 and says nothing of whose it was"):
        made = api(hub.origin, TOKEN, "POST", "/users/ada/tokens", {"expires_in": 1})
        same(made.status_code, 201, "POST tokens")
        deadline = time.monotonic() + 5
        while (answer := api(hub.origin, made.json()["token"], "GET", "/users/ada")).status_code != 403:
            require(time.monotonic() < deadline, "it still works after 5 s")
            time.sleep(0.2)
        require("ada" not in answer.text, answer.text)
    with steps.step("tokens do not stand in the database as they are"):
        # Every file that SQLite keeps for the database, the write-ahead log too.
        for path in hub.folder.glob("jupyterhub.sqlite*"):
            require(TOKEN.encode() not in path.read_bytes(), f"the token stands in {path.name}")
        with sqlite3.connect(f"file:{hub.folder / 'jupyterhub.sqlite'}?mode=ro", uri=True) as database:
            require(database.execute("SELECT count(*) FROM api_tokens").fetchone()[0] > 0, "no token in the database")


def bodies(hub: Hub, steps: Steps) -> None:
    not_json = {"a half object": b"{", "not UTF-8": b"\xff\xfe\x00", "20,000 brackets": b"[" * 20_000, "plain words": b"hello", "a NUL": b"\x00", "a trailing word": b"{} x"}
    places = [("POST", "/users"), ("POST", "/users/nobody-yet"), ("PATCH", "/users/ada"), ("POST", "/users/ada/tokens"), ("POST", "/users/ada/activity"), ("POST", "/users/bob/server")]
    for name, body in not_json.items():
        with steps.step(f"a body that is {name} is 400 with a sentence, everywhere"):
            for method, path in places:
                refused_body(hub, method, path, body)
    wrong_shape = [
        ("POST", "/users", [b"[]", b'"x"', b"3", b"null", b"", b"{}", b'{"usernames": []}', b'{"usernames": [""]}', b'{"usernames": ["a/b"]}']),
        ("PATCH", "/users/ada", [b"[]", b'"x"', b"3", b"null", b"", b'{"nome": "x"}', b'{"name": 3}']),
        ("POST", "/users/nobody-yet", [b'{"usernames": "x"}']),
        ("POST", "/users/ada/tokens", [b'"x"', b"3", b'{"expires_in": "x"}', b'{"scopes": 3}', b'{"roles": ["no-such-role"]}']),
        ("POST", "/users/ada/activity", [b"[]", b'"x"', b"3", b"null", b"", b"{}", b'{"servers": {"none": {}}}']),
        ("POST", "/users/bob/server", [b'"x"', b"3"]),
    ]
    for method, path, shapes in wrong_shape:
        with steps.step(f"{method} {path}: JSON of a wrong shape is 400 with a sentence"):
            for body in shapes:
                refused_body(hub, method, path, body)
    with steps.step("none of these made a user or a server"):
        names = {user["name"] for user in api(hub.origin, TOKEN, "GET", "/users").json()}
        require("nobody-yet" not in names and "x" not in names, f"users: {names}")
        same(api(hub.origin, TOKEN, "GET", "/users/bob").json()["pending"], None, "bob's pending server")
    with steps.step("a form that is not UTF-8 is refused, not crashed"):
        stranger = Person(hub.origin, "x", "x")
        stranger.page("/hub/login")
        body = b"username=%ff%fe&password=x&_xsrf=" + stranger.hub_xsrf().encode()
        answer = raw(hub, "POST", "/hub/login", None, {"Cookie": stranger.cookie_header("/hub/login"), "Content-Type": "application/x-www-form-urlencoded"}, body)
        require(answer.status in (400, 403), f"POST /hub/login: {answer.status}")


def refused_body(hub: Hub, method: str, path: str, body: bytes) -> None:
    answer = requests.request(method, hub.origin + "/hub/api" + path, data=body, headers={"Authorization": "token " + TOKEN, "Content-Type": "application/json"}, timeout=20)
    same(answer.status_code, 400, f"{method} {path} with {body[:40]!r}")
    model = answer.json()
    same(model["status"], 400, "status in the body")
    require(model["message"] and len(model["message"]) < 500, f"{method} {path} with {body[:40]!r}: message {str(model['message'])[:200]!r}")


def large(kind: str, hub: Hub, steps: Steps) -> None:
    if kind == "upstream":
        return  # it takes 50 MB for a name, and lets it in
    with steps.step("a username of 50 MB is refused soon, while others are served"):
        slowest, done = [0.0], threading.Event()

        def look() -> None:
            while not done.is_set():
                begun = time.monotonic()
                same(requests.get(hub.origin + "/hub/health", timeout=20).status_code, 200, "GET /hub/health")
                slowest[0] = max(slowest[0], time.monotonic() - begun)
                time.sleep(0.05)

        watcher = threading.Thread(target=look)
        watcher.start()
        begun = time.monotonic()
        try:
            status = sign_in_largely(hub, 50_000_000)
        finally:
            done.set()
            watcher.join()
        require(status in (400, 403, 413, None), f"POST /hub/login: {status}")
        require(time.monotonic() - begun < 20, f"it took {time.monotonic() - begun:.1f} s")
        require(slowest[0] < 2, f"another's request waited {slowest[0]:.1f} s")
    with steps.step("the hub did not grow by it, and did not log it"):
        peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{hub.process.pid}/status").read_text())
        require(int(peak.group(1)) < 200_000, f"the hub's peak is {peak.group(1)} kB")
        require(len(hub.log_text()) < 2_000_000, f"the log has {len(hub.log_text())} bytes")
    with steps.step("a username longer than its column is refused"):
        answer = Person(hub.origin, "x" * 300, PASSWORD).sign_in()
        require(answer.status_code in (400, 403), f"POST /hub/login: {answer.status_code}")
    with steps.step("a JSON body of 50 MB is refused"):
        try:
            answer = requests.post(hub.origin + "/hub/api/users", data=b'{"usernames": ["' + b"x" * 50_000_000 + b'"]}', headers={"Authorization": "token " + TOKEN}, timeout=30)
            require(answer.status_code in (400, 413), f"POST /users: {answer.status_code}")
        except requests.ConnectionError:
            pass  # the hub may end the connection before it has read it all
    with steps.step("headers without end are refused"):
        answer = raw(hub, "GET", "/hub/login", None, {"X-Long": "x" * 500_000})
        require(answer.status in (400, 413, 431), f"GET /hub/login: {answer.status}")


def sign_in_largely(hub: Hub, size: int) -> int | None:
    stranger = Person(hub.origin, "x" * size, PASSWORD)
    try:
        return stranger.sign_in().status_code
    except requests.ConnectionError:
        return None  # ended before it was read: as good as 413
