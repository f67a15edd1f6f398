#!/usr/bin/env python3
"""The story of a small group's day, told by HTTP alone, the same for upstream and for Orrery.

    python tests/story/story.py --hub upstream|orrery|both

Everything is real: the hub, its proxy, `jupyterhub-singleuser` with JupyterLab,
kernels and terminals over websockets. What a step expects is what JupyterHub
6.1.1 with configurable-http-proxy 5.3.0 does; both hubs must pass every step.
"""

import argparse
import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import requests

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness.client import AGENT, Person, api, ask_terminal, run_cell  # noqa: E402
from harness.hub import KINDS, Hub  # noqa: E402
from harness.steps import Steps, exit_with, require, same, wait_until  # noqa: E402

PASSWORD = "a-password-for-the-story"
SERVICE_TOKEN = "the-token-of-the-story-service-0123456789"
CONFIG = f"""
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = {PASSWORD!r}
c.Authenticator.allowed_users = {{"ada", "bob"}}
c.Authenticator.admin_users = set()
c.Authenticator.admin_users.add("grace")
c.JupyterHub.allow_named_servers = True
c.JupyterHub.named_server_limit_per_user = 2
c.Spawner.default_url = "/lab"
c.Spawner.environment.update({{"FROM_THE_CONFIG": "yes"}})
c.JupyterHub.services = [{{"name": "teller", "api_token": {SERVICE_TOKEN!r}}}]
c.JupyterHub.load_roles = [
    {{"name": "teller", "scopes": ["admin:users", "admin:servers", "list:users", "tokens"], "services": ["teller"]}},
]
"""
STOPPED_PAGE_STATUS = 424  # JupyterHub answers a page of a stopped server so


