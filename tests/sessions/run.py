#!/usr/bin/env python3
"""Logins as sessions: cookies that JupyterHub and Orrery take from each other, a logout with five busy tabs, an open
terminal and a real single-user server, and an administrator who ends somebody's session.

    python tests/sessions/run.py
"""

import json
import sqlite3
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import requests
import websocket

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness.client import Person, api  # noqa: E402
from harness.hub import Hub  # noqa: E402
from harness.steps import Steps, exit_with, require, same, wait_until  # noqa: E402

PASSWORD = "a-password-for-sessions"
LOGIN_COOKIE = "jupyterhub-hub-login"
SERVICE_TOKEN = "the-token-of-the-admins-service-0123456789"
#: Seconds for which the server believes what the hub said. It is five minutes where nobody changes it.
BELIEF = 2
CONFIG = f"""
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = {PASSWORD!r}
c.Authenticator.allowed_users = {{"ada", "bob"}}
c.JupyterHub.services = [{{"name": "warden", "api_token": {SERVICE_TOKEN!r}}}]
c.JupyterHub.load_roles = [{{"name": "warden", "scopes": ["tokens"], "services": ["warden"]}}]
c.Spawner.default_url = "/lab"
c.Spawner.args.append("--HubOAuth.cache_max_age={BELIEF}")
"""


def hub_of(kind: str, folder: Path | None = None) -> Hub:
    """A hub in a folder of its own, or in one that stays when it ends."""
    return Hub(kind, CONFIG, folder=folder, keep=folder is not None)


def moved(person: Person, hub: Hub) -> Person:
    """The same browser with another hub at the same host: ports are nothing to cookies."""
    there = Person(hub.origin, person.name, person.password)
    there.session.cookies.update(person.session.cookies)
    return there


def is_known(person: Person) -> bool:
    answer = person.page("/hub/home", follow=False)
    require(answer.status_code in (200, 302), f"GET /hub/home: {answer.status_code}")
    return answer.status_code == 200


def sessions(hub: Hub, user: str) -> list[dict]:
    answer = api(hub.hub_origin, SERVICE_TOKEN, "GET", f"/users/{user}/sessions")
    same(answer.status_code, 200, "the list of sessions")
    return answer.json()["sessions"]


def cookies_are_taken_both_ways(step) -> None:
    with Hub("orrery", "") as frame:  # only for its folder, which both hubs use in turn
        folder = frame.folder
        ada, twin, bob = (Person("", name, PASSWORD) for name in ("ada", "ada", "bob"))
        with step("a login at Orrery holds at JupyterHub, on the same database and key"):
            with hub_of("orrery", folder) as hub:
                hub.start().wait_running()
                for person in (ada, twin):
                    person.origin = hub.origin
                    same(person.sign_in().status_code, 302, "the login")
                first, second = (person.cookie(LOGIN_COOKIE, "/hub/").value for person in (ada, twin))
                require(first != second, "two logins got the same cookie")
                same(len(sessions(hub, "ada")), 2, "sessions of ada")
            with hub_of("upstream", folder) as hub:
                hub.start().wait_running()
                require(is_known(moved(ada, hub)) and is_known(moved(twin, hub)), "JupyterHub refuses our cookies")
                bob.origin = hub.origin
                same(bob.sign_in().status_code, 302, "the login at JupyterHub")
        with step("a login at JupyterHub holds at Orrery, becomes a session there and can be ended"):
            with hub_of("orrery", folder) as hub:
                hub.start().wait_running()
                ada, bob = moved(ada, hub), moved(bob, hub)
                same(sessions(hub, "bob"), [], "sessions that were never seen")
                require(is_known(ada) and is_known(bob), "Orrery refuses a cookie")
                (session,) = sessions(hub, "bob")
                same(api(hub.hub_origin, SERVICE_TOKEN, "DELETE", f"/sessions/{session['id']}").status_code, 204, "the end")
                require(not is_known(bob), "an ended session goes on")
                require(is_known(ada), "another session ended along")


