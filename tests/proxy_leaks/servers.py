#!/usr/bin/env python3
"""Many small servers in one process: each answer says which server gave it, for which path and which body.

    python servers.py ADDRESS FIRST COUNT

serves the servers FIRST, FIRST+1, … and prints their addresses as JSON; each later line on its input is answered by
the number of connections that are open. `{}` in ADDRESS stands for the server's number, so that each may have
an address that no other program takes over. Of a path only what follows the last known word counts:

    …/wait          never answers
    …/delay/MS      answers after a time
    …/bytes/N/SEED  N bytes that follow from the server, N and SEED
    …/endless       a body that never ends
    …/events/N      N server-sent events
    …/ws            a websocket that echoes; with `?chatty` it speaks every half second by itself
    anything else   what was asked, as JSON
"""

import asyncio
import base64
import hashlib
import json
import socket
import sys
from urllib.parse import urlsplit

GREETING = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
PIECE = 1024


def content(server: int, length: int, seed: str) -> bytes:
    """What `bytes` answers: known to whoever checks it."""
    block = hashlib.sha256(f"{server}/{length}/{seed}".encode()).digest() * 32
    return (block * (length // len(block) + 1))[:length]


def frame(payload: bytes, *, masked: bool = False, opcode: int = 1) -> bytes:
    """One websocket frame. A mask of zeros is a mask, and leaves the bytes readable in a dump."""
    bit = 0x80 if masked else 0
    if len(payload) < 126:
        head = bytes([0x80 | opcode, bit | len(payload)])
    else:
        head = bytes([0x80 | opcode, bit | 126]) + len(payload).to_bytes(2, "big")
    return head + (b"\0\0\0\0" if masked else b"") + payload


def take_frame(buffer: bytearray) -> tuple[int, bytes] | None:
    """The first whole frame, as opcode and payload, taken out of `buffer`."""
    if len(buffer) < 2:
        return None
    masked, length, begin = buffer[1] & 0x80, buffer[1] & 0x7F, 2
    if length == 126:
        if len(buffer) < 4:
            return None
        length, begin = int.from_bytes(buffer[2:4], "big"), 4
    if masked:
        begin += 4
    if len(buffer) < begin + length:
        return None
    payload, opcode = bytes(buffer[begin : begin + length]), buffer[0] & 15
    del buffer[: begin + length]
    return opcode, payload


class Connection(asyncio.Protocol):
    open = 0

    def __init__(self, server: int):
        self.server = server
        self.buffer = bytearray()
        self.body_left = 0
        self.chunked = False
        self.digest = hashlib.sha256()
        self.websocket = False
        self.running: asyncio.Task | None = None
        self.room = asyncio.Event()
        self.room.set()

    def connection_made(self, transport) -> None:
        Connection.open += 1
        self.transport = transport

    def connection_lost(self, _error) -> None:
        Connection.open -= 1
        self.room.set()
        if self.running:
            self.running.cancel()

    def pause_writing(self) -> None:
        self.room.clear()

    def resume_writing(self) -> None:
        self.room.set()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if self.websocket:
            self.echo()
        else:
            self.go_on()

    def go_on(self) -> None:
        """Read requests, one after the other."""
        while self.running is None and not self.websocket:
            if self.body_left or self.chunked:
                if not self.take_body():
                    return
                self.answer()
                continue
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self.buffer[:end].decode("latin-1")
            del self.buffer[: end + 4]
            line, *fields = head.split("\r\n")
            self.method, self.target, _version = line.split(" ")
            self.headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
            self.body_left = int(self.headers.get("content-length", 0))
            self.chunked = "chunked" in self.headers.get("transfer-encoding", "")
            self.digest = hashlib.sha256()
            if self.headers.get("expect", "").lower() == "100-continue":
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            if not self.body_left and not self.chunked:
                self.answer()

    def take_body(self) -> bool:
        """Whether the body is complete."""
        while self.chunked and not self.body_left:
            end = self.buffer.find(b"\r\n")
            if end < 0:
                return False
            size = int(self.buffer[:end].split(b";")[0] or b"0", 16)
            if size == 0:
                if len(self.buffer) < end + 4:
                    return False
                del self.buffer[: end + 4]
                self.chunked = False
                return True
            # With the line end after the chunk, which is no part of the body.
            self.body_left = size + 2
            del self.buffer[: end + 2]
        piece = self.buffer[: self.body_left]
        del self.buffer[: len(piece)]
        self.body_left -= len(piece)
        if self.chunked:
            keep = max(0, len(piece) - max(0, 2 - self.body_left))
            self.digest.update(piece[:keep])
            return self.take_body() if not self.body_left else False
        self.digest.update(piece)
        return not self.body_left

    def answer(self) -> None:
        words = urlsplit(self.target).path.split("/")
        if "ws" in words and "upgrade" in self.headers:
            self.upgrade()
        elif "wait" in words:
            self.start(asyncio.Event().wait())
        elif "delay" in words:
            self.start(self.later(int(words[words.index("delay") + 1]) / 1000))
        elif "bytes" in words:
            length, seed = words[words.index("bytes") + 1 :][:2]
            self.respond(content(self.server, int(length), seed), "application/octet-stream")
        elif "endless" in words:
            self.start(self.endless())
        elif "events" in words:
            self.start(self.events(int(words[words.index("events") + 1])))
        else:
            self.tell()

    def tell(self) -> None:
        told = {"server": self.server, "method": self.method, "path": self.target, "sha256": self.digest.hexdigest()}
        self.respond(json.dumps(told).encode(), "application/json")

    def respond(self, body: bytes, kind: str) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nX-Server: {self.server}\r\nContent-Length: {len(body)}\r\n\r\n"
        self.transport.write(head.encode() + (b"" if self.method == "HEAD" else body))

    def start(self, work) -> None:
        async def run():
            try:
                await work
            finally:
                self.running = None
            if not self.transport.is_closing():
                self.go_on()

        self.running = asyncio.get_running_loop().create_task(run())

    async def later(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self.tell()

    async def endless(self) -> None:
        self.transport.write(f"HTTP/1.1 200 OK\r\nX-Server: {self.server}\r\nContent-Length: {1 << 40}\r\n\r\n".encode())
        while True:
            await self.room.wait()
            self.transport.write(b"." * PIECE)
            await asyncio.sleep(0.1)

    async def events(self, count: int) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nX-Server: {self.server}\r\nTransfer-Encoding: chunked\r\n\r\n"
        self.transport.write(head.encode())
        for number in range(count):
            await self.room.wait()
            event = f"data: {self.server} {number}\n\n".encode()
            self.transport.write(f"{len(event):x}\r\n".encode() + event + b"\r\n")
            await asyncio.sleep(0.02)
        self.transport.write(b"0\r\n\r\n")

    def upgrade(self) -> None:
        accept = base64.b64encode(hashlib.sha1((self.headers["sec-websocket-key"] + GREETING).encode()).digest()).decode()
        head = f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
        self.websocket = True
        # The first message says who speaks, together with the handshake, as servers may.
        self.transport.write(head.encode() + frame(f"{self.server} {self.target}".encode()))
        if self.target.endswith("?chatty"):
            self.running = asyncio.get_running_loop().create_task(self.chat())
        self.echo()

    def echo(self) -> None:
        while taken := take_frame(self.buffer):
            opcode, payload = taken
            if opcode == 8:
                self.transport.write(frame(payload, opcode=8))
                self.transport.close()
                return
            self.transport.write(frame(f"{self.server}:".encode() + payload))

    async def chat(self) -> None:
        while True:
            await asyncio.sleep(0.5)
            await self.room.wait()
            self.transport.write(frame(b"still here" + b"." * 100))


async def serve(address: str, first: int, count: int) -> None:
    loop = asyncio.get_running_loop()
    addresses = {}
    for server in range(first, first + count):
        listener = socket.create_server((address.format(server), 0), backlog=1024)
        addresses[server] = "{}:{}".format(*listener.getsockname())
        await loop.create_server(lambda server=server: Connection(server), sock=listener)
    print(json.dumps(addresses), flush=True)
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while await lines.readline():
        print(json.dumps(Connection.open), flush=True)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
