"""The TLS options of the proxy, the original one and ours."""

import json
import os
import shutil
import signal
import ssl
import subprocess
import tempfile
from pathlib import Path

import websocket
from backend import Backend
from harness import places
from harness.certificates import Authority, Pair, ask, client, status
from harness.hub import environment, free_port
from harness.steps import Steps, require, same, wait_until

COMMANDS = {
    "configurable-http-proxy": lambda: [str(places.node_modules() / ".bin" / "configurable-http-proxy")],
    "orrery": lambda: [str(places.orrery_binary()), "proxy"],
}


class Proxy:
    """A proxy on ports of its own, with `arguments` beside them."""

    def __init__(self, kind: str, *arguments, folder: Path, **variables: str):
        self.port, self.api_port = free_port(), free_port()
        self.log_path = folder / "proxy.log"
        command = [*COMMANDS[kind](), "--ip", "127.0.0.1", "--port", self.port, "--api-ip", "127.0.0.1", "--api-port", self.api_port]
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                [str(word) for word in [*command, *arguments]],
                env=environment(CONFIGPROXY_AUTH_TOKEN="", **variables),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def __enter__(self) -> "Proxy":
        wait_until(lambda: self.process.poll() is not None or "Proxy API at" in self.log(), "the proxy's start")
        require(self.process.poll() is None, f"the proxy ended: {self.log()}")
        for port in (self.port, self.api_port):
            wait_until(lambda port=port: listens(port), f"port {port}")
        return self

    def __exit__(self, *_exception) -> None:
        self.process.kill()
        self.process.wait(10)

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def headers(self, context: ssl.SSLContext | None, **options) -> dict:
        answer = ask(self.port, context, "/x", **options)
        same(status(answer), 200, "the answer")
        return json.loads(body(answer))


def listens(port: int) -> bool:
    import socket

    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def body(answer: bytes) -> bytes:
    head, _, rest = answer.partition(b"\r\n\r\n")
    if b"chunked" in head.lower():
        size, _, rest = rest.partition(b"\r\n")
        return rest[: int(size, 16)]
    return rest


def public(pair: Pair) -> list:
    return ["--ssl-key", pair.key, "--ssl-cert", pair.certificate]


def tell() -> int:
    code = 0
    folder = Path(tempfile.mkdtemp(prefix="orrery-tls-"))
    try:
        for kind in COMMANDS:
            print(f"== TLS options: {kind}", flush=True)
            steps = Steps(f"tls proxies {kind}")
            place = folder / kind
            place.mkdir()
            Story(kind, steps, place).tell()
            code = max(code, steps.finish())
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return code


