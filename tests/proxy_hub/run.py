#!/usr/bin/env python3
"""JupyterHub 6.1.1 with Orrery's proxy: the JupyterLab story in real Chromium, as with the original proxy.

    python tests/proxy_hub/run.py [--proxy orrery|configurable-http-proxy] [--only VARIANT] [--shots FOLDER]

The variants are how a site may set up its proxy: plain, TLS, a host for each user (started by a link named
configurable-http-proxy), unix sockets for all parts, and TLS among all parts. At the end come the pages that
the proxy itself shows. With `--proxy configurable-http-proxy` the same stories are told with the original.
"""

import argparse
import base64
import hashlib
import json
import os
import signal
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import requests
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "browser"), str(HERE.parent / "tls"), str(HERE)]
import run as browser  # noqa: E402
from harness import places  # noqa: E402
from harness.certificates import Authority, Pair  # noqa: E402
from harness.hub import Hub, free_port  # noqa: E402
from harness.steps import Steps, exit_with, require, same, wait_until  # noqa: E402
from proxies import Proxy  # noqa: E402
from relay import Relay  # noqa: E402


@dataclass
class Site:
    """What a variant adds to a hub before it starts."""

    hub: Hub
    #: The program that the hub starts as its proxy; none leaves it to the PATH.
    command: list[str] | None
    resources: ExitStack
    config: str = ""
    #: Environment of the browser.
    browser: dict[str, str] = field(default_factory=dict)
    #: Environment of the hub.
    environment: dict[str, str] = field(default_factory=dict)
    sockets: list[Path] = field(default_factory=list)


def plain(_site: Site) -> None:
    pass


def tls(site: Site) -> None:
    folder = site.hub.folder / "public"
    folder.mkdir()
    authority = Authority(folder, "browsers-ca")
    pair = authority.sign("site", ["localhost", "127.0.0.1"])
    site.hub.origin = f"https://localhost:{site.hub.port}"
    site.config += f"""
c.JupyterHub.bind_url = "https://127.0.0.1:{site.hub.port}"
c.JupyterHub.ssl_key = {str(pair.key)!r}
c.JupyterHub.ssl_cert = {str(pair.certificate)!r}
"""
    site.browser |= {"ORRERY_TRUST": key_hash(pair), "NODE_EXTRA_CA_CERTS": str(authority.file)}
    if site.command and site.command[0] == str(places.orrery_binary()):
        site.browser["ORRERY_PROTOCOL"] = "h2"
    os.environ["REQUESTS_CA_BUNDLE"] = str(authority.file)
    site.resources.callback(os.environ.pop, "REQUESTS_CA_BUNDLE")


def key_hash(pair: Pair) -> str:
    certificate = x509.load_pem_x509_certificate(pair.certificate.read_bytes())
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(hashlib.sha256(key).digest()).decode()


def hosts(site: Site) -> None:
    # Names below `localhost` are this machine for Chromium (RFC 6761, 6.3).
    site.hub.origin = f"http://hub.localhost:{site.hub.port}"
    site.config += f"c.JupyterHub.subdomain_host = {site.hub.origin!r}\n"
    if site.command and site.command[0] == str(places.orrery_binary()):
        links = site.hub.folder / "bin"
        links.mkdir()
        (links / "configurable-http-proxy").symlink_to(places.orrery_binary())
        site.environment["PATH"] = f"{links}{os.pathsep}{places.search_path()}"
        site.command = None


def sockets(site: Site) -> None:
    public, api, hub = (site.hub.folder / name for name in ("proxy.sock", "api.sock", "hub.sock"))
    urls = [f"http+unix://{quote(str(path), safe='')}" for path in (public, api, hub)]
    site.config += f"""
c.JupyterHub.bind_url = {urls[0]!r}
c.ConfigurableHTTPProxy.api_url = {urls[1]!r}
c.JupyterHub.hub_bind_url = {urls[2]!r}
c.JupyterHub.hub_connect_url = {urls[2]!r}
"""
    relay = site.resources.enter_context(Relay(public))
    site.hub.origin = f"http://127.0.0.1:{relay.port}"
    site.sockets = [public, api]


def internal_ssl(site: Site) -> None:
    tls(site)
    site.config += f"""
c.JupyterHub.internal_ssl = True
c.JupyterHub.internal_certs_location = {str(site.hub.folder / "internal-ssl")!r}
c.ConfigurableHTTPProxy.api_url = "https://127.0.0.1:{site.hub.api_port}"
"""


#: How each is set up, and how much of the story it tells.
VARIANTS = {
    "plain": (plain, "full"),
    "tls": (tls, "full"),
    "hosts": (hosts, "short"),
    "sockets": (sockets, "short"),
    "internal-ssl": (internal_ssl, "short"),
}


