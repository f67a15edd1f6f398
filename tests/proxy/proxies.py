"""The two proxies, started with the same options."""

import http.client
import json
import os
import random
import re
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
from pathlib import Path

from harness import places
from harness.certificates import Authority
from harness.hub import environment
from harness.steps import require, wait_until
from servers import Server
from wire import Message, Stream, connect, get

TOKEN = "conformance"
CHP, OURS = "configurable-http-proxy", "orrery"
KINDS = (CHP, OURS)


_taken: set[int] = set()
_ports = threading.Lock()


def free_port() -> int:
    """A port that nobody else gets, and none of those that outgoing connections take."""
    while True:
        port = random.randrange(10_000, 32_000, 2)
        with _ports, socket.socket() as first, socket.socket() as second:
            if port in _taken:
                continue
            try:
                first.bind(("127.0.0.1", port))
                # The next one is free too: it is the API's by default.
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            _taken.add(port)
            return port


def command(kind: str) -> list[str]:
    if kind == CHP:
        return [str(places.node_modules() / ".bin" / "configurable-http-proxy")]
    return [str(places.orrery_binary()), "proxy"]


def original_options() -> list[str]:
    """The options that the original's help names."""
    done = subprocess.run([*command(CHP), "--help"], env=environment(), capture_output=True, text=True, timeout=30)
    return re.findall(r"^  (?:-\w, )?(--[a-z0-9-]+)", done.stdout, re.M)


class Site:
    """Where a case runs: one kind of proxy, a folder of its own, certificates shared by all."""

    _authorities: dict[str, Authority] = {}
    _pairs: dict[tuple, object] = {}
    _lock = threading.Lock()
    shared: Path

    def __init__(self, kind: str, patience: float):
        self.kind, self.patience = kind, patience
        # Short, because the path of a unix socket has room for 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="p-", dir=self.shared))
        self._started: list[Proxy] = []

    def start(self, *options, ready: bool = True, **settings) -> "Proxy":
        proxy = Proxy(self, *options, **settings)
        self._started.append(proxy)
        if ready:
            proxy.wait_ready()
        return proxy

    def authority(self, name: str) -> Authority:
        with self._lock:
            if name not in self._authorities:
                self._authorities[name] = Authority(self.shared, name)
            return self._authorities[name]

    def pair(self, authority: str, name: str, names=("localhost", "127.0.0.1"), **options):
        signer = self.authority(authority)
        with self._lock:
            if (authority, name) not in self._pairs:
                self._pairs[authority, name] = signer.sign(name, list(names), **options)
            return self._pairs[authority, name]

    def __enter__(self) -> "Site":
        return self

    def __exit__(self, *_exception) -> None:
        for proxy in self._started:
            proxy.stop()


