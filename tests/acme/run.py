#!/usr/bin/env python3
"""Certificates by ACME, from a real server of it: pebble, that of Let's Encrypt's makers for tests.

    python tests/acme/run.py

Pebble asks the proxy as a public authority does; names are looked up in a DNS server of the test.
"""

import http.server
import re
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
sys.path.insert(0, str(HERE.parent / "tls"))
sys.path.insert(0, str(HERE))
import websocket  # noqa: E402
from authority import Names, Pebble  # noqa: E402
from backend import Backend  # noqa: E402
from cryptography import x509  # noqa: E402
from harness import certificates, places  # noqa: E402
from harness.certificates import ask, client, status  # noqa: E402
from harness.hub import Hub, environment, free_port  # noqa: E402
from harness.steps import Steps, exit_with, require, same, wait_until  # noqa: E402

HUB, OTHER, FURTHER = "hub.example.test", "other.example.test", "further.example.test"
# A certificate's life in the part about renewals: long enough for a slow machine to renew in its last third.
SHORT_LIFE = 24


class Proxy:
    """Our proxy in front of `server`, with its certificates in `folder`."""

    def __init__(self, folder: Path, server: Backend, pebble: Pebble, *arguments, port: int = 0, domains=(HUB,)):
        self.folder, self.port = folder, port or free_port()
        self.store = folder / "acme"
        self.metrics_port, self.log_path = free_port(), folder / "proxy.log"
        self._command = [
            *(places.orrery_binary(), "proxy", "--ip", "127.0.0.1", "--port", self.port, "--api-ip", "127.0.0.1", "--api-port", free_port()),
            *("--metrics-ip", "127.0.0.1", "--metrics-port", self.metrics_port, "--default-target", server.url),
            *("--acme-directory", pebble.directory, "--acme-ca", pebble.ca, "--acme-dir", self.store, "--acme-email", "root@example.test"),
            *(word for domain in domains for word in ("--acme-domain", domain)),
            *arguments,
        ]

    def __enter__(self) -> "Proxy":
        self.folder.mkdir(exist_ok=True)
        with open(self.log_path, "ab") as log:
            command = [str(word) for word in self._command]
            self.process = subprocess.Popen(command, env=environment(CONFIGPROXY_AUTH_TOKEN=""), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(lambda: self.process.poll() is not None or self.shown() is not None, "the proxy's start")
        require(self.process.poll() is None, f"the proxy ended: {self.log()}")
        return self

    def __exit__(self, *_exception) -> None:
        self.process.kill()
        self.process.wait(10)

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def connect(self, context: ssl.SSLContext, name: str = HUB) -> ssl.SSLSocket:
        return context.wrap_socket(socket.create_connection(("127.0.0.1", self.port), timeout=10), server_hostname=name)

    def shown(self, name: str = HUB) -> x509.Certificate | None:
        """The certificate that browsers are shown, trusted or not."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        try:
            with self.connect(context, name) as stream:
                return x509.load_der_x509_certificate(stream.getpeercert(binary_form=True))
        except OSError:
            return None

    def is_trusted(self, pebble: Pebble, name: str = HUB) -> bool:
        """Whether a browser that trusts the authority is served under the name."""
        try:
            return status(ask(self.port, client(pebble.root), "/x", host=name)) == 200
        except ssl.SSLError:
            return False

    def trusted(self, pebble: Pebble, name: str = HUB) -> x509.Certificate:
        wait_until(lambda: self.is_trusted(pebble, name), f"a certificate for {name} ({self.log()[-3000:]})", 30)
        return self.shown(name)

    def metric(self, name: str, domain: str = HUB) -> float | None:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        page = opener.open(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10).read().decode()
        found = re.search(rf'^{name}{{domain="{re.escape(domain)}"}} (\S+)$', page, re.MULTILINE)
        return float(found[1]) if found else None

    def failures(self, domain: str = HUB) -> float | None:
        return self.metric("orrery_proxy_acme_failures_total", domain)

    def end(self, domain: str = HUB) -> float | None:
        return self.metric("orrery_proxy_certificate_not_after_timestamp_seconds", domain)


def main() -> None:
    steps = Steps("acme")
    folder = Path(tempfile.mkdtemp(prefix="orrery-acme-"))
    try:
        with Names(folder) as names, Backend() as server, Pebble(folder / "pebble", names, life=86_400) as pebble:
            story = Story(steps, folder, server, pebble)
            story.first_certificates()
            story.the_other_challenge()
            story.refusals()
            story.behind_a_hub()
            with Pebble(folder / "short", names, life=SHORT_LIFE) as short:
                Story(steps, folder, server, short).renewals()
            story.secrets()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    exit_with(steps.finish())


class Story:
    def __init__(self, steps: Steps, folder: Path, server: Backend, pebble: Pebble):
        self.step, self.folder, self.server, self.pebble = steps.step, folder, server, pebble

    def proxy(self, name: str, *arguments, **options) -> Proxy:
        return Proxy(self.folder / name, self.server, self.pebble, *arguments, **options)

    def first_certificates(self) -> None:
        """By TLS-ALPN-01: there is nothing here that speaks plain HTTP."""
        pebble, kept = self.pebble, {}
        proxy = self.proxy("first", port=pebble.tls_port, domains=(HUB, OTHER))
        with self.step("TLS-ALPN-01: each name gets a certificate, which browsers are shown by the name"), proxy:
            for name in (HUB, OTHER):
                kept[name] = proxy.trusted(pebble, name)
                same(names_of(kept[name]), [name], "the certificate's names")
            same(pebble.orders(), 2, "orders")
            same(proxy.shown("stranger.test"), kept[HUB], "what is shown for another name")
            same([proxy.failures(HUB), proxy.failures(OTHER)], [0, 0], "failures")
            same(proxy.end(), end_of(kept[HUB]), "the metric of the end")
        with self.step("TLS-ALPN-01: who asks later gets no answer to a challenge"), proxy:
            context = client(pebble.root)
            context.set_alpn_protocols(["acme-tls/1"])
            try:
                with proxy.connect(context):
                    raise AssertionError("there was a handshake")
            except ssl.SSLError as error:
                require("application protocol" in str(error), str(error))
        with self.step("what is kept is for the proxy's user alone"):
            files = [path for path in proxy.store.rglob("*") if path.is_file()]
            same(sorted(path.name for path in files), ["account.json", f"{HUB}.pem", f"{OTHER}.pem"], "files")
            for path in [proxy.store, *proxy.store.rglob("*")]:
                same(oct(stat.S_IMODE(path.stat().st_mode)), "0o700" if path.is_dir() else "0o600", f"permissions of {path.name}")
        with self.step("a restart serves the stored certificates and orders none but that of a further name"):
            before = pebble.orders()
            proxy = self.proxy("first", port=pebble.tls_port, domains=(HUB, OTHER, FURTHER))
            with proxy:
                for name in (HUB, OTHER):
                    same(proxy.shown(name), kept[name], f"the certificate of {name}")
                    require(proxy.is_trusted(pebble, name), f"{name} is not served")
                # Names are looked after side by side: when this has come, the others had time to.
                proxy.trusted(pebble, FURTHER)
            same(pebble.orders(), before + 1, "orders")

    def the_other_challenge(self) -> None:
        pebble = self.pebble
        plain = ("--redirect-port", pebble.http_port)
        with self.step("HTTP-01: the certificate comes over plain HTTP, and all else is redirected"), self.proxy("http", *plain, "--acme-challenge", "http-01") as proxy:
            proxy.trusted(pebble)
            same(proxy.failures(), 0, "failures")
            answer = ask(pebble.http_port, None, "/.well-known/acme-challenge/none", host=HUB)
            same(status(answer), 301, "an answer that nobody asked for")
        with self.step("when TLS-ALPN-01 does not work, HTTP-01 is tried at once"), self.proxy("both", *plain) as proxy:
            proxy.trusted(pebble)
            same(proxy.failures(), 0, "failures")
        with self.step("users must show certificates, the authority need not"):
            people = certificates.Authority(self.folder, "people")
            ada = people.sign("ada", ["ada"])
            with self.proxy("asking", "--ssl-ca", people.file, "--ssl-request-cert", port=pebble.tls_port) as proxy:
                known = client(pebble.root, ada)
                wait_until(lambda: status(ask(proxy.port, known, "/x", host=HUB)) == 200, f"a certificate {proxy.log()}")
                require(not proxy.is_trusted(pebble), "somebody without a certificate was served")

    def refusals(self) -> None:
        pebble = self.pebble
        with self.step("a wrong answer to a challenge is told in the log and the metric, the proxy serves, and a restart keeps the pause"), Stranger(pebble.http_port):
            # Whom the authority asks is somebody else, on both ports.
            with self.proxy("refused", "--redirect-port", free_port(), "--acme-challenge", "http-01") as proxy:
                wait_until(lambda: proxy.failures() == 1, "the failure")
                line = wait_until(lambda: next((line for line in proxy.log().splitlines() if "no certificate for" in line), None), "the line in the log")
                for words in (f"no certificate for {HUB}", "http-01: ", "tls-alpn-01: ", "nobody has signed", "at SIGHUP"):
                    require(words in line, f"{words!r} is missing in: {line}")
                require("nonsense" in line or "did not match" in line or "key authorization" in line.lower(), line)
                same(status(ask(proxy.port, trusting_nobody(), "/x", host=HUB)), 200, "the answer meanwhile")
                require(proxy.end() is None, "a certificate that nobody signed is counted as one")
            before = pebble.orders()
            with self.proxy("refused", "--redirect-port", free_port(), "--acme-challenge", "http-01") as proxy:
                wait_until(lambda: f"has refused a certificate for {HUB} before; the next attempt is in " in proxy.log(), "the pause")
                proxy.process.send_signal(signal.SIGHUP)
                time.sleep(2)
                require("no certificate for" not in proxy.log().split("has refused a certificate")[1], proxy.log())
            same(pebble.orders(), before, "orders within the pause, with a restart and SIGHUP")

    def behind_a_hub(self) -> None:
        pebble = self.pebble
        command = [str(places.orrery_binary()), "proxy", "--acme-domain", HUB, "--acme-directory", pebble.directory, "--acme-ca", str(pebble.ca)]
        config = f"""
c.JupyterHub.bind_url = "http://127.0.0.1:{pebble.tls_port}/"
c.JupyterHub.public_url = "https://{HUB}/"
c.ConfigurableHTTPProxy.command = {command!r}
"""
        with self.step("a hub with such a proxy: people sign in over TLS, and its folder has the certificate"), Hub("orrery", config) as hub:
            hub.start()

            def login_page() -> bytes:
                try:
                    return ask(pebble.tls_port, client(pebble.root), "/hub/login", host=HUB)
                except OSError:
                    return b""

            wait_until(lambda: status(login_page()) == 200, f"the login page\n{hub.log_text()[-3000:]}", 60)
            cookies = [line for line in login_page().decode().split("\r\n") if line.lower().startswith("set-cookie:")]
            require(cookies and all("secure" in line.lower() for line in cookies), f"cookies: {cookies}")
            kept = [path.name for path in hub.folder.glob("orrery-acme/*/*")]
            same(sorted(kept), ["account.json", f"{HUB}.pem"], "files")
            require("PRIVATE KEY" not in hub.log_text(), "the hub's log holds a key")

    def renewals(self) -> None:
        pebble, context = self.pebble, client(self.pebble.root)
        with self.proxy("renewed", port=pebble.tls_port) as proxy:
            with self.step("a certificate is renewed in time, and an open websocket does not notice"):
                first = proxy.trusted(pebble)
                end = proxy.end()
                stream = proxy.connect(client(pebble.root))
                echo = websocket.create_connection(f"wss://{HUB}/ws", socket=stream, timeout=10)
                echo.send("before")
                require("before" in echo.recv(), "no echo")
                wait_until(lambda: proxy.shown() != first, f"a renewal {proxy.log()}", SHORT_LIFE)
                require(time.time() < end, "the renewal came too late")
                require(proxy.is_trusted(pebble), "the new certificate is not trusted")
                require(proxy.end() > end, "the metric has not moved")
                echo.send("after")
                require("after" in echo.recv(), "no echo after the renewal")
                same(proxy.failures(), 0, "failures")
                echo.close()
            with self.step("with the authority down the old certificate is served, and log and metric say so"):
                before, end = proxy.shown(), proxy.end()
                pebble.stop()
                wait_until(lambda: proxy.failures() >= 1, "the failure", SHORT_LIFE)
                same(proxy.shown(), before, "the certificate")
                if time.time() < end - 2:
                    same(status(ask(proxy.port, context, "/x", host=HUB)), 200, "the answer")
                require(f"no certificate for {HUB}: localhost: " in proxy.log() and "The one that browsers are shown" in proxy.log(), proxy.log())
            with self.step("when it is back, without a memory, SIGHUP brings a certificate by a new account"):
                pebble.start()
                proxy.process.send_signal(signal.SIGHUP)
                proxy.trusted(pebble)
                require("the authority has lost the account" in proxy.log(), proxy.log())

    def secrets(self) -> None:
        with self.step("no log holds a key"):
            logs = [path.read_text(errors="replace") for path in self.folder.glob("*/proxy.log")]
            require(len(logs) >= 6, f"{len(logs)} logs")
            kept = [path.read_text() for path in self.folder.glob("*/acme/*/*")]
            lines = {line for text in kept for line in re.findall(r"[A-Za-z0-9+/_-]{30,}", text)}
            require(len(lines) > 20, "nothing is kept")
            for log in logs:
                require("PRIVATE KEY" not in log and not any(line in log for line in lines), "a log holds what is kept")


class Stranger:
    """Answers every path of plain HTTP with the same text."""

    def __init__(self, port: int):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"nonsense")

            def log_message(self, *_arguments):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)

    def __enter__(self) -> "Stranger":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_exception) -> None:
        self._server.shutdown()
        self._server.server_close()


def names_of(certificate: x509.Certificate) -> list[str]:
    extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return extension.value.get_values_for_type(x509.DNSName)


def end_of(certificate: x509.Certificate) -> float:
    return certificate.not_valid_after_utc.timestamp()


def trusting_nobody() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


if __name__ == "__main__":
    main()
