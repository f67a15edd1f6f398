#!/usr/bin/env python3
"""The people of the soak: mixed requests through the proxy, each answer checked to the last byte.

    python soak_people.py PORT SERVERS WORKERS SEED [CA]

Prints a line of JSON each second: what was done, and what went wrong, with the times between which it happened and
the server that was asked. An answer is wrong when it is complete and not the one of that server for that path and
body. Failures (a cut connection, a 503) are for `soak.py` to judge: it knows which servers it has killed when.
With CA, everything goes over TLS. The process may be killed at any time; that is part of the soak.
"""

import asyncio
import hashlib
import json
import random
import ssl
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "proxy_leaks"))
from servers import content, frame, take_frame  # noqa: E402

HANDSHAKE = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
#: A whole exchange must have ended by then.
PATIENCE = 90


class Wrong(Exception):
    """A complete answer that is not the right one."""


class Failed(Exception):
    """No answer, half an answer, or one that says that there is none."""


class LeftEarly(Exception):
    """The worker has left in mid exchange, on purpose."""


class Worker:
    def __init__(self, soak: "People", seed: int):
        self.soak, self.dice = soak, random.Random(seed)
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def run(self) -> None:
        kinds = [(self.small, 50), (self.upload, 15), (self.chunked, 8), (self.download, 15), (self.leave, 4), (self.events, 3), (self.websocket, 5)]
        names, weights = [kind for kind, _ in kinds], [weight for _, weight in kinds]
        while True:
            kind = self.dice.choices(names, weights)[0]
            server = self.dice.randrange(self.soak.servers)
            begun = time.time()
            try:
                async with asyncio.timeout(PATIENCE):
                    if self.writer is None:
                        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.soak.port, ssl=self.soak.tls, server_hostname="localhost" if self.soak.tls else None)
                    await kind(server)
                self.soak.done[kind.__name__] += 1
            except LeftEarly:
                self.soak.done["leave"] += 1
                self.drop()
            except Wrong as wrong:
                self.soak.wrong.append(f"{kind.__name__} of server {server}: {wrong}"[:300])
                self.drop()
            except (Failed, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError) as failure:
                self.soak.failures.append([begun, time.time(), server, f"{kind.__name__}: {failure!r}"[:200]])
                self.drop()

    def drop(self) -> None:
        if self.writer:
            self.writer.transport.abort()
        self.reader = self.writer = None

    async def small(self, server: int) -> None:
        path = f"/s{server}/a%20b/{self.dice.randrange(1 << 30):x}?q={self.dice.randrange(1000)}"
        await self.told(server, "GET", path, b"", "")

    async def upload(self, server: int) -> None:
        body = self.dice.randbytes(self.dice.choice([1, 700, 20_000, 300_000]))
        await self.told(server, "PUT", f"/s{server}/up/{len(body)}", body, f"Content-Length: {len(body)}\r\n")

    async def chunked(self, server: int) -> None:
        body, sent = self.dice.randbytes(self.dice.randrange(1, 60_000)), b""
        rest = body
        while rest:
            length = self.dice.randrange(1, 20_000)
            piece, rest = rest[:length], rest[length:]
            sent += f"{len(piece):x}\r\n".encode() + piece + b"\r\n"
        await self.told(server, "POST", f"/s{server}/chunks/{len(body)}", body, "Transfer-Encoding: chunked\r\n", sent + b"0\r\n\r\n")

    async def told(self, server: int, method: str, path: str, body: bytes, headers: str, sent: bytes | None = None) -> None:
        """An exchange whose answer tells what the server was asked."""
        self.ask(method, path, headers)
        self.writer.write(body if sent is None else sent)
        await self.writer.drain()
        told = json.loads(await self.answer(server))
        expected = {"server": server, "method": method, "path": path, "sha256": hashlib.sha256(body).hexdigest()}
        if told != expected:
            raise Wrong(f"{told} instead of {expected}")

    async def download(self, server: int) -> None:
        length, seed = self.dice.choice([10, 5_000, 100_000, 1_000_000]), f"{self.dice.randrange(1 << 30):x}"
        self.ask("GET", f"/s{server}/bytes/{length}/{seed}")
        if await self.answer(server) != content(server, length, seed):
            raise Wrong(f"other bytes of {length}/{seed}")

    async def leave(self, server: int) -> None:
        """Go away in the middle of something."""
        if self.dice.random() < 0.5:
            self.ask("GET", f"/s{server}/bytes/5000000/x")
            await self.reader.readexactly(self.dice.randrange(1, 100_000))
        elif self.dice.random() < 0.5:
            self.ask("POST", f"/s{server}/up", "Content-Length: 1000000\r\n")
            self.writer.write(b"." * self.dice.randrange(1, 100_000))
            await self.writer.drain()
        else:
            self.ask("GET", f"/s{server}/delay/500")
            await asyncio.sleep(0.05)
        raise LeftEarly

    async def events(self, server: int) -> None:
        count = self.dice.randrange(1, 40)
        self.ask("GET", f"/s{server}/events/{count}")
        expected = "".join(f"data: {server} {number}\n\n" for number in range(count))
        if (await self.answer(server)).decode() != expected:
            raise Wrong(f"other events than {count}")

    async def websocket(self, server: int) -> None:
        path = f"/s{server}/ws?{self.dice.randrange(1 << 30):x}"
        self.ask("GET", path, HANDSHAKE)
        head = await self.reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101"):
            raise Failed(head.split(b"\r\n")[0].decode())
        self.soak.websockets += 1
        buffer = bytearray()
        try:
            if await self.message(buffer) != f"{server} {path}".encode():
                raise Wrong("the first message of another server or path")
            for _ in range(self.dice.randrange(1, 30)):
                text = self.dice.randbytes(self.dice.choice([1, 100, 5_000, 60_000]))
                self.writer.write(frame(text, masked=True))
                await self.writer.drain()
                if await self.message(buffer) != f"{server}:".encode() + text:
                    raise Wrong("another echo")
                await asyncio.sleep(self.dice.random() * 0.1)
            if self.dice.random() < 0.5:
                raise LeftEarly
            self.writer.write(frame(b"", masked=True, opcode=8))
            await self.message(buffer)
            self.writer.close()
            self.reader = self.writer = None
        finally:
            self.soak.websockets -= 1

    async def message(self, buffer: bytearray) -> bytes:
        while (taken := take_frame(buffer)) is None:
            piece = await self.reader.read(65536)
            if not piece:
                raise Failed("the websocket was cut")
            buffer += piece
        return taken[1]

    def ask(self, method: str, path: str, headers: str = "") -> None:
        self.writer.write(f"{method} {path} HTTP/1.1\r\nHost: site\r\n{headers}\r\n".encode())

    async def answer(self, server: int) -> bytes:
        """The body of a whole answer with status 200 from that server."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *fields = head[:-4].split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
        body = b""
        if "chunked" in headers.get("transfer-encoding", ""):
            while size := int((await self.reader.readline()).strip() or b"-1", 16):
                if size < 0:
                    raise Failed("cut between chunks")
                body += (await self.reader.readexactly(size + 2))[:-2]
            await self.reader.readline()
        else:
            body = await self.reader.readexactly(int(headers["content-length"]))
        if headers.get("connection") == "close":
            self.writer.close()
            self.reader = self.writer = None
        if not line.startswith("HTTP/1.1 200"):
            raise Failed(line)
        if headers.get("x-server") != str(server):
            raise Wrong(f"from server {headers.get('x-server')}")
        return body


class People:
    def __init__(self, port: int, servers: int, authorities: str | None):
        self.port, self.servers = port, servers
        self.tls = ssl.create_default_context(cafile=authorities) if authorities else None
        self.done: Counter = Counter()
        self.wrong: list[str] = []
        self.failures: list[list] = []
        self.websockets = 0

    async def run(self, workers: int, seed: int) -> None:
        tasks = [asyncio.create_task(Worker(self, seed * 1000 + number).run()) for number in range(workers)]
        while True:
            await asyncio.sleep(1)
            for task in tasks:
                if task.done():
                    task.result()
            told = {"done": self.done, "wrong": self.wrong, "failures": self.failures, "websockets": self.websockets}
            print(json.dumps(told), flush=True)
            self.done, self.wrong, self.failures = Counter(), [], []


if __name__ == "__main__":
    people = People(int(sys.argv[1]), int(sys.argv[2]), sys.argv[5] if len(sys.argv) > 5 else None)
    asyncio.run(people.run(int(sys.argv[3]), int(sys.argv[4])))
