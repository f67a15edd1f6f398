"""Servers behind a proxy, which do what a test's script says, byte by byte."""

import json
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from harness.certificates import Pair
from wire import Message, Stream


class Server:
    """`with Server(script) as server:`; the script gets each connection, in a thread of its own.

    `server.requests` are the requests that scripts have read, `server.connections` counts what
    was accepted.
    """

    def __init__(
        self,
        script: Callable[["Visit"], None] | None = None,
        *,
        unix: Path | None = None,
        pair: Pair | None = None,
        asks: Path | None = None,
        family: int = socket.AF_INET,
        host: str = "127.0.0.1",
        patience: float = 15,
    ):
        self.script = script or echo
        self.patience = patience
        self.requests: list[Message] = []
        self.connections = 0
        self.open: list[Stream] = []
        self.context = None
        if pair:
            self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(asks) if asks else None)
            self.context.load_cert_chain(pair.certificate, pair.key)
            self.context.verify_mode = ssl.CERT_REQUIRED if asks else ssl.CERT_NONE
        if unix:
            self.listener = socket.socket(socket.AF_UNIX)
            self.listener.bind(str(unix))
            self.url = f"http+unix://{quote(str(unix), safe='')}"
        else:
            self.listener = socket.socket(family)
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.listener.bind((host, 0))
            self.port = self.listener.getsockname()[1]
            self.host = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
            self.url = f"{'https' if pair else 'http'}://{self.host}"

    def __enter__(self) -> "Server":
        self.listener.listen(128)
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_exception) -> None:
        # A closed listener does not wake who accepts on it; one that is shut down does.
        try:
            self.listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.listener.close()
        for stream in self.open:
            stream.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        self.connections += 1
        try:
            sock.settimeout(self.patience)
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.context:
                sock = self.context.wrap_socket(sock, server_side=True)
            visit = Visit(sock, self.patience, self)
            self.open.append(visit)
            try:
                self.script(visit)
            finally:
                visit.close()
        except OSError:
            sock.close()


_unused: list[Server] = []


def dead() -> str:
    """The URL of a server that refuses connections: its port is taken, but nobody listens."""
    _unused.append(Server())
    return _unused[-1].url


class Visit(Stream):
    """A connection that a server has accepted."""

    def __init__(self, sock: socket.socket, patience: float, server: Server):
        super().__init__(sock, patience)
        self.server = server

    def request(self) -> Message | None:
        if message := super().request():
            self.server.requests.append(message)
        return message

    def first(self) -> Message | None:
        """The head of the next request, whatever body follows."""
        try:
            message = self.head()
        except Exception:
            return None
        self.server.requests.append(message)
        return message

    def reply(self, body: str | bytes = "", *headers: str, status: str = "200 OK") -> None:
        body = body.encode() if isinstance(body, str) else body
        self.send("\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]) + "\r\n\r\n", body)


def told(message: Message) -> dict:
    """What a server tells of a request it got."""
    return {
        "line": message.start,
        "headers": [list(header) for header in message.headers],
        "body": message.body.decode("latin-1") + (f" (cut: {message.cut})" if message.cut else ""),
        "trailers": [list(trailer) for trailer in message.trailers],
        "framing": message.framing,
    }


def echo(visit: Visit) -> None:
    """Answer each request with what it was."""
    while message := visit.request():
        body = json.dumps(told(message)).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Length: {len(body)}\r\n\r\n"
        visit.send(head, b"" if message.start.startswith("HEAD ") else body)
        if message.get("connection") == "close":
            return


def saying(answer: str | bytes, *, close: bool = False) -> Callable[[Visit], None]:
    """A script that answers each request with these bytes."""

    def script(visit: Visit) -> None:
        while visit.request():
            visit.send(answer)
            if close:
                return

    return script


def ok(body: str = "ok", *headers: str) -> str:
    return "\r\n".join(["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *headers]) + "\r\n\r\n" + body
