#!/usr/bin/env python3
"""Each published advisory of JupyterHub, tried against the whole system: it must not be possible here.

    python tests/advisories/run.py --hub upstream|orrery|both

Each step bears the advisory's name. JupyterHub 6.1.1 fails five of them: it logs 2 kB of a server's name, answers 400
before 403 to websockets' mode, 500 to half an IPv6 address in `next`, lets a service with `admin:users` delete
administrators, and lets none that is not named one make any.
"""

import argparse
import itertools
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote, urljoin, urlsplit

import requests
from jupyterhub.scopes import scope_definitions

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness.client import TIMEOUT, Person, api  # noqa: E402
from harness.hub import KINDS, Hub  # noqa: E402
from harness.steps import Steps, exit_with, require, same, wait_until  # noqa: E402

PASSWORD = "a-password-for-the-advisories"
SCOPES = sorted(set(scope_definitions) - {"(no_scope)", "self", "inherit"})
FILTERS = ("user=eve", "group=pupils", "server=eve/", "service=reader")
MARKUP = (
    "\"><evil-tag src=x onerror=alert(1)>",
    "'><evil-tag/onload=alert(1)>",
    "</script><evil-tag></evil-tag><script>alert(1)</script>",
    "\" autofocus onfocus=\"alert(1)",
    "' onmouseover='alert(1)",
    "</title></textarea></style><evil-tag>",
    "<!--evil-comment",
    "javascript:alert(1)//",
    "/hub/\"><evil-tag src=x onerror=alert(1)>",
    "{{7*191}}{% raw %}",
)
FETCH_SITES = ("same-origin", "same-site", "cross-site", "none", "bogus", None)
FETCH_MODES = ("navigate", "same-origin", "cors", "no-cors", "websocket", "bogus", None)
CHANGES = (
    ("POST", "/users"),
    ("POST", "/users/new"),
    ("PATCH", "/users/eve"),
    ("DELETE", "/users/eve"),
    ("POST", "/users/root/tokens"),
    ("DELETE", "/users/root/tokens/a1"),
    ("POST", "/users/root/server"),
    ("DELETE", "/users/root/server"),
    ("POST", "/users/root/servers/other"),
    ("DELETE", "/users/root/servers/other"),
    ("POST", "/users/root/activity"),
    ("POST", "/groups"),
    ("POST", "/groups/new"),
    ("DELETE", "/groups/pupils"),
    ("POST", "/groups/pupils/users"),
    ("DELETE", "/groups/pupils/users"),
    ("PUT", "/groups/pupils/properties"),
    ("POST", "/services/new"),
    ("PATCH", "/services/reader"),
    ("DELETE", "/services/reader"),
    ("POST", "/shares/root/"),
    ("PATCH", "/shares/root/"),
    ("DELETE", "/shares/root/"),
    ("POST", "/share-codes/root/"),
    ("DELETE", "/share-codes/root/"),
    ("POST", "/proxy"),
    ("PATCH", "/proxy"),
    ("POST", "/shutdown"),
)
CONFIG = f"""
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = {PASSWORD!r}
c.Authenticator.allow_all = True
c.Authenticator.admin_users = {{"root"}}
c.JupyterHub.allow_named_servers = True
c.JupyterHub.load_groups = {{"pupils": {{"users": ["eve"]}}}}
scopes = {SCOPES!r}
c.JupyterHub.services = [
    {{"name": "reader", "api_token": "token-of-the-service-reader"}},
    {{"name": "root-like", "api_token": "token-of-the-service-root-like"}},
] + [{{"name": f"one-{{n}}", "api_token": f"token-of-the-service-{{n:04}}"}} for n in range(len(scopes))]
c.JupyterHub.load_roles = [
    {{"name": f"one-{{n}}", "scopes": [scope], "services": [f"one-{{n}}"]}} for n, scope in enumerate(scopes)
] + [{{"name": "root-like", "scopes": scopes, "services": ["root-like"]}}]
"""