class Story:
    def __init__(self, kind: str, steps: Steps, folder: Path):
        self.kind, self.steps, self.folder = kind, steps, folder
        self.site = Authority(folder, "site")
        self.people = Authority(folder, "people")
        self.pair = self.site.sign("proxy", ["localhost", "127.0.0.1"])
        self.anyone = client(self.site.file)

    def proxy(self, *arguments, **variables) -> Proxy:
        return Proxy(self.kind, *arguments, folder=self.folder, **variables)

    def tell(self) -> None:
        self.to_users()
        self.to_the_api()
        self.to_servers()
        if self.kind == "orrery":
            self.ours_alone()

    def to_users(self) -> None:
        step = self.steps.step
        with Backend() as server:
            with step("users are served over TLS, and their servers are told"), self.proxy(*public(self.pair), "--default-target", server.url) as proxy:
                seen = proxy.headers(self.anyone)
                same((seen["x-forwarded-proto"], seen["x-forwarded-port"]), ("https", str(proxy.port)), "forwarded")
                require(f"Proxying https://" in proxy.log(), "the log does not say https")
                same(status(ask(proxy.port, None)), None, "plain HTTP on the port of TLS")
                channel = websocket.create_connection(f"wss://localhost:{proxy.port}/ws", sslopt={"ca_certs": str(self.site.file)}, timeout=10)
                channel.send("ping")
                same(json.loads(channel.recv()), {"message": "ping", "proto": "wss"}, "the echo")
                channel.close()
            asking = ["--ssl-ca", self.people.file, "--ssl-request-cert"]
            ada = client(self.site.file, self.people.sign("ada", ["ada"]))
            mallory = client(self.site.file, self.site.sign("mallory", ["ada"]))
            for more in ([], ["--ssl-reject-unauthorized"]):
                with step(f"users without a certificate are refused: {' '.join(['--ssl-request-cert', *more])}"):
                    with self.proxy(*public(self.pair), *asking, *more, "--default-target", server.url) as proxy:
                        same(status(ask(proxy.port, ada)), 200, "with a certificate")
                        same(status(ask(proxy.port, self.anyone)), None, "without a certificate")
                        same(status(ask(proxy.port, mallory)), None, "with another authority's")
            with step("--ssl-reject-unauthorized alone asks nobody"):
                with self.proxy(*public(self.pair), "--ssl-reject-unauthorized", "--default-target", server.url) as proxy:
                    same(status(ask(proxy.port, self.anyone)), 200, "without a certificate")
            with step("one version of TLS"):
                with self.proxy(*public(self.pair), "--ssl-protocol", "TLSv1_2", "--default-target", server.url) as proxy:
                    same(self.spoken(proxy)[0], "TLSv1.2", "the version")
            with step("one cipher suite"):
                suite = "ECDHE-RSA-AES256-GCM-SHA384"
                with self.proxy(*public(self.pair), "--ssl-ciphers", suite, "--default-target", server.url) as proxy:
                    context = client(self.site.file)
                    context.maximum_version = ssl.TLSVersion.TLSv1_2
                    same(self.spoken(proxy, context), ("TLSv1.2", suite), "what is spoken")
                    context.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")
                    same(status(ask(proxy.port, context)), None, "with another suite only")
            with step("options without effect today are taken: --ssl-allow-rc4 and --ssl-dhparam"):
                parameters = self.folder / "dh.pem"
                parameters.write_text(DH_PARAMETERS)
                with self.proxy(*public(self.pair), "--ssl-allow-rc4", "--ssl-dhparam", parameters, "--default-target", server.url) as proxy:
                    same(status(ask(proxy.port, self.anyone)), 200, "the answer")
            with step("plain HTTP is led to TLS"):
                port = free_port()
                with self.proxy(*public(self.pair), "--redirect-port", port, "--redirect-to", "8443") as proxy:
                    wait_until(lambda: listens(port), "the port that redirects")
                    answer = ask(port, None, "/hub?a=b", host="example.org")
                    same(status(answer), 301, "the answer")
                    require(b"ocation: https://example.org:8443/hub?a=b\r\n" in answer, f"{answer!r}")
                    wait_until(lambda: f"Added HTTP to HTTPS redirection from {port} to 8443" in proxy.log(), "the line of the log")
        with step("--redirect-port without a certificate is refused"):
            proxy = self.proxy("--redirect-port", free_port())
            same(proxy.process.wait(20), 1, "the exit code")

    def spoken(self, proxy: Proxy, context: ssl.SSLContext | None = None) -> tuple:
        import socket

        with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as plain:
            with (context or self.anyone).wrap_socket(plain, server_hostname="localhost") as stream:
                return stream.version(), stream.cipher()[0]

    def to_the_api(self) -> None:
        api = Authority(self.folder, "api-ca")
        hub = self.people.sign("hub", ["localhost"])
        pair = api.sign("api", ["localhost"])
        options = ["--api-ssl-key", pair.key, "--api-ssl-cert", pair.certificate, "--api-ssl-ca", self.people.file]
        asking = ["--api-ssl-request-cert", "--api-ssl-reject-unauthorized"]
        with self.steps.step("the API is for those with a certificate"), self.proxy(*options, *asking) as proxy:
            require("Proxy API at https://" in proxy.log(), "the log does not say https")
            same(body(ask(proxy.api_port, client(api.file, hub), "/api/routes")), b"{}", "the routes")
            same(status(ask(proxy.api_port, client(api.file), "/api/routes")), None, "without a certificate")
            same(status(ask(proxy.api_port, None, "/api/routes")), None, "without TLS")

    def to_servers(self) -> None:
        step = self.steps.step
        notebooks = Authority(self.folder, "notebooks-ca")
        mine = self.people.sign("proxy-client", ["localhost"])
        show = ["--client-ssl-key", mine.key, "--client-ssl-cert", mine.certificate]
        trust = ["--client-ssl-ca", notebooks.file]
        asked = ["--client-ssl-request-cert", "--client-ssl-reject-unauthorized"]
        with Backend(notebooks.sign("server", ["localhost", "127.0.0.1"]), asks=self.people.file) as server:
            target = ["--default-target", server.url]
            with step("servers over TLS are shown a certificate, and checked"), self.proxy(*show, *trust, *asked, *target) as proxy:
                same(proxy.headers(None)["x-forwarded-proto"], "http", "forwarded")
                channel = websocket.create_connection(f"ws://localhost:{proxy.port}/ws", timeout=10)
                channel.send("ping")
                same(json.loads(channel.recv())["message"], "ping", "the echo")
                channel.close()
            with step("a server that asks for a certificate refuses a proxy without"), self.proxy(*trust, *target) as proxy:
                same(status(ask(proxy.port, None)), 503, "the answer")
            with step("a server of an unknown authority is not asked"):
                with self.proxy(*show, "--client-ssl-ca", self.site.file, *target) as proxy:
                    same(status(ask(proxy.port, None)), 503, "the answer")

    def ours_alone(self) -> None:
        """Where the original proxy does something else, or nothing; docs/tls.md tells it."""
        step = self.steps.step
        notebooks = Authority(self.folder, "other-notebooks-ca")
        with Backend(notebooks.sign("named", ["127.0.0.1"])) as server:
            target = ["--default-target", server.url]
            with step("a server's certificate is for its own name, not for the one in the browser"):
                with self.proxy("--client-ssl-ca", notebooks.file, *target) as proxy:
                    same(status(ask(proxy.port, None, host="hub.example.org")), 200, "the answer")
            with step("--insecure checks no certificate"), self.proxy("--client-ssl-ca", self.site.file, "--insecure", *target) as proxy:
                same(status(ask(proxy.port, None)), 200, "the answer")
            with step("without authorities of its own the proxy trusts the machine's"):
                with self.proxy(*target, SSL_CERT_FILE=str(notebooks.file)) as proxy:
                    same(status(ask(proxy.port, None)), 200, "the answer")
        with step("SIGHUP takes up a new certificate, and no connection is dropped"), Backend() as server:
            pair = self.site.sign("renewed", ["localhost"])
            with self.proxy(*public(pair), "--default-target", server.url) as proxy:
                channel = websocket.create_connection(f"wss://localhost:{proxy.port}/ws", sslopt={"ca_certs": str(self.site.file)}, timeout=10)
                first = self.shown(proxy)
                self.site.sign("renewed", ["localhost"])
                os.kill(proxy.process.pid, signal.SIGHUP)
                wait_until(lambda: self.shown(proxy) != first, "the new certificate", seconds=10)
                channel.send("still there?")
                same(json.loads(channel.recv())["message"], "still there?", "the echo")
                channel.close()
        with step("an encrypted key with another passphrase is refused, with what to do"):
            locked = self.site.sign("locked", ["localhost"], passphrase=b"a secret")
            proxy = self.proxy(*public(locked), CONFIGPROXY_SSL_KEY_PASSPHRASE="another")
            same(proxy.process.wait(20), 1, "the exit code")
            for words in ("is encrypted", "its passphrase is another", "openssl pkey -in"):
                require(words in proxy.log(), f"no {words!r} in: {proxy.log()}")
            require("another\n" not in proxy.log(), "the passphrase is in the log")
        with step("an encrypted key without a passphrase is refused, with the variable's name"):
            proxy = self.proxy(*public(locked))
            same(proxy.process.wait(20), 1, "the exit code")
            require("CONFIGPROXY_SSL_KEY_PASSPHRASE" in proxy.log(), proxy.log())
        with step("a key of another certificate is refused"):
            other = self.site.sign("other", ["localhost"])
            proxy = self.proxy(*public(Pair(other.key, self.pair.certificate)))
            same(proxy.process.wait(20), 1, "the exit code")
            require("does not belong to" in proxy.log(), proxy.log())

    def shown(self, proxy: Proxy) -> str:
        return ssl.get_server_certificate(("127.0.0.1", proxy.port), timeout=10)


# The group of 2048 bits of RFC 7919.
DH_PARAMETERS = """-----BEGIN DH PARAMETERS-----
MIIBCAKCAQEA//////////+t+FRYortKmq/cViAnPTzx2LnFg84tNpWp4TZBFGQz
+8yTnc4kmz75fS/jY2MMddj2gbICrsRhetPfHtXV/WVhJDP1H18GbtCFY2VVPe0a
87VXE15/V8k1mE8McODmi3fipona8+/och3xWKE2rec1MKzKT0g6eXq8CrGCsyT7
YdEIqUuyyOP7uWrat2DX9GgdT0Kj3jlN9K5W7edjcrsZCwenyO4KbXCeAvzhzffi
7MA0BM0oNC9hkXL+nOmFg/+OTxIy7vKBg8P+OxtMb61zO7X8vC7CIAXFjvGDfRaD
ssbzSibBsu/6iGtCOGEoXJf//////////wIBAg==
-----END DH PARAMETERS-----
"""
