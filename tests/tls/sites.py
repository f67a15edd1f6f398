"""Whole sites where everything speaks TLS: people with the proxy, and all parts among each other."""

import json
import os
import re
import shutil
import stat
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from harness import places
from harness.certificates import Authority, Pair, ask, client, status
from harness.client import Person, run_cell
from harness.hub import Hub
from harness.steps import Steps, require, same

PASSWORD = "a-password-for-the-sites"
PROXY_TOKEN = "a-token-for-the-proxy-0123456789"
PROXIES = {
    "configurable-http-proxy": ["configurable-http-proxy"],
    "orrery": None,
}
AUTHORITIES = ["hub-ca", "notebooks-ca", "proxy-api-ca", "proxy-client-ca", "services-ca"]


def tell() -> int:
    """Two folders: one that upstream begins, one that Orrery begins. Then the other has it."""
    code = 0
    begun_by = {
        "upstream": [("upstream", "configurable-http-proxy"), ("orrery", "orrery"), ("upstream", "orrery")],
        "orrery": [("orrery", "configurable-http-proxy"), ("upstream", "configurable-http-proxy")],
    }
    for first, sites in begun_by.items():
        folder = Path(tempfile.mkdtemp(prefix="orrery-tls-"))
        before = None
        try:
            for hub, proxy in sites:
                print(f"== a site with TLS everywhere: {hub}, proxy {proxy}, certificates begun by {first}", flush=True)
                steps = Steps(f"tls site {hub} {proxy}")
                before = Site(hub, proxy, steps, folder).tell(before)
                code = max(code, steps.finish())
        finally:
            if not os.environ.get("ORRERY_KEEP"):
                shutil.rmtree(folder, ignore_errors=True)
    return code