def base_config() -> str:
    # The servers of these tests are never used, only asked for.
    return CONFIG + 'c.SimpleLocalProcessSpawner.cmd = ["sleep", "60"]\nc.Spawner.start_timeout = 2\n'


class Shape(HTMLParser):
    """The nodes and attributes of a page, and what in it could run."""

    def __init__(self, text: str):
        super().__init__()
        self.nodes: Counter = Counter()
        self.evil: set[str] = set()
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.nodes[tag] += 1
        for name, value in attributes:
            self.nodes[f"{tag} {name}"] += 1
            leads = name in ("href", "src", "action", "formaction", "srcdoc", "data")
            if "alert(1)" in (value or "") and (name.startswith("on") or leads and value.strip().lower().startswith("javascript:")):
                self.evil.add(f"{tag} {name}={value}")
        if tag.startswith("evil") or any(name.startswith("evil") for name, _ in attributes):
            self.evil.add(tag)

    def handle_comment(self, data):
        if "evil-comment" in data:
            self.evil.add("a comment")


def no_markup_from_addresses(hub: Hub, step) -> None:
    """GHSA-c4gm-pwx9-9w8j: what an address says is shown as text, never as part of the page."""
    ada = Person(hub.origin, "ada", PASSWORD)
    same(ada.sign_in().status_code, 302, "the login")
    stranger = Person(hub.origin, "nobody", "wrong")
    pages = {
        "login": (stranger, "/hub/login?next={}"),
        "login's unknown argument": (stranger, "/hub/login?username={}"),
        "spawn": (ada, "/hub/spawn/ada?next={}"),
        "spawn of a named server": (ada, "/hub/spawn/ada/{}"),
        "accept-share's next": (ada, "/hub/accept-share?code=x&next={}"),
        "accept-share's code": (ada, "/hub/accept-share?code={}"),
        "home": (ada, "/hub/home?next={}"),
        "token": (ada, "/hub/token?next={}"),
        "a server that is not there": (ada, "/hub/user/ada/{}/tree"),
        "somebody else's server": (ada, "/hub/user/{}/tree"),
        "user-redirect": (ada, "/hub/user-redirect/{}"),
        "nothing there": (ada, "/hub/{}"),
        "an error of the proxy": (stranger, "/hub/error/503?url={}"),
        "an OAuth client": (ada, "/hub/api/oauth2/authorize?response_type=code&redirect_uri=/x&client_id={}"),
        "an OAuth address": (ada, "/hub/api/oauth2/authorize?response_type=code&client_id=service-reader&redirect_uri={}"),
    }
    for name, (person, page) in pages.items():
        with step(f"GHSA-c4gm-pwx9-9w8j: {name} takes no markup"):
            plain_answer = person.page(page.format("plain-words"), follow=False)
            plain = Shape(plain_answer.text)
            for markup in MARKUP:
                answer = person.page(page.format(quote(markup, safe="")), follow=False)
                require(answer.status_code < 500 or "error/503" in page, f"{markup!r}: {answer.status_code}")
                if "text/html" not in answer.headers.get("Content-Type", "text/html"):
                    continue
                shape = Shape(answer.text)
                same(shape.evil, set(), f"what {markup!r} brings")
                require("1337" not in answer.text, f"{markup!r} was computed")
                if answer.status_code == plain_answer.status_code:
                    same(shape.nodes - plain.nodes, Counter(), f"nodes and attributes that {markup!r} adds")
    with step("GHSA-c4gm-pwx9-9w8j: a name typed into the login form comes back as text"):
        for markup in MARKUP:
            stranger.page("/hub/login")
            answer = stranger.form("/hub/login", {"username": markup, "password": "wrong"})
            require(answer.status_code in (200, 401, 403, 429), f"{markup!r}: {answer.status_code}")
            shape = Shape(answer.text)
            same(shape.evil, set(), f"what {markup!r} brings")
            if answer.status_code == 429:
                break


