"""Clients of the proxy: single ones on blocking sockets, and a crowd that never rests."""

import asyncio
import http.client
import json
import socket
import threading

PATIENCE = 15


class Connection:
    """One connection, with what was read of it."""

    def __init__(self, port: int, patience: float = PATIENCE):
        self.sock = socket.create_connection(("127.0.0.1", port), patience)
        self.rest = b""

    def send(self, data: bytes) -> "Connection":
        self.sock.sendall(data)
        return self

    def ask(self, path: str, *headers: str) -> "Connection":
        lines = [f"GET {path} HTTP/1.1", "Host: proxy.test", *headers, "", ""]
        return self.send("\r\n".join(lines).encode())

    def more(self) -> bytes:
        data = self.sock.recv(65536)
        if not data:
            raise EOFError(f"the connection ended after {self.rest!r}")
        self.rest += data
        return data

    def take(self, mark: bytes) -> bytes:
        while mark not in self.rest:
            self.more()
        taken, self.rest = self.rest.split(mark, 1)
        return taken

    def answer(self) -> tuple[int, bytes, bytes]:
        """Status, head and body; the body must have a length."""
        head = self.take(b"\r\n\r\n")
        length = next(int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        while len(self.rest) < length:
            self.more()
        body, self.rest = self.rest[:length], self.rest[length:]
        return int(head.split(b" ", 2)[1]), head, body

    def get(self, path: str) -> int:
        return self.ask(path).answer()[0]

    def websocket(self, path: str = "/user/ada/ws") -> "Connection":
        self.ask(path, "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
        head = self.take(b"\r\n\r\n")
        assert b" 101 " in head, head
        return self

    def echoes(self, data: bytes = b"ping") -> bool:
        self.send(data)
        while len(self.rest) < len(data):
            self.more()
        got, self.rest = self.rest[: len(data)], self.rest[len(data) :]
        return got == data

    def ends(self, seconds: float) -> bool:
        """Whether the other end closes within the time; what it still sends is read away."""
        self.sock.settimeout(seconds)
        try:
            while self.sock.recv(65536):
                pass
        except TimeoutError:
            return False
        except ConnectionError:
            pass
        return True

    def close(self) -> None:
        self.sock.close()


def api(port: int, method: str, path: str = "", body: dict | None = None, token: str = "secret") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request(method, "/api/routes" + path, json.dumps(body) if body else None, {"Authorization": f"token {token}"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def routes(port: int) -> dict:
    status, body = api(port, "GET")
    assert status == 200, (status, body)
    return json.loads(body)


class Crowd:
    """Clients that ask again and again, in a thread of their own: some on one connection for
    many requests, some on a new one for each."""

    def __init__(self, port: int, path: str = "/user/ada/hello", lasting: int = 8, single: int = 8, rest: float = 0.002):
        self.port, self.path, self.rest = port, path, rest
        self.done, self.failures, self.closed = 0, [], 0
        self.stopping = False
        self.counts = (lasting, single)
        self.thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> "Crowd":
        self.thread.start()
        return self

    def __exit__(self, *_exception) -> None:
        self.stop()

    def stop(self) -> None:
        self.stopping = True
        self.thread.join(30)

    async def _run(self) -> None:
        lasting, single = self.counts
        tasks = [self._client(True) for _ in range(lasting)] + [self._client(False) for _ in range(single)]
        await asyncio.gather(*tasks)

    async def _client(self, lasting: bool) -> None:
        streams, asked = None, 0
        while not self.stopping:
            try:
                async with asyncio.timeout(PATIENCE):
                    if streams is None:
                        streams, asked = await asyncio.open_connection("127.0.0.1", self.port), 0
                    head = await self._ask(*streams)
                self.done += 1
                asked += 1
                closes = b"connection: close" in head.lower()
                self.closed += closes
                if closes or not lasting:
                    streams[1].close()
                    streams = None
            except Exception as error:  # each is a request that was not served
                self.failures.append(f"{'lasting' if lasting else 'single'} after {asked}: {error!r}")
                if streams:
                    streams[1].close()
                streams = None
                await asyncio.sleep(0.05)
            await asyncio.sleep(self.rest)

    async def _ask(self, reader, writer) -> bytes:
        writer.write(f"GET {self.path} HTTP/1.1\r\nHost: proxy.test\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200 "):
            raise AssertionError(f"not served: {head!r}")
        body = await reader.readexactly(5)
        if body != b"hello":
            raise AssertionError(f"another body: {body!r}")
        return head