class Tab(threading.Thread):
    """One tab, with a copy of the browser's cookies, that asks the server again and again. An `eager` one has lost
    what the server gave it and logs in to the server anew each time, by the hub."""

    def __init__(self, hub: Hub, browser: Person, eager: bool, stop: threading.Event):
        super().__init__(daemon=True)
        self.person = moved(browser, hub)
        self.eager, self.stop = eager, stop
        self.asked: list[tuple[float, bool]] = []
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            while not self.stop.is_set():
                self.ask()
        except requests.RequestException as error:
            self.error = error

    def ask(self) -> None:
        begun = time.monotonic()
        if not self.eager:
            answer = self.person.call("GET", "/user/ada/api/contents")
            self.asked.append((begun, answer.status_code == 200))
            time.sleep(0.02)
            return
        for cookie in list(self.person.session.cookies):
            if cookie.path.startswith("/user/"):
                self.person.session.cookies.clear(cookie.domain, cookie.path, cookie.name)
        answer = self.person.page("/user/ada/lab")
        self.asked.append((begun, answer.ok and urlsplit(answer.url).path.startswith("/user/ada/lab")))

    def last_let_in(self) -> float:
        return max((begun for begun, let_in in self.asked if let_in), default=0.0)


class Terminal:
    """A terminal in somebody's server, by a websocket that stays open."""

    def __init__(self, person: Person, base: str):
        made = person.call("POST", f"{base}api/terminals")
        require(made.status_code in (200, 201), f"making a terminal: {made.status_code} {made.text[:300]}")
        self.path = f"{base}terminals/websocket/{made.json()['name']}"
        self.channel = person.websocket(self.path)

    def computes(self, number: int) -> None:
        """The shell behind it answers."""
        self.channel.send(json.dumps(["stdin", f"echo is-$(({number} * {number}))-it\r"]))
        shown = ""
        while f"is-{number * number}-it" not in shown:
            kind, *rest = json.loads(self.channel.recv())
            shown += rest[0] if kind == "stdout" else ""


def opens(person: Person, path: str) -> int:
    """The status that a websocket is answered with."""
    try:
        person.websocket(path).close()
    except websocket.WebSocketBadStatusException as refused:
        return refused.status_code
    return 101


def five_busy_tabs(hub: Hub, step) -> None:
    ada, elsewhere = Person(hub.origin, "ada", PASSWORD), Person(hub.origin, "ada", PASSWORD)
    stop = threading.Event()
    tabs: list[Tab] = []
    with step("CVE-2021-41247: five tabs are busy in a real single-user server"):
        for person in (ada, elsewhere):
            same(person.sign_in().status_code, 302, "the login")
        ada.page("/hub/spawn", follow=False)
        require(ada.progress()[-1].get("ready"), "the server did not come up")
        for person in (ada, elsewhere):
            same(person.page("/user/ada/lab").status_code, 200, "the server's page")
        tabs = [Tab(hub, ada, number % 2 == 0, stop) for number in range(5)]
        terminal = Terminal(ada, "/user/ada/")
        terminal.computes(1001)
        kept = moved(ada, hub)
        websockets = (terminal.path, "/user/ada/api/events/subscribe")
        same([opens(kept, path) for path in websockets], [101, 101], "websockets before the logout")
        for tab in tabs:
            tab.start()
        wait_until(lambda: all(sum(let_in for _, let_in in tab.asked) >= 3 for tab in tabs), "all tabs at work", 60)
    with step("CVE-2021-41247: nothing that a tab asks after the logout is let in, and no tab logs in again"):
        try:
            same(ada.page("/hub/logout", follow=False).status_code, 302, "the logout")
            out = time.monotonic()
            enough = out + BELIEF + 6
            wait_until(lambda: time.monotonic() > enough, "some more seconds of work", 60)
        finally:
            stop.set()
            for tab in tabs:
                tab.join(60)
        for number, tab in enumerate(tabs):
            require(tab.error is None, f"tab {number}: {tab.error}")
            require(any(begun > out for begun, _ in tab.asked), f"tab {number} did nothing after the logout")
            late = tab.last_let_in() - out
            # What the hub is asked about ends at once; a server believes a moment longer what it has heard.
            most = 0.0 if tab.eager else BELIEF + 1.0
            require(late <= most, f"tab {number} was let in with a request sent {late:.2f} s after the logout")
    with step("CVE-2021-41247: no websocket opens with cookies of the session; one that is open goes on, as with JupyterHub"):
        for path in websockets:
            status = opens(kept, path)
            require(status in (302, 401, 403), f"{path}: {status}")
        # The server asks who somebody is when a websocket opens; see docs/sessions-and-tokens.md.
        terminal.computes(1003)
        terminal.channel.close()
        require(opens(kept, terminal.path) in (302, 401, 403), "the closed one opens again")
    with step("CVE-2021-41247: no token and no code of the session is left, and its cookies are worthless"):
        with sqlite3.connect(f"file:{hub.folder / 'jupyterhub.sqlite'}?mode=ro", uri=True) as database:
            (here,) = database.execute(
                "SELECT COUNT(*) FROM api_tokens t JOIN orrery_sessions s ON s.session_id = t.session_id WHERE s.ended_at IS NOT NULL"
            ).fetchone()
            (codes,) = database.execute("SELECT COUNT(*) FROM oauth_codes").fetchone()
        same((here, codes), (0, 0), "tokens and codes of ended sessions")
        for tab in tabs:
            require(not is_known(tab.person), "the hub takes a cookie of the session")
            require(tab.person.call("GET", "/user/ada/api/contents").status_code != 200, "the server takes one")
    with step("the same person's other browser goes on, at the hub and in the server"):
        require(is_known(elsewhere), "the hub refuses it")
        same(elsewhere.call("GET", "/user/ada/api/contents").status_code, 200, "the server")
        (session,) = sessions(hub, "ada")
        same(session["address"], "127.0.0.1", "its address")