class Site:
    def __init__(self, kind: str, proxy: str, steps: Steps, folder: Path):
        self.kind, self.steps, self.folder = kind, steps, folder
        public = folder / "public"
        if not public.exists():
            public.mkdir()
            Authority(public, "browsers-ca").sign("site", ["localhost", "127.0.0.1"])
        self.browsers = public / "browsers-ca.crt"
        pair = Pair(public / "site.key", public / "site.crt")
        command = PROXIES[proxy]
        if proxy == "orrery" and kind == "upstream":
            command = [str(places.orrery_binary()), "proxy"]
        config = f"""
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = {PASSWORD!r}
c.Authenticator.allow_all = True
c.JupyterHub.ssl_key = {str(pair.key)!r}
c.JupyterHub.ssl_cert = {str(pair.certificate)!r}
c.JupyterHub.internal_ssl = True
# Upstream names it to servers as it stands here, and they run in folders of their own.
c.JupyterHub.internal_certs_location = {str(folder / "internal-ssl")!r}
"""
        if command:
            config += f"c.ConfigurableHTTPProxy.command = {command!r}\n"
        self.hub = Hub(kind, config, folder=folder, keep=True)
        text = self.hub.config_path.read_text()
        text = text.replace(f"http://127.0.0.1:{self.hub.port}", f"https://127.0.0.1:{self.hub.port}")
        text = text.replace(f"http://127.0.0.1:{self.hub.api_port}", f"https://127.0.0.1:{self.hub.api_port}")
        self.hub.config_path.write_text(text)
        self.hub.origin = f"https://localhost:{self.hub.port}"
        self.hub.log_path = folder / f"{kind}-{proxy}.log"
        self.internal = folder / "internal-ssl"

    def tell(self, before: dict | None) -> dict:
        """`before` is what the authorities were for the hub before this one; gives what they are now."""
        step = self.steps.step
        os.environ["REQUESTS_CA_BUNDLE"] = os.environ["WEBSOCKET_CLIENT_CA_BUNDLE"] = str(self.browsers)
        ada = Person(self.hub.origin, "ada", PASSWORD)
        ada.session.verify = str(self.browsers)
        with self.hub:
            self.hub.start(CONFIGPROXY_AUTH_TOKEN=PROXY_TOKEN)
            with step("the site starts"):
                self.hub.wait_ready()
            if self.steps.failed:
                return before or {}
            with step("the certificates are where upstream has them"):
                self.folder_as_upstreams(before)
            with step("plain HTTP is not served on the public port"):
                same(status(ask(self.hub.port, None, "/hub/login")), None, "the answer")
            with step("ada logs in; her cookies are for TLS alone"):
                same(ada.sign_in().status_code, 302, "POST /hub/login")
                for name, path in [("jupyterhub-hub-login", "/hub/"), ("jupyterhub-session-id", "/")]:
                    require(ada.cookie(name, path).secure, f"the cookie {name} is not Secure")
            with step("her server starts and its lab opens"):
                same(ada.page("/hub/spawn", follow=False).status_code, 302, "GET /hub/spawn")
                require(ada.progress()[-1].get("ready"), "not ready")
                page = ada.page("/user/ada/lab")
                same((page.status_code, page.url), (200, f"{self.hub.origin}/user/ada/lab"), "where it led")
            with step("a cell runs, over a websocket with TLS all the way"):
                code = "import json, os; print(json.dumps({k: v for k, v in os.environ.items() if k.startswith('JUPYTERHUB_')}))"
                told = json.loads(run_cell(ada, "/user/ada/", code))
                for name in ("JUPYTERHUB_API_URL", "JUPYTERHUB_ACTIVITY_URL", "JUPYTERHUB_SERVICE_URL"):
                    require(told[name].startswith("https://"), f"{name} is {told[name]}")
                for name in ("JUPYTERHUB_SSL_KEYFILE", "JUPYTERHUB_SSL_CERTFILE", "JUPYTERHUB_SSL_CLIENT_CA"):
                    require(Path(self.folder, told[name]).is_file(), f"{name} names {told[name]}")
            # Whom each part lets in: nobody without a certificate, nobody of the wrong kind.
            own = client(self.bundle("hub-ca"), self.pair("hub-internal"))
            stranger = client(self.bundle("hub-ca"))
            authorization = f"Authorization: token {PROXY_TOKEN}\r\n"
            with step("the proxy's API is for the hub alone"):
                answer = ask(self.hub.api_port, own, "/api/routes/user/ada", headers=authorization)
                same(status(answer), 200, "with the hub's certificate")
                same(status(ask(self.hub.api_port, stranger, "/api/routes", headers=authorization)), None, "without a certificate")
                same(status(ask(self.hub.api_port, None, "/api/routes", headers=authorization)), None, "without TLS")
            with step("the hub talks to nobody without a certificate"):
                same(status(ask(self.hub.hub_port, own, "/hub/api/")), 200, "with a certificate")
                same(status(ask(self.hub.hub_port, stranger, "/hub/api/")), None, "without a certificate")
                same(status(ask(self.hub.hub_port, None, "/hub/api/")), None, "without TLS")
            with step("the server talks to nobody without a certificate"):
                target = re.search(rb'"target":\s*"([^"]+)"', answer).group(1).decode()
                require(target.startswith("https://"), f"its route leads to {target}")
                port = urlsplit(target).port
                same(status(ask(port, own, "/user/ada/api")), 200, "with the hub's certificate")
                same(status(ask(port, stranger, "/user/ada/api")), None, "without a certificate")
                same(status(ask(port, None, "/user/ada/api")), None, "without TLS")
            with step("the server stops"):
                require(ada.call("DELETE", "/hub/api/users/ada/server").status_code in (202, 204), "DELETE")
            with step("no key is in the log"):
                require("PRIVATE KEY" not in self.hub.log_text(), "a key is in the log")
        return self.authorities()

    def folder_as_upstreams(self, before: dict | None) -> None:
        record = json.loads((self.internal / "certipy.json").read_text())
        names = [*AUTHORITIES, "hub-internal", "proxy-api", "proxy-client"]
        for name in names:
            require(name in record, f"{name} is not in the record")
            same(record[name]["is_ca"], name.endswith("-ca"), f"is_ca of {name}")
            key = self.internal / name / f"{name}.key"
            same(stat.S_IMODE(key.stat().st_mode), 0o600, f"the permissions of {key}")
            require((self.internal / name / f"{name}.crt").is_file(), f"{name} has no certificate")
        for name in AUTHORITIES:
            require((self.internal / f"{name}_trust.crt").is_file(), f"{name} has no bundle")
        if before is None and self.kind == "orrery":
            same(stat.S_IMODE(self.internal.stat().st_mode), 0o700, "the permissions of the folder")
        if before is not None:
            same(self.authorities(), before, "the authorities that were there")

    def authorities(self) -> dict:
        return {name: (self.internal / name / f"{name}.crt").read_text() for name in AUTHORITIES}

    def bundle(self, name: str) -> Path:
        return self.internal / f"{name}_trust.crt"

    def pair(self, name: str) -> Pair:
        return Pair(self.internal / name / f"{name}.key", self.internal / name / f"{name}.crt")