def names(hub: Hub, root: str) -> tuple:
    def ask(path: str):
        answer = api(hub.hub_origin, root, "GET", path)
        same(answer.status_code, 200, f"GET {path}")
        return answer.json()

    users = sorted((user["name"], user["admin"]) for user in ask("/users"))
    return users, sorted(group["name"] for group in ask("/groups")), sorted(ask("/services"))


def filtered_scopes_create_nothing(hub: Hub, root: str, step) -> None:
    """GHSA-69wv-m5fw-2fhp: a scope for some of a kind is none for making new ones."""
    before = names(hub, root)
    creations = (
        ("POST", "/users", {"usernames": ["made-1", "made-2"]}),
        ("POST", "/users/made", {}),
        ("POST", "/groups", {"name": "made"}),
        ("POST", "/groups/made", {}),
        ("POST", "/services/made", {"api_token": "x" * 20}),
        ("POST", "/proxy", None),
        ("PATCH", "/proxy", {"ip": "127.0.0.1", "port": "1"}),
        ("POST", "/shutdown", {}),
    )
    with step(f"GHSA-69wv-m5fw-2fhp: {len(SCOPES)} scopes with {len(FILTERS)} filters each make nothing new"):
        for scope, limit in itertools.product(SCOPES, FILTERS):
            limited = api(hub.hub_origin, root, "POST", "/users/root/tokens", {"scopes": [f"{scope}!{limit}"]})
            if limited.status_code == 400:
                # This kind of filter fits no such scope.
                continue
            same(limited.status_code, 201, f"a token with {scope}!{limit}")
            token = limited.json()["token"]
            for method, path, body in creations:
                answer = api(hub.hub_origin, token, method, path, body)
                require(answer.status_code in (403, 404, 405), f"{scope}!{limit}: {method} {path}: {answer.status_code} {answer.text[:200]}")
            api(hub.hub_origin, root, "DELETE", f"/users/root/tokens/{limited.json()['id']}")
        same(names(hub, root), before, "who and what there is")


def names_are_logged_short(hub: Hub, step) -> None:
    """CVE-2026-54338 / GHSA-p43p-whwx-q52h: a stranger cannot fill the log."""
    with step("CVE-2026-54338: a name of 50 MB is refused, and the log hardly grows"):
        before = len(hub.log_path.read_bytes())
        session = requests.Session()
        session.trust_env = False
        session.get(hub.origin + "/hub/login", headers={"Sec-Fetch-Mode": "navigate"}, timeout=TIMEOUT)
        try:
            answer = session.post(
                f"{hub.origin}/hub/login",
                data={"username": "n" * 50_000_000, "password": "x", "_xsrf": session.cookies.get("_xsrf", path="/hub/")},
                allow_redirects=False,
                timeout=TIMEOUT,
            )
            require(answer.status_code in (400, 403, 413), f"{answer.status_code}")
        except requests.ConnectionError:
            pass  # cut off before the end: refused as well
        require(len(hub.log_path.read_bytes()) - before < 4000, "the log grew")
    with step("CVE-2026-54338: long names with line breaks and escape sequences stay one bounded line"):
        before = len(hub.log_path.read_bytes())
        stranger = Person(hub.origin, "", "")
        stranger.page("/hub/login")
        name = "\x1b[31mroot\r\nforged line: root logged in\u2028\x00" + "n" * 100_000
        answer = stranger.form("/hub/login", {"username": name, "password": "wrong"})
        require(answer.status_code in (400, 401, 403, 413), f"{answer.status_code}")
        require("n" * 2000 not in answer.text, "the page repeats the whole name")
        logged = hub.log_path.read_bytes()[before:].decode(errors="replace")
        require(len(logged) < 4000, f"{len(logged)} characters were logged")
        require("\x1b[31mroot" not in logged and "\nforged line" not in logged and "\u2028" not in logged, f"logged: {logged!r}")
    with step("CVE-2026-54338: the same holds for names of servers"):
        ada = Person(hub.origin, "ada", PASSWORD)
        ada.sign_in()
        before = len(hub.log_path.read_bytes())
        name = quote("\x1b[31m\r\nforged line" + "s" * 6000, safe="")
        for method in ("POST", "DELETE"):
            answer = ada.call(method, f"/hub/api/users/ada/servers/{name}")
            require(400 <= answer.status_code < 500, f"{method}: {answer.status_code}")
        logged = hub.log_path.read_bytes()[before:].decode(errors="replace")
        require("\nforged line" not in logged and "\x1b[31m\r" not in logged and "s" * 3000 not in logged, f"logged: {logged[:500]!r}")


