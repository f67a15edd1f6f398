#!/usr/bin/env python3
"""Servers on hosts of their own, and a hub on a unix socket, with the real single-user server.

    python tests/hosts/run.py --hub upstream|orrery|both

Names below `localhost` are this machine (RFC 6761, 6.3); no resolver is asked for them.
"""

import argparse
import socket
import sys
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import requests
import websocket

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness.client import AGENT, TIMEOUT, Person, api, run_cell  # noqa: E402
from harness.hub import KINDS, Hub  # noqa: E402
from harness.steps import Steps, exit_with, require, same, wait_until  # noqa: E402

PASSWORD = "a-password-for-the-hosts"
COMMON = f"""
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = {PASSWORD!r}
c.Authenticator.allow_all = True
c.Spawner.default_url = "/lab"
"""

_getaddrinfo = socket.getaddrinfo


def getaddrinfo(host, *arguments, **options):
    if isinstance(host, str) and host.endswith(".localhost"):
        host = "127.0.0.1"
    return _getaddrinfo(host, *arguments, **options)


socket.getaddrinfo = getaddrinfo


class Visitor(Person):
    """A browser that visits several hosts, and sends each its own cookies and origin."""

    def cookie_header(self, path: str) -> str:
        request = requests.Request("GET", self._url(path)).prepare()
        return requests.cookies.get_cookie_header(self.session.cookies, request) or ""

    def websocket(self, path: str) -> websocket.WebSocket:
        url = urlsplit(self._url(path))
        return websocket.create_connection(
            self._url(path).replace("http", "ws", 1),
            timeout=TIMEOUT,
            cookie=self.cookie_header(path),
            origin=f"{url.scheme}://{url.netloc}",
            header={"User-Agent": AGENT},
        )


def on_hosts(kind: str) -> int:
    print(f"== hosts: {kind}", flush=True)
    steps = Steps(f"hosts {kind}")
    step = steps.step
    hub = Hub(kind, COMMON)
    site = f"http://hub.localhost:{hub.port}"
    with open(hub.config_path, "a") as config:
        config.write(f"c.JupyterHub.subdomain_host = {site!r}\n")
    with hub:
        with step("the hub starts"):
            hub.start().wait_ready()
        ada, bob, odd = (Visitor(site, name, PASSWORD) for name in ("ada", "bob", "ada_x"))
        there = f"http://ada.hub.localhost:{hub.port}/user/ada/"
        with step("ada logs in on the hub's host"):
            same(ada.sign_in().status_code, 302, "POST /hub/login")
            domains = {cookie.name: cookie.domain for cookie in ada.session.cookies}
            same(domains["jupyterhub-session-id"], ".hub.localhost", "the session's domain")
            same(domains["jupyterhub-hub-login"], "hub.localhost", "the login's domain")
        with step("the server's progress ends with its address on ada's host"):
            same(ada.page("/hub/spawn", follow=False).status_code, 302, "GET /hub/spawn")
            last = ada.progress()[-1]
            same((last.get("ready"), last.get("url")), (True, there), "the last event")
        with step("the pending page leads through OAuth to the lab on ada's host"):
            page = ada.page("/hub/spawn-pending/ada")
            same((page.status_code, page.url), (200, there + "lab"), "where it led")
            led = {urlsplit(hop.url).path: hop for hop in page.history}
            authorize = led["/hub/api/oauth2/authorize"]
            same(urlsplit(authorize.url).hostname, "hub.localhost", "who was asked")
            same(parse_qs(urlsplit(authorize.url).query)["redirect_uri"], [there + "oauth_callback"], "redirect_uri")
            require("JupyterLab" in page.text, "this is not JupyterLab")
        with step("a cell runs over a websocket to ada's host"):
            names = "JUPYTERHUB_HOST JUPYTERHUB_PUBLIC_URL JUPYTERHUB_PUBLIC_HUB_URL JUPYTERHUB_OAUTH_CALLBACK_URL JUPYTERHUB_SERVICE_PREFIX".split()
            code = f"import os; print(*[os.environ.get(name, '-') for name in {names}], sep='|')"
            told = [site, there, site + "/hub/", there + "oauth_callback", "/user/ada/"]
            same(run_cell(ada, there, code).strip().split("|"), told, "environment")
        with step("the API tells the address on ada's host"):
            server = ada.call("GET", "/hub/api/users/ada").json()["servers"][""]
            same((server["url"], server["full_url"], server["full_progress_url"]), (there, there, site + "/hub/api/users/ada/server/progress"), "addresses")
        with step("the address on the hub's host leads to ada's"):
            page = ada.page("/user/ada/lab")
            same((page.status_code, page.url.split("?")[0]), (200, there + "lab"), "where it led")
        with step("after a login, next leads to ada's host and to no other"):
            for wanted, host in [(there + "lab", "ada.hub.localhost"), ("http://evil.localhost/user/ada/lab", "ada.hub.localhost"), ("//evil.localhost", "ada.hub.localhost")]:
                page = ada.page("/hub/login?next=" + quote(wanted, safe=""))
                same(urlsplit(page.url).hostname, host, f"where {wanted} led")
        with step("bob is refused on ada's host, and by ada's API"):
            same(bob.sign_in().status_code, 302, "POST /hub/login")
            page = bob.page(there + "lab")
            same((page.status_code, urlsplit(page.url).path), (403, "/hub/api/oauth2/authorize"), "ada's lab")
            same(bob.call("GET", there + "api/status").status_code, 403, "ada's API")
        with step("a name that is no label gets a host of its own, and works"):
            same(odd.sign_in().status_code, 302, "POST /hub/login")
            odd.page("/hub/spawn", follow=False)
            last = odd.progress()[-1]
            require(last.get("ready"), f"not ready: {last}")
            page = odd.page("/hub/spawn-pending/ada_x")
            same((page.status_code, urlsplit(page.url).path), (200, "/user/ada_x/lab"), "where it led")
            same(page.url.split("/user/")[0] + "/user/ada_x/", last["url"], "the host")
            require(urlsplit(page.url).hostname.startswith("u-adax--"), page.url)
        if kind == "orrery":
            with step("the hub's pages asked for on ada's host lead to the hub's, and logins there do not count"):
                for path in ("/hub/home", "/hub/login"):
                    answer = ada.page(there.split("/user/")[0] + path, follow=False)
                    same((answer.status_code, answer.headers.get("Location")), (302, site + path), path)
                cookie = "; ".join(f"{cookie.name}={cookie.value}" for cookie in ada.session.cookies)
                answer = requests.get(there.split("/user/")[0] + "/hub/api/user", headers={"Cookie": cookie}, timeout=TIMEOUT)
                same(answer.status_code, 403, "the API with the hub's cookies")
        with step("the stopped server's address leads to the hub's page that offers to start it"):
            require(ada.call("DELETE", "/hub/api/users/ada/server").status_code in (202, 204), "DELETE")
            wait_until(lambda: ada.call("GET", "/hub/api/users/ada").json()["servers"] == {}, "the server's end")
            page = ada.page(there + "lab")
            same((page.status_code, page.url), (424, site + "/hub/user/ada/lab"), "the page")
        with step("a logout on the hub's host ends the session on the other host"):
            odd_base = odd.call("GET", "/hub/api/users/ada_x").json()["servers"][""]["url"]
            same(odd.call("GET", odd_base + "api/status").status_code, 200, "before")
            odd.page("/hub/logout")
            wait_until(lambda: odd.call("GET", odd_base + "api/contents").status_code == 403 or urlsplit(odd.page(odd_base + "lab").url).path == "/hub/login", "the end of the session", 30)
        if steps.failed:
            print("-- the end of the hub's log\n" + hub.log_tail(40))
    return steps.finish()