def an_administrator_ends_a_session(hub: Hub, step) -> None:
    bob = Person(hub.origin, "bob", PASSWORD)
    with step("an administrator ends a session: the hub refuses it at once, the server as soon as it asks again"):
        bob.sign_in()
        bob.page("/hub/spawn", follow=False)
        require(bob.progress()[-1].get("ready"), "the server did not come up")
        same(bob.page("/user/bob/lab").status_code, 200, "the server's page")
        made = bob.call("POST", "/hub/api/users/bob/tokens", {"note": "by hand", "scopes": ["read:users!user"]}).json()["token"]
        (session,) = sessions(hub, "bob")
        same(api(hub.hub_origin, SERVICE_TOKEN, "DELETE", f"/users/bob/sessions/{session['id']}").status_code, 204, "the end")
        require(not is_known(bob), "the hub lets it in")
        wait_until(lambda: bob.call("GET", "/user/bob/api/contents").status_code != 200, "the server refuses it", 20)
        same(api(hub.hub_origin, made, "GET", "/users/bob").status_code, 200, "the token made by hand")
    with step("and everybody's sessions and tokens can be listed and ended without knowing whose they are"):
        answer = api(hub.hub_origin, SERVICE_TOKEN, "GET", "/tokens?note=by+hand").json()
        (token,) = answer["items"]
        same((token["user"], answer["_pagination"]["next"]), ("bob", None), "the token")
        same(api(hub.hub_origin, SERVICE_TOKEN, "DELETE", f"/tokens/{token['id']}").status_code, 204, "its end")
        same(api(hub.hub_origin, made, "GET", "/users/bob").status_code, 403, "the token, once more")
        for session in api(hub.hub_origin, SERVICE_TOKEN, "GET", "/sessions").json()["items"]:
            same(api(hub.hub_origin, SERVICE_TOKEN, "DELETE", f"/sessions/{session['id']}").status_code, 204, "its end")
        same(sessions(hub, "ada"), [], "what is left")


def main() -> None:
    steps = Steps("sessions")
    cookies_are_taken_both_ways(steps.step)
    with hub_of("orrery") as hub:
        hub.start().wait_running()
        five_busy_tabs(hub, steps.step)
        an_administrator_ends_a_session(hub, steps.step)
    exit_with(steps.finish())


if __name__ == "__main__":
    main()