def changes_need_a_token(hub: Hub, root: str, step) -> None:
    """CVE-2026-40864 / GHSA-m68r-v472-jgq9 and CVE-2020-36191: cookies alone change nothing."""
    admin = Person(hub.origin, "root", PASSWORD)
    same(admin.sign_in().status_code, 302, "the login")
    cookies = admin.cookie_header("/hub/api/users")
    before = names(hub, root)

    def send(method: str, path: str, headers: dict, origin: str = hub.origin) -> int:
        headers = {"Cookie": cookies, "Content-Type": "application/json"} | headers
        answer = requests.request(method, f"{origin}/hub/api{path}", data="{}", headers=headers, allow_redirects=False, timeout=TIMEOUT)
        return answer.status_code

    with step(f"CVE-2026-40864: {len(CHANGES)} changes with {len(FETCH_SITES)} x {len(FETCH_MODES)} ways of fetching and no token are 403"):
        for (method, path), site, mode in itertools.product(CHANGES, FETCH_SITES, FETCH_MODES):
            given = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode}
            status = send(method, path, {name: value for name, value in given.items() if value}, hub.hub_origin)
            same(status, 403, f"{method} {path} {given}")
        same(names(hub, root), before, "who and what there is")
    with step("CVE-2026-40864: a page's own GET without CORS still works"):
        headers = {"Cookie": cookies, "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "no-cors"}
        same(requests.get(f"{hub.origin}/hub/home", headers=headers, timeout=TIMEOUT).status_code, 200, "GET /hub/home")
    with step("CVE-2020-36191: another site's forms make, change and delete nobody"):
        for method, path in CHANGES:
            for given in (
                {"Origin": "https://evil.example", "Referer": "https://evil.example/x"},
                {"Origin": "null"},
                {"Origin": "https://evil.example", "Content-Type": "text/plain"},
                {"Origin": "https://evil.example", "Content-Type": "application/x-www-form-urlencoded"},
            ):
                same(send(method, path, given), 403, f"{method} {path} {given}")
        same(names(hub, root), before, "who and what there is")
    with step("CVE-2020-36191: with the page's own token the same admin may"):
        same(admin.call("POST", "/hub/api/users/made-by-the-page").status_code, 201, "POST")
        same(admin.call("DELETE", "/hub/api/users/made-by-the-page").status_code, 204, "DELETE")


def where_a_browser_goes(base: str, location: str) -> str:
    """The origin a browser would be led to: it drops tabs and line breaks, and takes `\\` for `/`."""
    cleaned = "".join(sign for sign in location.strip("\x00 ") if sign not in "\t\r\n").replace("\\", "/")
    parts = urlsplit(urljoin(base, cleaned))
    return f"{parts.scheme}://{parts.netloc}"


def redirects_stay(hub: Hub, base_url: str, step, known_as: str) -> None:
    """CVE-2026-33709 / GHSA-3vff-hjqv-m7h8 and CVE-2019-10255: `next` leads nowhere else."""
    origin = hub.origin
    host = origin.split("//")[1]
    corpus = [
        f"{origin}//evil.example/x", f"//{host}//evil.example", f"http://{host}///evil.example", f"{origin}\\\\evil.example",
        "//evil.example", "///evil.example", "////evil.example", "\\\\evil.example", "/\\evil.example", "\\/evil.example",
        "/\t/evil.example", "\t//evil.example", "/\n/evil.example", " //evil.example", "http:evil.example", "http:/evil.example",
        "https://evil.example", "HTTPS:evil.example", f"http://{host}@evil.example/", f"http://evil.example@{host}.evil.example/",
        f"http://{host}.evil.example/", f"{origin}@evil.example", "//evil.example/%2f..", "/%2f/evil.example", "/%5cevil.example",
        "/%09/evil.example", "javascript:alert(1)", "data:text/html,x", "/../..//evil.example", f"{base_url}..//evil.example",
        f"{base_url}/evil.example", f"{base_url}\\evil.example", ".//evil.example", "?next=//evil.example", "http://[::1", "http://evil.example#" + host,
        "/hub/..//evil.example", "/x/..//evil.example", "/.//evil.example", "/./\\evil.example",
    ]
    with step(f"{known_as}: {len(corpus)} ways to lead elsewhere stay with base_url {base_url}"):
        person = Person(origin, "ada", PASSWORD)
        hub_path = f"{base_url}hub"
        for address in corpus:
            fresh = Person(origin, "ada", PASSWORD)
            fresh.page(f"{hub_path}/login")
            cookie = fresh.cookie("_xsrf", f"{hub_path}/")
            fields = {"username": "ada", "password": PASSWORD, "_xsrf": cookie.value if cookie else ""}
            signed_in = fresh.form(f"{hub_path}/login?next={quote(address, safe='')}", fields, xsrf=False)
            same(signed_in.status_code, 302, f"the login with next={address!r}")
            same(where_a_browser_goes(f"{origin}{hub_path}/login", signed_in.headers["Location"]), origin, f"after the login with next={address!r} ({signed_in.headers['Location']})")
            person = fresh
            for path in (f"{hub_path}/login?next=", f"{hub_path}/?next=", f"{hub_path}/user-redirect/"):
                answer = person.page(path + quote(address, safe=""), follow=False)
                if 300 <= answer.status_code < 400:
                    same(where_a_browser_goes(origin + path, answer.headers["Location"]), origin, f"GET {path}{address!r} ({answer.headers['Location']})")
        for start in (f"//evil.example/..{hub_path}/login", f"{hub_path}//evil.example/", f"{base_url}/evil.example"):
            raw = requests.Request("GET", origin).prepare()
            raw.url = origin + start
            answer = person.session.send(raw, allow_redirects=False, timeout=TIMEOUT)
            if 300 <= answer.status_code < 400:
                same(where_a_browser_goes(origin + start, answer.headers["Location"]), origin, f"GET {start} ({answer.headers['Location']})")


def nobody_rises(hub: Hub, root: str, step) -> None:
    """CVE-2024-41942 / GHSA-9x4q-3gxw-849f: who is less than an administrator makes none, and touches none."""
    before = names(hub, root)
    attempts = (
        ("PATCH", "/users/eve", {"admin": True}),
        ("POST", "/users", {"usernames": ["risen"], "admin": True}),
        ("POST", "/users/risen", {"admin": True}),
        ("PATCH", "/users/root", {"admin": False}),
        ("PATCH", "/users/root", {"name": "renamed"}),
        ("POST", "/users/root/tokens", {}),
        ("DELETE", "/users/root", None),
        ("POST", "/groups/pupils/users", {"users": ["root"]}),
    )
    with step(f"CVE-2024-41942: services with one of {len(SCOPES)} scopes make nobody an administrator"):
        for number, scope in enumerate(SCOPES):
            token = f"token-of-the-service-{number:04}"
            for method, path, body in attempts:
                answer = api(hub.hub_origin, token, method, path, body)
                in_group = path.startswith("/groups") and answer.status_code == 200
                made_token = scope in ("admin:users", "tokens") and path.endswith("tokens")
                require(in_group or answer.status_code in (400, 403, 404), f"{scope}: {method} {path}: {answer.status_code} {answer.text[:200]}")
                require(not made_token or answer.status_code == 403, f"{scope}: a token of an administrator: {answer.status_code}")
            same(names(hub, root), before, f"who there is after what {scope} tried")
    with step("CVE-2024-41942: a service that was given all that administrators may, may"):
        token = "token-of-the-service-root-like"
        same(api(hub.hub_origin, token, "PATCH", "/users/eve", {"admin": True}).status_code, 200, "PATCH")
        same(api(hub.hub_origin, token, "PATCH", "/users/eve", {"admin": False}).status_code, 200, "PATCH back")


def tossed_cookies(hub: Hub, step) -> None:
    """CVE-2024-28233 / GHSA-7r3h-4ph8-w38g: cookies that a neighbouring host sets change nothing."""
    victim, attacker = Person(hub.origin, "root", PASSWORD), Person(hub.origin, "eve", PASSWORD)
    for person in (victim, attacker):
        same(person.sign_in().status_code, 302, "the login")
        person.page("/hub/home")

    def of(person: Person, name: str) -> str:
        return next(cookie.value for cookie in person.session.cookies if cookie.name == name and (name != "_xsrf" or cookie.path == "/hub/"))

    login = f'jupyterhub-hub-login="{of(victim, "jupyterhub-hub-login").strip(chr(34))}"'
    mine = f"_xsrf={of(victim, '_xsrf')}; jupyterhub-session-id={of(victim, 'jupyterhub-session-id')}"
    tossed = f"_xsrf={of(attacker, '_xsrf')}; jupyterhub-session-id={of(attacker, 'jupyterhub-session-id')}"

    def post(cookies: str, xsrf: str) -> int:
        headers = {"Cookie": cookies, "X-XSRFToken": xsrf, "Content-Type": "application/json", "Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"}
        return requests.post(f"{hub.origin}/hub/api/users/tossed", data="{}", headers=headers, timeout=TIMEOUT).status_code

    with step("CVE-2024-28233: another's XSRF cookie and session do not change something in one's name"):
        for cookies in (f"{tossed}; {login}", f"{tossed}; {login}; {mine}", f"{login}; {mine}; {tossed}", f"{mine}; {tossed}; {login}"):
            same(post(cookies, of(attacker, "_xsrf")), 403, cookies[:40])
    with step("CVE-2024-28233: one's own do"):
        same(post(f"{login}; {mine}", of(victim, "_xsrf")), 201, "POST")


def host_prefix(kind: str, step) -> None:
    """CVE-2024-28233: with `cookie_host_prefix_enabled`, a cookie that a neighbour could set logs nobody in."""
    with step("CVE-2024-28233: with the __Host- prefix a login cookie without it is nobody's"):
        with Hub(kind, CONFIG + "c.JupyterHub.cookie_host_prefix_enabled = True\n") as hub:
            hub.start().wait_running()
            session = requests.Session()
            session.trust_env = False
            behind_tls = {"X-Forwarded-Proto": "https", "Sec-Fetch-Mode": "navigate", "Accept": "text/html"}
            page = session.get(f"{hub.hub_origin}/hub/login", headers=behind_tls, timeout=TIMEOUT)
            sent = dict(pair.split(";")[0].split("=", 1) for pair in page.headers["Set-Cookie"].split(", ") if "=" in pair.split(";")[0])
            xsrf = sent.get("_xsrf") or sent.get("__Host-_xsrf")
            cookies = "; ".join(f"{name}={value}" for name, value in sent.items())
            answer = session.post(
                f"{hub.hub_origin}/hub/login",
                data={"username": "ada", "password": PASSWORD, "_xsrf": xsrf},
                headers=behind_tls | {"Cookie": cookies},
                allow_redirects=False,
                timeout=TIMEOUT,
            )
            same(answer.status_code, 302, "the login")
            header = answer.headers["Set-Cookie"]
            require("__Host-jupyterhub-hub-login=" in header, f"Set-Cookie: {header}")
            value = header.split("__Host-jupyterhub-hub-login=")[1].split(";")[0]

            def seen_as(name: str) -> int:
                headers = {"Cookie": f"{name}={value}", "Sec-Fetch-Mode": "navigate"}
                return requests.get(f"{hub.hub_origin}/hub/home", headers=headers, allow_redirects=False, timeout=TIMEOUT).status_code

            same(seen_as("__Host-jupyterhub-hub-login"), 200, "with the prefix")
            same(seen_as("jupyterhub-hub-login"), 302, "without it")


def logout_reaches_everything(kind: str, step) -> None:
    """CVE-2021-41247 / GHSA-cw7p-q79f-m2v7: a logout ends five busy tabs of a real single-user server."""
    with Hub(kind, CONFIG + 'c.Spawner.default_url = "/lab"\nc.Spawner.args += ["--HubOAuth.cache_max_age=2"]\n') as hub:
        hub.start().wait_running()
        ada = Person(hub.origin, "ada", PASSWORD)
        with step("CVE-2021-41247: five tabs work in a server"):
            same(ada.sign_in().status_code, 302, "the login")
            same(ada.page("/hub/spawn", follow=False).status_code, 302, "GET /hub/spawn")
            require(ada.progress()[-1].get("ready"), "the server did not come up")
            tabs = []
            for _ in range(5):
                same(ada.page("/user/ada/lab").status_code, 200, "a tab")
                same(ada.call("GET", "/user/ada/api/contents").status_code, 200, "its request")
                tabs.append(ada.cookie_header("/user/ada/api/contents"))
        with step("CVE-2021-41247: after the logout the cookies that the tabs had are nobody's, at the hub and at the server"):
            answer = ada.page("/hub/logout", follow=False)
            require(answer.status_code in (200, 302), f"the logout: {answer.status_code}")
            same(ada.call("GET", "/user/ada/api/contents").status_code in (302, 401, 403), True, "the browser's next request is refused")

            def refused() -> bool:
                statuses = {
                    requests.get(f"{hub.origin}/user/ada/api/contents", headers={"Cookie": cookies}, allow_redirects=False, timeout=TIMEOUT).status_code
                    for cookies in tabs
                }
                return statuses <= {302, 401, 403}

            # The server asks the hub again when what it remembers is two seconds old; five minutes by default.
            wait_until(refused, "the server refuses the old cookies", 20)


def tell(kind: str) -> int:
    print(f"== advisories: {kind}", flush=True)
    steps = Steps(f"advisories {kind}")
    step = steps.step
    with Hub(kind) as hub:
        hub.config_path.write_text(hub.config_path.read_text() + base_config())
        with step("the hub starts"):
            hub.start().wait_running()
        root_person = Person(hub.origin, "root", PASSWORD)
        root_person.sign_in()
        made = root_person.call("POST", "/hub/api/users/root/tokens", {"note": "of the test"})
        root = made.json()["token"]
        api(hub.hub_origin, root, "POST", "/users/ada", {})
        no_markup_from_addresses(hub, step)
        filtered_scopes_create_nothing(hub, root, step)
        names_are_logged_short(hub, step)
        changes_need_a_token(hub, root, step)
        redirects_stay(hub, "/", step, "CVE-2026-33709")
        nobody_rises(hub, root, step)
        tossed_cookies(hub, step)
    with Hub(kind) as hub:
        hub.config_path.write_text(hub.config_path.read_text() + base_config() + f'c.JupyterHub.bind_url = "{hub.origin}/deep/down/"\n')
        hub.start()
        wait_until(lambda: "JupyterHub is now running" in hub.log_text(), "the hub below a path")
        redirects_stay(hub, "/deep/down/", step, "CVE-2019-10255")
    host_prefix(kind, step)
    logout_reaches_everything(kind, step)
    return steps.finish()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hub", choices=[*KINDS, "both"], default="orrery")
    options = parser.parse_args()
    exit_with(max(tell(kind) for kind in (KINDS if options.hub == "both" else [options.hub])))


if __name__ == "__main__":
    main()