def on_sockets() -> int:
    """The hub and its API on a unix socket: proxy and server reach it there."""
    print("== sockets: orrery", flush=True)
    steps = Steps("sockets orrery")
    hub = Hub("orrery", COMMON)
    path = hub.folder / "hub.sock"
    with open(hub.config_path, "a") as config:
        config.write(f"c.JupyterHub.hub_bind_url = 'http+unix://{quote(str(path), safe='')}'\n")
    with hub:
        with steps.step("the hub starts and listens on its socket alone"):
            hub.start().wait_ready()
            require(path.is_socket(), "no socket")
            same(path.stat().st_mode & 0o777, 0o600, "its permissions")
            with socket.socket() as other:
                require(other.connect_ex(("127.0.0.1", hub.hub_port)) != 0, "the port answers")
        ada = Person(hub.origin, "ada", PASSWORD)
        with steps.step("ada's server starts, logs ada in by the hub's socket, and runs a cell"):
            ada.sign_in()
            ada.page("/hub/spawn", follow=False)
            last = ada.progress()[-1]
            require(last.get("ready"), f"not ready: {last}")
            same(ada.page("/hub/spawn-pending/ada").status_code, 200, "the lab")
            printed = run_cell(ada, "/user/ada/", "import os; print(os.environ['JUPYTERHUB_API_URL'])").strip()
            same(printed, f"http+unix://{quote(str(path), safe='')}/hub/api", "JUPYTERHUB_API_URL")
        with steps.step("the proxy gets its error pages over the socket"):
            same(api(hub.origin, None, "GET", "/").status_code, 200, "GET /hub/api/")
        if steps.failed:
            print("-- the end of the hub's log\n" + hub.log_tail(40))
    return steps.finish()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hub", choices=[*KINDS, "both"], default="both")
    options = parser.parse_args()
    kinds = KINDS if options.hub == "both" else [options.hub]
    codes = [on_hosts(kind) for kind in kinds]
    if "orrery" in kinds:
        codes.append(on_sockets())
    exit_with(max(codes))


if __name__ == "__main__":
    main()