class Story:
    def __init__(self, hub: Hub, steps: Steps):
        self.hub, self.steps = hub, steps
        self.ada = Person(hub.origin, "ada", PASSWORD)
        self.bob = Person(hub.origin, "bob", PASSWORD)
        self.both_ready = threading.Barrier(2)
        self.tokens: dict[str, dict] = {}

    def tell(self) -> None:
        self.before_login()
        self.refused_logins()
        with ThreadPoolExecutor(2) as people:
            for done in [people.submit(self.working_day, person) for person in (self.ada, self.bob)]:
                done.result()
        self.borders()
        self.own_tokens()
        self.activity()
        self.stop_and_start()
        self.named_server()
        self.pages_of_nobody()
        self.service_and_admin()
        self.log_out()

    def before_login(self) -> None:
        step, ada, origin = self.steps.step, self.ada, self.hub.origin
        with step("the root leads to the hub"):
            answer = ada.page("/", follow=False)
            same((answer.status_code, answer.headers.get("Location")), (302, "/hub/"), "GET /")
        with step("the hub leads to the login page and keeps where one wanted to go"):
            for path, following in {"/hub/": "%2Fhub%2F", "/hub/home": "%2Fhub%2Fhome", "/hub/spawn": "%2Fhub%2Fspawn", "/hub/token": "%2Fhub%2Ftoken"}.items():
                answer = ada.page(path, follow=False)
                same((answer.status_code, answer.headers.get("Location")), (302, f"/hub/login?next={following}"), f"GET {path}")
        with step("a server's address leads an unknown person to the login page"):
            answer = ada.page("/user/ada/lab")
            same(answer.status_code, 200, "GET /user/ada/lab")
            same(urlsplit(answer.url).path, "/hub/login", "where it led")
            same(parse_qs(urlsplit(answer.url).query).get("next"), ["/hub/user/ada/lab"], "next")
        with step("the login page has a form with a username, a password and an XSRF token"):
            page = ada.page("/hub/login")
            same(page.status_code, 200, "GET /hub/login")
            for mark in ('id="username_input"', 'id="password_input"', 'id="login_submit"', 'name="_xsrf"'):
                require(mark in page.text, f"the login page has no {mark}")
            cookie = ada.cookie("_xsrf", "/hub/")
            require(cookie is not None, "no _xsrf cookie on /hub/")
            require(cookie.value in page.text, "the form's _xsrf is not the cookie's")
        with step("health, version and the version header need no login"):
            same(ada.page("/hub/health").status_code, 200, "GET /hub/health")
            answer = api(origin, None, "GET", "/")
            same((answer.status_code, answer.json()), (200, {"version": "6.1.1"}), "GET /hub/api/")
            same(answer.headers.get("X-JupyterHub-Version"), "6.1.1", "X-JupyterHub-Version")
        with step("the API refuses the unauthenticated with 403 and JSON"):
            for method, path in [("GET", "/user"), ("GET", "/users"), ("GET", "/users/ada"), ("GET", "/info"), ("GET", "/proxy"), ("POST", "/users"), ("DELETE", "/users/ada"), ("POST", "/users/ada/server"), ("GET", "/users/ada/tokens")]:
                answer = api(origin, None, method, path)
                same(answer.status_code, 403, f"{method} /hub/api{path}")
                same(answer.headers["Content-Type"], "application/json", "content type")
                same(answer.json()["status"], 403, "status in the body")
        with step("what does not exist is 404, as a page and as JSON"):
            same(ada.page("/hub/nothing").status_code, 404, "GET /hub/nothing")
            answer = api(origin, None, "GET", "/nothing")
            same((answer.status_code, answer.json()["status"]), (404, 404), "GET /hub/api/nothing")
        with step("metrics are not for everybody"):
            same(requests.get(origin + "/hub/metrics", timeout=10).status_code, 403, "GET /hub/metrics")

    def refused_logins(self) -> None:
        step = self.steps.step
        with step("a wrong password is refused with a sentence and sets no cookie"):
            stranger = Person(self.hub.origin, "ada", "not the password")
            answer = stranger.sign_in()
            same(answer.status_code, 403, "POST /hub/login")
            require("Invalid username or password" in answer.text, "no sentence on the page")
            require('value="ada"' in answer.text, "the username was not kept in the form")
            same(stranger.cookie("jupyterhub-hub-login", "/hub/"), None, "the login cookie")
        with step("a person who is not on the list is refused"):
            answer = Person(self.hub.origin, "mallory", PASSWORD).sign_in()
            same(answer.status_code, 403, "POST /hub/login")
        with step("an empty username is refused"):
            same(Person(self.hub.origin, "", PASSWORD).sign_in().status_code, 403, "POST /hub/login")
        with step("a login form without its XSRF token is refused"):
            stranger = Person(self.hub.origin, "ada", PASSWORD)
            stranger.page("/hub/login")
            answer = stranger.form("/hub/login", {"username": "ada", "password": PASSWORD}, xsrf=False)
            same(answer.status_code, 403, "POST /hub/login")
            same(stranger.cookie("jupyterhub-hub-login", "/hub/"), None, "the login cookie")
        with step("another browser's XSRF token is refused"):
            stranger, other = Person(self.hub.origin, "ada", PASSWORD), Person(self.hub.origin, "ada", PASSWORD)
            other.session.headers["User-Agent"] = "another browser"
            stranger.page("/hub/login"), other.page("/hub/login")
            fields = {"username": "ada", "password": PASSWORD, "_xsrf": other.hub_xsrf()}
            same(stranger.form("/hub/login", fields, xsrf=False).status_code, 403, "POST /hub/login")

    def working_day(self, person: Person) -> None:
        """Log in, start, open the lab, run a cell, ask a terminal: ada's day and bob's, side by side."""
        name, step = person.name, self.steps.step
        base = f"/user/{name}/"
        with step(f"{name}: logs in"):
            answer = person.sign_in()
            same((answer.status_code, answer.headers.get("Location")), (302, "/hub/spawn"), "POST /hub/login")
            for cookie_name, path in [("jupyterhub-hub-login", "/hub/"), ("jupyterhub-session-id", "/")]:
                cookie = person.cookie(cookie_name, path)
                require(cookie is not None, f"no cookie {cookie_name} on {path}")
                require(cookie.has_nonstandard_attr("HttpOnly"), f"{cookie_name} is not HttpOnly")
            require(person.cookie("_xsrf", "/hub/") is not None, "no _xsrf cookie on /hub/")
        with step(f"{name}: sees home with the button to start"):
            page = person.page("/hub/home")
            same(page.status_code, 200, "GET /hub/home")
            require('id="start"' in page.text, 'no id="start" on the page')
            require('id="stop"' not in page.text, "a stop button, and nothing runs")
            require(name in page.text, "the name is not on the page")
        with step(f"{name}: the server's address says that it is not running"):
            same(person.page(base + "lab").status_code, STOPPED_PAGE_STATUS, f"GET {base}lab")
        with step(f"{name}: asks for the server and is led to the pending page"):
            answer = person.page("/hub/spawn", follow=False)
            same((answer.status_code, answer.headers.get("Location")), (302, f"/hub/spawn-pending/{name}"), "GET /hub/spawn")
            page = person.page(f"/hub/spawn-pending/{name}", follow=False)
            same(page.status_code, 200, "GET the pending page")
            require(f"/hub/api/users/{name}/server/progress" in page.text.replace("\\/", "/"), "no progress address on the page")
        with step(f"{name}: the API says that the server is pending"):
            model = person.call("GET", f"/hub/api/users/{name}").json()
            server = model["servers"][""]
            if not server["ready"]:
                same((model["pending"], server["pending"], server["stopped"]), ("spawn", "spawn", False), "pending")
        with step(f"{name}: follows the progress until ready"):
            events = person.progress()
            last = events[-1]
            require(last.get("ready") is True, f"the last event is not ready: {last}")
            same((last["progress"], last["url"]), (100, base), "the last event")
            require(len(events) > 1, "no event before ready")
            require(all(0 <= e["progress"] <= 100 for e in events), "progress outside 0..100")
            require(all(e["message"] for e in events), "an event without a message")
        with step(f"{name}: the pending page leads through OAuth to the lab"):
            page = person.page(f"/hub/spawn-pending/{name}")
            same(page.status_code, 200, "the lab's page")
            same(urlsplit(page.url).path, base + "lab", "where it led")
            led = [urlsplit(hop.url).path for hop in page.history]
            require("/hub/api/oauth2/authorize" in led, f"no OAuth on the way: {led}")
            require(base + "oauth_callback" in led, f"no callback on the way: {led}")
            authorize = next(hop for hop in page.history if urlsplit(hop.url).path == "/hub/api/oauth2/authorize")
            asked = parse_qs(urlsplit(authorize.url).query)
            same(asked["client_id"], [f"jupyterhub-user-{name}"], "client_id")
            same(asked["code_challenge_method"], ["S256"], "PKCE")
            given = parse_qs(urlsplit(authorize.headers["Location"]).query)
            same(given["state"], asked["state"], "state")
            require("JupyterLab" in page.text, "this is not JupyterLab")
            require(person.cookie(f"jupyterhub-user-{name}", base) is not None, "no cookie of the server")
        with step(f"{name}: home offers to stop, the model says ready"):
            page = person.page("/hub/home")
            require('id="stop"' in page.text and 'id="start"' in page.text, "no stop button on home")
            model = person.call("GET", f"/hub/api/users/{name}").json()
            server = model["servers"][""]
            same((model["server"], model["pending"]), (base, None), "server and pending")
            same((server["ready"], server["stopped"], server["pending"], server["url"]), (True, False, None, base), "the server")
            same(server["progress_url"], f"/hub/api/users/{name}/server/progress", "progress_url")
            require(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", server["started"]), f"started: {server['started']}")
        with step(f"{name}: asking again for a running server leads to it"):
            answer = person.page("/hub/spawn", follow=False)
            require(answer.status_code == 302, f"status {answer.status_code}")
            same(person.page("/hub/spawn").status_code, 200, "the lab's page")
        with step(f"{name}: both servers stand at the same time"):
            self.both_ready.wait(120)
        with step(f"{name}: a notebook cell prints 42 over the websocket"):
            same(run_cell(person, base, "print(6 * 7)").strip(), "42", "printed")
        with step(f"{name}: a terminal answers over the websocket"):
            require("answer-42" in ask_terminal(person, base, "echo answer-$((40+2))", "answer-42"), "no answer")
        with step(f"{name}: the server has the hub's environment"):
            code = "import os; print(*[os.environ.get(n, '-') for n in ('JUPYTERHUB_USER','JUPYTERHUB_SERVER_NAME','JUPYTERHUB_SERVICE_PREFIX','JUPYTERHUB_CLIENT_ID','JUPYTERHUB_BASE_URL','FROM_THE_CONFIG','CONFIGPROXY_AUTH_TOKEN')], sep='|')"
            same(run_cell(person, base, code).strip(), f"{name}||{base}|jupyterhub-user-{name}|/|yes|-", "environment")

    def borders(self) -> None:
        """What belongs to ada stays ada's."""
        step, bob = self.steps.step, self.bob
        with step("bob gets 403 on ada's server"):
            page = bob.page("/user/ada/lab")
            same(page.status_code, 403, "GET /user/ada/lab")
            same(urlsplit(page.url).path, "/hub/api/oauth2/authorize", "where it led")
        with step("bob's cookies get 403 from the API of ada's server"):
            same(bob.call("GET", "/user/ada/api/status").status_code, 403, "GET /user/ada/api/status")
        with step("the cookie of bob's server does not open ada's server under ada's name"):
            stolen = bob.cookie("jupyterhub-user-bob", "/user/bob/").value
            answer = requests.get(self.hub.origin + "/user/ada/api/status", headers={"Cookie": f"jupyterhub-user-ada={stolen}", "User-Agent": AGENT}, timeout=10)
            same(answer.status_code, 403, "GET /user/ada/api/status")
        with step("bob's websocket to ada's server is refused"):
            try:
                bob.websocket("/user/ada/terminals/websocket/1").close()
            except Exception as refused:
                require("403" in str(refused), f"refused otherwise: {refused}")
            else:
                raise AssertionError("the websocket opened")
        with step("ada's user and server are as if they did not exist for bob's API calls"):
            for method, path in [("GET", "/users/ada"), ("DELETE", "/users/ada/server"), ("POST", "/users/ada/server"), ("GET", "/users/ada/tokens"), ("GET", "/users/ada/server/progress"), ("GET", "/users/nobody")]:
                answer = bob.call(method, "/hub/api" + path)
                same(answer.status_code, 404, f"{method} {path}")
        with step("bob may not list users nor make any"):
            same(bob.call("GET", "/hub/api/users").status_code, 403, "GET /users")
            same(bob.call("POST", "/hub/api/users", {"usernames": ["eve"]}).status_code, 403, "POST /users")
        with step("bob may not see ada's spawn page, nor the admin page"):
            same(bob.page("/hub/spawn/ada").status_code, 404, "GET /hub/spawn/ada")
            same(bob.page("/hub/admin").status_code, 403, "GET /hub/admin")
        with step("an API call by cookie without the XSRF header is refused"):
            answer = bob.session.post(self.hub.origin + "/hub/api/users/bob/tokens", data="{}", headers={"Content-Type": "application/json", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Site": "same-origin"}, timeout=10)
            same(answer.status_code, 403, "POST /users/bob/tokens")
        with step("bob's XSRF token does not serve ada's cookies"):
            answer = self.ada.session.post(self.hub.origin + "/hub/api/users/ada/tokens", data="{}", headers={"Content-Type": "application/json", "Sec-Fetch-Mode": "cors", "X-XSRFToken": bob.hub_xsrf()}, timeout=10)
            same(answer.status_code, 403, "POST /users/ada/tokens")

    def own_tokens(self) -> None:
        step, ada, origin = self.steps.step, self.ada, self.hub.origin
        with step("the token page has its form"):
            page = ada.page("/hub/token")
            same(page.status_code, 200, "GET /hub/token")
            for mark in ('id="request-token-form"', 'id="token-note"', 'id="token-expiration-seconds"', 'id="token-scopes"'):
                require(mark in page.text, f"no {mark}")
        with step("ada makes a token"):
            made = ada.call("POST", "/hub/api/users/ada/tokens", {"note": "of the story", "expires_in": 3600})
            same(made.status_code, 201, "POST tokens")
            model = self.tokens["all"] = made.json()
            same((model["user"], model["kind"], model["note"]), ("ada", "api_token", "of the story"), "the token's model")
            require("access:servers!user=ada" in model["scopes"], f"scopes: {model['scopes']}")
        with step("ada's token names ada"):
            answer = api(origin, self.tokens["all"]["token"], "GET", "/user")
            same(answer.status_code, 200, "GET /user")
            model = answer.json()
            same((model["name"], model["kind"], model["admin"], model["token_id"]), ("ada", "user", False, self.tokens["all"]["id"]), "the model")
            same(api(origin, None, "GET", "/user", headers={"Authorization": "Bearer " + self.tokens["all"]["token"]}).status_code, 200, "with Bearer")
        with step("ada's token opens ada's server, and not bob's"):
            headers = {"Authorization": "token " + self.tokens["all"]["token"]}
            same(requests.get(origin + "/user/ada/api/status", headers=headers, timeout=10).status_code, 200, "ada's server")
            same(requests.get(origin + "/user/bob/api/status", headers=headers, timeout=10).status_code, 403, "bob's server")
        with step("a token with few scopes can do little"):
            made = ada.call("POST", "/hub/api/users/ada/tokens", {"note": "small", "scopes": ["read:users:name!user=ada"]})
            same(made.status_code, 201, "POST tokens")
            small = self.tokens["small"] = made.json()
            same(sorted(small["scopes"]), ["read:users:groups!user=ada", "read:users:name!user=ada"], "scopes")
            answer = api(origin, small["token"], "GET", "/users/ada")
            seen = {"kind": "user", "name": "ada", "groups": [], "admin": False, "user_info": None}
            same((answer.status_code, answer.json()), (200, seen), "GET /users/ada")
            same(api(origin, small["token"], "POST", "/users/ada/server").status_code, 403, "POST server")
            same(requests.get(origin + "/user/ada/api/status", headers={"Authorization": "token " + small["token"]}, timeout=10).status_code, 403, "the server")
        with step("a token cannot be given more than its maker has"):
            answer = ada.call("POST", "/hub/api/users/ada/tokens", {"scopes": ["admin:users"]})
            same(answer.status_code, 400, "POST tokens")
        with step("ada's tokens are listed, without their secrets"):
            listed = ada.call("GET", "/hub/api/users/ada/tokens")
            same(listed.status_code, 200, "GET tokens")
            notes = {t["note"] for t in listed.json()["api_tokens"]}
            require({"of the story", "small"} <= notes, f"notes: {notes}")
            require(self.tokens["all"]["token"] not in listed.text, "a secret is in the list")
        with step("a revoked token is refused"):
            small = self.tokens["small"]
            same(ada.call("DELETE", f"/hub/api/users/ada/tokens/{small['id']}").status_code, 204, "DELETE token")
            same(api(origin, small["token"], "GET", "/user").status_code, 403, "GET /user")
            same(ada.call("GET", f"/hub/api/users/ada/tokens/{small['id']}").status_code, 404, "GET token")
        with step("an expired token is refused"):
            made = ada.call("POST", "/hub/api/users/ada/tokens", {"expires_in": 1})
            same(made.status_code, 201, "POST tokens")
            token = made.json()["token"]
            wait_until(lambda: api(origin, token, "GET", "/user").status_code == 403, "the token's end", 5)
        with step("an unknown token is refused"):
            same(api(origin, "0" * 32, "GET", "/user").status_code, 403, "GET /user")

    def activity(self) -> None:
        step, ada, origin = self.steps.step, self.ada, self.hub.origin
        with step("activity is taken and seen"):
            token = self.tokens["all"]["token"]
            now = (datetime.now(timezone.utc) + timedelta(minutes=2)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            answer = api(origin, token, "POST", "/users/ada/activity", {"last_activity": now, "servers": {"": {"last_activity": now}}})
            same(answer.status_code, 200, "POST activity")
            model = api(origin, token, "GET", "/users/ada").json()
            same((model["last_activity"], model["servers"][""]["last_activity"]), (now, now), "last activity")
        with step("activity of the far future, of no time and of no server is refused"):
            for body in [{"last_activity": "2999-01-01T00:00:00Z"}, {"last_activity": "yesterday"}, {"servers": {"none": {"last_activity": now}}}, {}]:
                same(ada.call("POST", "/hub/api/users/ada/activity", body).status_code, 400, f"POST {body}")

    def stop_and_start(self) -> None:
        step, ada = self.steps.step, self.ada
        with step("ada stops the server"):
            answer = ada.call("DELETE", "/hub/api/users/ada/server")
            require(answer.status_code in (202, 204), f"DELETE server: {answer.status_code} {answer.text}")
            wait_until(lambda: ada.call("GET", "/hub/api/users/ada").json()["servers"] == {}, "the server's end")
            same(ada.call("DELETE", "/hub/api/users/ada/server").status_code, 204, "stopping the stopped")
        with step("the stopped server's page says so and offers to start it"):
            page = ada.page("/user/ada/lab")
            same(page.status_code, STOPPED_PAGE_STATUS, "GET /user/ada/lab")
            require("/hub/spawn/ada" in page.text, "no link to start it")
        with step("the stopped server's API says 424 in JSON"):
            answer = ada.call("GET", "/hub/user/ada/api/status")
            same(answer.status_code, 424, "GET /hub/user/ada/api/status")
            same(answer.headers["Content-Type"], "application/json", "content type")
        with step("bob's server is still there"):
            same(self.bob.call("GET", "/user/bob/api/status").status_code, 200, "GET /user/bob/api/status")
        with step("ada starts it again by the API"):
            answer = ada.call("POST", "/hub/api/users/ada/server", {})
            require(answer.status_code in (201, 202), f"POST server: {answer.status_code} {answer.text}")
            require(ada.progress()[-1].get("ready"), "not ready")
            same(ada.call("POST", "/hub/api/users/ada/server", {}).status_code, 400, "starting the started")
        with step("the lab opens again, the notebook is still there"):
            same(ada.page("/user/ada/lab").status_code, 200, "GET /user/ada/lab")
            same(ada.call("GET", "/user/ada/api/contents/story.ipynb?content=0").json().get("name"), "story.ipynb", "the file")
        with step("user-redirect leads into the own server"):
            path = "/hub/user-redirect/lab/tree/story.ipynb?factory=Editor"
            first = ada.page(path, follow=False)
            wanted = "%2Fuser%2Fada%2Flab%2Ftree%2Fstory.ipynb%3Ffactory%3DEditor"
            same((first.status_code, first.headers.get("Location")), (302, f"/hub/spawn/ada?next={wanted}"), f"GET {path}")
            page = ada.page(path)
            same((page.status_code, page.url), (200, self.hub.origin + "/user/ada/lab/tree/story.ipynb?factory=Editor"), "where it led")

    def named_server(self) -> None:
        step, ada = self.steps.step, self.ada
        place, base = "/hub/api/users/ada/servers/second", "/user/ada/second/"
        with step("a named server is made without being started"):
            made = ada.call("PUT", place, {"display_name": "The second"})
            same(made.status_code, 201, "PUT")
            model = made.json()
            same((model["name"], model["display_name"], model["ready"], model["stopped"]), ("second", "The second", False, True), "the model")
            same(ada.call("PUT", place, {}).status_code, 409, "PUT again")
            require("The second" in ada.page("/hub/home").text, "its name is not on home")
        with step("a named server starts"):
            answer = ada.call("POST", place, {})
            require(answer.status_code in (201, 202), f"POST: {answer.status_code} {answer.text}")
            last = ada.progress("second")[-1]
            same((last.get("ready"), last["url"]), (True, base), "the last event")
        with step("the named server's lab opens, through its own OAuth client"):
            page = ada.page(base + "lab")
            same((page.status_code, urlsplit(page.url).path), (200, base + "lab"), "GET the lab")
            authorize = next(hop for hop in page.history if urlsplit(hop.url).path == "/hub/api/oauth2/authorize")
            same(parse_qs(urlsplit(authorize.url).query)["client_id"], ["jupyterhub-user-ada-second"], "client_id")
        with step("home shows the named server"):
            require('data-server-name="second"' in ada.page("/hub/home").text, "no row for it")
        with step("a cell runs in it"):
            same(run_cell(ada, base, "import os; print(os.environ['JUPYTERHUB_SERVER_NAME'], 42)").strip(), "second 42", "printed")
        with step("both servers are in ada's model"):
            same(sorted(ada.call("GET", "/hub/api/users/ada").json()["servers"]), ["", "second"], "servers")
        with step("a bad server name is refused"):
            for name in ("Not..Valid", "UPPER", "a%2Fb"):
                same(ada.call("POST", f"/hub/api/users/ada/servers/{name}", {}).status_code, 400, f"POST {name}")
        with step("no more named servers than the limit"):
            answer = ada.call("POST", "/hub/api/users/ada/servers/third", {})
            require(answer.status_code in (201, 202), f"the second: {answer.status_code} {answer.text}")
            same(ada.call("POST", "/hub/api/users/ada/servers/fourth", {}).status_code, 400, "the third")
            require(ada.progress("third")[-1].get("ready"), "not ready")
            wait_until(lambda: ada.call("DELETE", "/hub/api/users/ada/servers/third", {"remove": True}).status_code == 204, "the removal")
        with step("the named server stops and stays listed"):
            require(ada.call("DELETE", place).status_code in (202, 204), "DELETE")
            wait_until(lambda: "second" not in ada.call("GET", "/hub/api/users/ada").json()["servers"], "its end")
            require('data-server-name="second"' in ada.page("/hub/home").text, "no row for it on home")
            stopped = ada.call("GET", "/hub/api/users/ada?include_stopped_servers").json()["servers"]["second"]
            same((stopped["stopped"], stopped["ready"], stopped["url"]), (True, False, base), "the stopped server")
        with step("the named server is deleted"):
            same(ada.call("DELETE", place, {"remove": True}).status_code, 204, "DELETE")
            same(ada.call("DELETE", place).status_code, 404, "DELETE again")
            require('data-server-name="second"' not in ada.page("/hub/home").text, "still on home")
        with step("the default server has not noticed"):
            same(ada.call("GET", "/user/ada/api/status").status_code, 200, "GET /user/ada/api/status")

    def pages_of_nobody(self) -> None:
        step, ada = self.steps.step, self.ada
        with step("an unknown user's server, spawn page and pending page are 404"):
            for path in ("/user/nobody/lab", "/hub/spawn/nobody", "/hub/spawn-pending/nobody"):
                same(ada.page(path).status_code, 404, f"GET {path}")
        with step("a path outside everything is 404"):
            same(ada.page("/nothing/at/all").status_code, 404, "GET /nothing/at/all")
            same(ada.page("/services/none/").status_code, 404, "GET /services/none/")
        with step("an error page is made for the proxy"):
            page = ada.page("/hub/error/503?url=%2Fuser%2Fada%2Flab")
            require(page.headers["Content-Type"].startswith("text/html"), "no HTML")
            require("503" in page.text, "no status on the page")

    def service_and_admin(self) -> None:
        step, origin = self.steps.step, self.hub.origin
        with step("the service's token names the service"):
            model = api(origin, SERVICE_TOKEN, "GET", "/user").json()
            same((model["kind"], model["name"]), ("service", "teller"), "the model")
        with step("the service lists users, page by page when asked"):
            users = api(origin, SERVICE_TOKEN, "GET", "/users")
            same(sorted(user["name"] for user in users.json()), ["ada", "bob", "grace"], "users")
            page = api(origin, SERVICE_TOKEN, "GET", "/users?limit=2", headers={"Accept": "application/jupyterhub-pagination+json"}).json()
            same((len(page["items"]), page["_pagination"]["total"], page["_pagination"]["next"]["offset"]), (2, 3, 2), "a page")
        with step("the service makes a user, and deletes it"):
            same(api(origin, SERVICE_TOKEN, "POST", "/users/eve", {}).status_code, 201, "POST")
            same(api(origin, SERVICE_TOKEN, "POST", "/users/eve", {}).status_code, 409, "POST again")
            same(api(origin, SERVICE_TOKEN, "PATCH", "/users/eve", {"admin": True}).status_code, 403, "making an admin without being one")
            same(api(origin, SERVICE_TOKEN, "PATCH", "/users/eve", {"name": "ada"}).status_code, 400, "taking a name that is taken")
            same(api(origin, SERVICE_TOKEN, "PATCH", "/users/eve", {"name": "eva"}).json()["name"], "eva", "renaming")
            same(api(origin, SERVICE_TOKEN, "DELETE", "/users/eva").status_code, 204, "DELETE")
            same(api(origin, SERVICE_TOKEN, "GET", "/users/eva").status_code, 404, "GET")
        with step("the service may not do what it has no scope for"):
            same(api(origin, SERVICE_TOKEN, "GET", "/proxy").status_code, 403, "GET /proxy")
            same(api(origin, SERVICE_TOKEN, "POST", "/shutdown", {}).status_code, 403, "POST /shutdown")
        with step("grace is an admin by the config and sees the routes"):
            grace = Person(origin, "grace", PASSWORD)
            same(grace.sign_in().status_code, 302, "POST /hub/login")
            same(grace.call("GET", "/hub/api/user").json()["admin"], True, "admin")
            routes = grace.call("GET", "/hub/api/proxy")
            same(routes.status_code, 200, "GET /hub/api/proxy")
            same(sorted(routes.json()), ["/", "/user/ada/", "/user/bob/"], "routes")
        with step("grace stops bob's server, bob sees it"):
            require(grace.call("DELETE", "/hub/api/users/bob/server").status_code in (202, 204), "DELETE")
            wait_until(lambda: self.bob.call("GET", "/hub/api/users/bob").json()["server"] is None, "its end")
            same(self.bob.page("/user/bob/lab").status_code, STOPPED_PAGE_STATUS, "GET /user/bob/lab")

    def log_out(self) -> None:
        step, ada, origin = self.steps.step, self.ada, self.hub.origin
        old_server_cookie = ada.cookie("jupyterhub-user-ada", "/user/ada/")
        with step("ada logs out and is led to the login page"):
            answer = ada.page("/hub/logout", follow=False)
            same((answer.status_code, answer.headers.get("Location")), (302, "/hub/login"), "GET /hub/logout")
            for name, path in [("jupyterhub-hub-login", "/hub/"), ("jupyterhub-session-id", "/")]:
                same(ada.cookie(name, path), None, f"cookie {name}")
        with step("home asks for a login again"):
            same(ada.page("/hub/home", follow=False).headers.get("Location"), "/hub/login?next=%2Fhub%2Fhome", "GET /hub/home")
        with step("the server refuses the browser that logged out"):
            page = ada.page("/user/ada/lab")
            same(urlsplit(page.url).path, "/hub/login", "where it led")
            same(ada.call("GET", "/user/ada/api/status").status_code, 403, "GET /user/ada/api/status")
        with step("the server refuses the old cookie"):
            require(old_server_cookie is not None, "there was no cookie")
            headers = {"Cookie": f"{old_server_cookie.name}={old_server_cookie.value}", "User-Agent": AGENT}
            answer = requests.get(origin + "/user/ada/api/status", headers=headers, timeout=10, allow_redirects=False)
            same(answer.status_code, 403, "GET /user/ada/api/status")
        with step("the server itself still runs, the token still opens it"):
            headers = {"Authorization": "token " + self.tokens["all"]["token"]}
            same(requests.get(origin + "/user/ada/api/status", headers=headers, timeout=10).status_code, 200, "GET api/status")
        with step("ada logs in again and comes where she wanted"):
            answer = ada.sign_in("%2Fuser%2Fada%2Flab")
            same((answer.status_code, answer.headers.get("Location")), (302, "/user/ada/lab"), "POST /hub/login")
            same(ada.page("/user/ada/lab").status_code, 200, "GET /user/ada/lab")


def run(kind: str) -> int:
    print(f"== story: {kind}", flush=True)
    steps = Steps(f"story {kind}")
    with Hub(kind, CONFIG) as hub:
        with steps.step("the hub starts"):
            hub.start().wait_ready()
        if not steps.failed:
            Story(hub, steps).tell()
        with steps.step("the hub ends when asked to"):
            hub.process.terminate()
            hub.process.wait(30)
        if steps.failed:
            print("-- the end of the hub's log\n" + hub.log_tail(60))
    return steps.finish()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hub", choices=[*KINDS, "both"], default="both")
    kind = parser.parse_args().hub
    exit_with(max(run(each) for each in (KINDS if kind == "both" else [kind])))


if __name__ == "__main__":
    main()
