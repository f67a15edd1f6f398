"""HTTP/1.1 as bytes: connections that send what they are told to, and tell what comes."""

import socket
import ssl
import time
from dataclasses import dataclass, field
from pathlib import Path

#: What stands for an answer that does not come, or that ends before it began.
NOTHING, CLOSED = "no answer", "closed"


class Cut(Exception):
    """The other side ended in the middle of a message, or said nothing for too long."""

    def __init__(self, how: str, so_far: bytes = b""):
        super().__init__(how)
        self.how, self.so_far = how, so_far


@dataclass
class Message:
    """A request or an answer, its head as it was on the wire."""

    start: str
    headers: list[tuple[str, str]]
    body: bytes = b""
    trailers: list[tuple[str, str]] = field(default_factory=list)
    #: How the body was delimited: `none`, `length`, `chunked` or `close`.
    framing: str = "none"
    #: "" for a whole body, otherwise how it was cut.
    cut: str = ""
    #: The answers before this one: 100, 102, 103.
    interim: list["Message"] = field(default_factory=list)

    @property
    def status(self) -> int:
        return int(self.start.split(" ")[1])

    @property
    def reason(self) -> str:
        return self.start.split(" ", 2)[2] if self.start.count(" ") > 1 else ""

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def get(self, name: str) -> str | None:
        return ", ".join(found) if (found := self.all(name)) else None

    def text(self) -> str:
        return self.body.decode("utf-8", "replace")


class Stream:
    """One side of a connection, with a deadline for whatever it waits for."""

    def __init__(self, sock: socket.socket, patience: float):
        self.socket, self.patience = sock, patience
        self.held = bytearray()
        self.ended = False

    # Bytes

    def send(self, *pieces: bytes | str) -> "Stream":
        for piece in pieces:
            self.socket.sendall(piece.encode("latin-1") if isinstance(piece, str) else piece)
        return self

    def shut(self) -> None:
        """End our direction alone."""
        self.socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        try:
            self.socket.close()
        except OSError:
            pass

    def reset(self) -> None:
        """Break off: the other side sees a reset, not an end."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self.close()

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_exception) -> None:
        self.close()

    def _more(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise Cut(NOTHING, bytes(self.held))
        self.socket.settimeout(left)
        try:
            piece = self.socket.recv(65536)
        except TimeoutError as error:
            raise Cut(NOTHING, bytes(self.held)) from error
        except OSError:
            piece = b""
        if not piece:
            self.ended = True
            raise Cut(CLOSED, bytes(self.held))
        self.held += piece

    def _deadline(self, seconds: float | None = None) -> float:
        return time.monotonic() + (self.patience if seconds is None else seconds)

    def until(self, mark: bytes, seconds: float | None = None) -> bytes:
        """What comes up to and with `mark`."""
        deadline = self._deadline(seconds)
        while mark not in self.held:
            self._more(deadline)
        found, _, self.held = self.held.partition(mark)
        return bytes(found) + mark

    def exactly(self, count: int, seconds: float | None = None) -> bytes:
        deadline = self._deadline(seconds)
        while len(self.held) < count:
            self._more(deadline)
        found, self.held = bytes(self.held[:count]), self.held[count:]
        return found

    def rest(self, seconds: float | None = None) -> tuple[bytes, str]:
        """What comes until the end, and `closed`; or what came and `no answer` if no end comes."""
        deadline = self._deadline(seconds)
        try:
            while True:
                self._more(deadline)
        except Cut as cut:
            found, self.held = bytes(self.held), bytearray()
            return found, cut.how

    def ends(self, seconds: float | None = None) -> bool:
        """Whether the other side ends the connection in time, whatever it says before."""
        return self.rest(seconds)[1] == CLOSED

    # Messages

    def head(self, seconds: float | None = None) -> Message:
        raw = self.until(b"\r\n\r\n", seconds).decode("latin-1")
        start, *lines = raw[:-4].split("\r\n")
        return Message(start, [parse_header(line) for line in lines])

    def body(self, message: Message, *, empty: bool = False, request: bool = False) -> Message:
        """Read the body that the head announces; one that is cut is kept, and says so."""
        try:
            if empty:
                pass
            elif "chunked" in (message.get("transfer-encoding") or "").lower():
                message.framing = "chunked"
                while size := int(self.until(b"\r\n").split(b";")[0], 16):
                    message.body += self.exactly(size)
                    self.exactly(2)
                while (line := self.until(b"\r\n")) != b"\r\n":
                    message.trailers.append(parse_header(line[:-2].decode("latin-1")))
            elif (length := message.get("content-length")) is not None:
                message.framing = "length"
                message.body = self.exactly(int(length))
            elif not request:
                message.framing = "close"
                message.body, how = self.rest()
                message.cut = "" if how == CLOSED else how
        except (Cut, ValueError) as error:
            if message.framing == "length" and isinstance(error, Cut):
                message.body = bytes(self.held)
            message.cut = error.how if isinstance(error, Cut) else "bad chunk"
        return message

    def answer(self, method: str = "GET", *, interim: bool = True) -> Message | str:
        """The next answer, with the interim ones before it; a word if there is none."""
        before: list[Message] = []
        try:
            while True:
                message = self.head()
                if not (interim and 100 <= message.status < 200 and message.status != 101):
                    break
                before.append(message)
        except Cut as cut:
            return cut.how if not cut.so_far else f"{cut.how} in a head"
        except (ValueError, IndexError):
            return "no HTTP"
        message.interim = before
        return self.body(message, empty=method == "HEAD" or message.status in (101, 204, 304))

    def request(self) -> Message | None:
        """The next request of a client, its body too; None when there is none."""
        try:
            message = self.head()
        except Cut:
            return None
        if "100-continue" in (message.get("expect") or ""):
            self.send("HTTP/1.1 100 Continue\r\n\r\n")
        return self.body(message, request=True)


def parse_header(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name, value.strip(" \t")


def connect(place, *, patience: float = 10, tls: ssl.SSLContext | None = None, name: str = "localhost") -> Stream:
    """A connection to a port of this machine, or to a unix socket."""
    if isinstance(place, (str, Path)):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(patience)
        sock.connect(str(place))
    else:
        sock = socket.create_connection(("127.0.0.1", place), timeout=patience)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if tls:
        sock = tls.wrap_socket(sock, server_hostname=name)
    return Stream(sock, patience)


def get(path: str, *headers: str, method: str = "GET", host: str = "example.org:8000", body: str = "", version: str = "1.1") -> str:
    """A request; a body, even an empty one of a POST, has a length."""
    lines = [f"{method} {path} HTTP/{version}", f"Host: {host}", *headers]
    if body or method in ("POST", "PUT", "PATCH"):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines) + "\r\n\r\n" + body