def tell(variant: str, proxy: str, shots: Path) -> int:
    set_up, story = VARIANTS[variant]
    print(f"== JupyterHub with {proxy}: {variant}", flush=True)
    steps = Steps(f"proxy-hub {variant}")
    with ExitStack() as resources:
        hub = resources.enter_context(Hub("upstream", browser.STORY))
        command = [str(places.orrery_binary()), "proxy"] if proxy == "orrery" else ["configurable-http-proxy"]
        site = Site(hub, command, resources)
        set_up(site)
        if site.command:
            site.config += f"c.ConfigurableHTTPProxy.command = {site.command!r}\n"
        with open(hub.config_path, "a") as config:
            config.write(site.config)
        with steps.step(f"{variant}: JupyterHub starts its proxy"):
            hub.start(**site.environment)
            if variant == "hosts":
                wait_for_host(hub)
            else:
                hub.wait_ready()
            same(is_orrery(proxy_pid(hub)), proxy == "orrery", "whether the proxy that runs is Orrery's")
        if not steps.failed:
            browser.tell("story.mjs", 240, "upstream", hub, shots / variant, steps, ORRERY_STORY=story, **site.browser)
        if variant == "plain" and not steps.failed:
            with steps.step("plain: JupyterHub starts a proxy that was killed again, and bob's server is still reached"):
                after_a_kill(hub)
        if not steps.failed:
            with steps.step(f"{variant}: the proxy ends with JupyterHub and leaves nothing behind"):
                end(site)
        if steps.failed:
            print("-- the end of the hub's log\n" + hub.log_tail(60))
    return steps.finish()


def wait_for_host(hub: Hub) -> None:
    """As `wait_ready`, for a host name that this machine's resolver need not know."""
    def ready() -> bool:
        require(hub.process.poll() is None, f"the hub ended:\n{hub.log_tail()}")
        try:
            answer = requests.get(f"http://127.0.0.1:{hub.port}/hub/login", headers={"Host": f"hub.localhost:{hub.port}"}, timeout=5)
        except requests.RequestException:
            return False
        return answer.status_code == 200

    wait_until(ready, "the login page", 60)


def proxy_pid(hub: Hub) -> int:
    return int((hub.folder / "jupyterhub-proxy.pid").read_text())


def is_orrery(pid: int) -> bool:
    return Path(f"/proc/{pid}/exe").resolve() == places.orrery_binary().resolve()


def after_a_kill(hub: Hub) -> None:
    first = proxy_pid(hub)
    os.kill(first, signal.SIGKILL)
    # JupyterHub looks every five seconds, and then sets up all routes anew.
    wait_until(lambda: "New proxy back up" in hub.log_text(), "the next proxy", 30)
    require(proxy_pid(hub) != first, "the process is the same")
    # bob's server lives since the story; it asks for a login, the hub would answer 424 for a stopped one.
    answer = requests.get(hub.origin + "/user/bob/api", timeout=10)
    same(answer.status_code, 200, "the version of bob's server")
    require("version" in answer.json(), f"not a server's answer: {answer.text}")


def end(site: Site) -> None:
    pid = proxy_pid(site.hub)
    for path in site.sockets:
        require(path.is_socket(), f"{path.name} was not there")
    site.hub.process.send_signal(signal.SIGTERM)
    site.hub.wait_exit(30)
    end_late_proxy(site.hub)
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the proxy's end", 15)
    for path in site.sockets:
        require(not path.exists(), f"{path.name} is still there")
    wrong = [line for line in site.hub.log_text().splitlines() if "panicked" in line or "Traceback" in line or ("[ConfigProxy]" in line and " internal: " in line)]
    same(wrong, [], "lines of the log that should not be")


def end_late_proxy(hub: Hub) -> None:
    """JupyterHub looks after a proxy that it has started again twice as often, and stops only one of the two looks
    when it ends; the other may find the proxy stopped and start yet another, which nobody ends."""
    if (hub.folder / "jupyterhub-proxy.pid").exists():
        pid = proxy_pid(hub)
        if Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGTERM)
            wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the end of the late proxy", 15)


def pages(shots: Path) -> int:
    """The pages of the proxy itself, seen without a hub."""
    print("== the proxy's own pages", flush=True)
    steps = Steps("proxy-hub pages")
    folder = shots / "pages"
    folder.mkdir(parents=True, exist_ok=True)
    with Proxy("orrery", folder=folder) as proxy:
        dead = {"target": f"http://127.0.0.1:{free_port()}"}
        made = requests.post(f"http://127.0.0.1:{proxy.api_port}/api/routes/user/ada", data=json.dumps(dead), timeout=10)
        same(made.status_code, 201, "adding a route")
        place = Hub.__new__(Hub)
        place.origin = f"http://127.0.0.1:{proxy.port}"
        browser.tell(str(HERE / "pages.mjs"), 120, "orrery", place, folder, steps)
    return steps.finish()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--proxy", choices=["orrery", "configurable-http-proxy"], default="orrery")
    parser.add_argument("--only", choices=[*VARIANTS, "pages"])
    parser.add_argument("--shots", type=Path, default=places.CHECKOUT / "target" / "screenshots" / "proxy")
    options = parser.parse_args()
    chosen = [options.only] if options.only else [*VARIANTS, "pages"]
    code = 0
    for variant in chosen:
        code = max(code, pages(options.shots) if variant == "pages" else tell(variant, options.proxy, options.shots))
    exit_with(code)


if __name__ == "__main__":
    main()