class Proxy:
    """A running proxy. Without `listen` it serves on ports of its own choice."""

    def __init__(self, site: Site, *options, listen: bool = True, default: str | None = None, program: list[str] | None = None, token: str = TOKEN, variables: dict | None = None):
        self.site, self.kind, self.patience = site, site.kind, site.patience
        self.port, self.api_port = free_port(), free_port()
        self.place, self.api_place = self.port, self.api_port
        self.tls: ssl.SSLContext | None = None
        words = [*(program or command(site.kind))]
        if listen:
            words += ["--ip", "127.0.0.1", "--port", self.port, "--api-ip", "127.0.0.1", "--api-port", self.api_port]
        if default:
            words += ["--default-target", default]
        self.token = token
        handle, self.log_path = tempfile.mkstemp(dir=site.folder, suffix=".log")
        self.process = subprocess.Popen(
            [str(word) for word in [*words, *options]],
            cwd=site.folder,
            env=environment(CONFIGPROXY_AUTH_TOKEN=token, **(variables or {})),
            stdin=subprocess.DEVNULL,
            stdout=handle,
            stderr=handle,
        )
        os.close(handle)

    def wait_ready(self, words: str = "Proxy API at") -> None:
        wait_until(lambda: self.process.poll() is not None or words in self.log(), "the proxy's start", pause=0.02)
        require(self.process.poll() is None, f"the proxy ended with {self.process.returncode}: {self.log()}")
        for place in (self.place, self.api_place):
            wait_until(lambda place=place: listens(place), f"a listener at {place}", pause=0.02)

    def log(self) -> str:
        return Path(self.log_path).read_text(errors="replace")

    def said(self) -> list[str]:
        """The lines of the log, without time, colour and the name before the colon."""
        return [plain(line) for line in self.log().splitlines()]

    def waits_to_say(self, words: str, seconds: float = 10) -> str:
        return wait_until(lambda: next((line for line in self.said() if words in line), None), f"{words!r} in the log", seconds, 0.02)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def ended(self, seconds: float = 15) -> int | str:
        """The exit code, or that it runs on."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return "runs on"

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def sockets(self) -> int:
        """How many sockets the process has open."""
        count = 0
        for entry in Path(f"/proc/{self.process.pid}/fd").iterdir():
            try:
                count += os.readlink(entry).startswith("socket:")
            except OSError:
                pass
        return count

    # The public side

    def connect(self, patience: float | None = None) -> Stream:
        return connect(self.place, patience=patience or self.patience, tls=self.tls)

    def ask(self, request: str | bytes, *, patience: float | None = None) -> Message | str:
        """The answer to these bytes, on a connection of its own."""
        method = (request if isinstance(request, str) else request.decode("latin-1")).split(" ", 1)[0]
        try:
            with self.connect(patience) as stream:
                try:
                    stream.send(request)
                except OSError:
                    pass  # Refused before all was said; the answer may be there all the same.
                return stream.answer(method)
        except (ssl.SSLError, ConnectionError):
            return "closed"

    def seen(self, request: str | bytes, **options) -> dict:
        """What the server behind has seen of a request, if it answered as `echo` does."""
        answer = self.ask(request, **options)
        if isinstance(answer, str):
            return {"answer": answer}
        try:
            seen = json.loads(answer.body)
            seen["headers"] = [tuple(header) for header in seen["headers"]]
            return seen
        except (ValueError, TypeError, KeyError):
            return {"answer": answer.status}

    # The API

    def api(self, method: str, path: str, body: str | bytes | None = None, *, headers: dict | None = None) -> tuple[int, str]:
        """Status and text of an answer of the API."""
        client = http.client.HTTPConnection("127.0.0.1", self.api_port, timeout=self.patience)
        try:
            client.request(method, path, body, {"Authorization": f"token {self.token}"} if headers is None else headers)
            answer = client.getresponse()
            return answer.status, answer.read().decode("utf-8", "replace")
        finally:
            client.close()

    def route(self, path: str, target: "Server | str", **data) -> None:
        url = target if isinstance(target, str) else target.url
        status, text = self.api("POST", f"/api/routes{path}", json.dumps({"target": url, **data}))
        require(status == 201, f"adding {path}: {status} {text}")

    def routes(self) -> dict:
        return json.loads(self.api("GET", "/api/routes")[1])

    def ask_api(self, request: str | bytes) -> Message | str:
        method = (request if isinstance(request, str) else request.decode("latin-1")).split(" ", 1)[0]
        with connect(self.api_place, patience=self.patience) as stream:
            return stream.send(request).answer(method)

    def token_header(self) -> str:
        return f"Authorization: token {self.token}"


def api_request(method: str, path: str, body: str = "", *headers: str) -> str:
    return get(path, f"Authorization: token {TOKEN}", *headers, method=method, body=body)


def listens(place) -> bool:
    try:
        connect(place, patience=2).close()
        return True
    except OSError:
        return False


def plain(line: str) -> str:
    """A line of the log as `level: message`."""
    line = re.sub(r"\x1b\[[0-9;]*m", "", line)
    return re.sub(r"^\S+ \[ConfigProxy\] ", "", line)
