#!/usr/bin/env python3
"""Many people in one process: opens connections through the proxy and tells how they end.

    python people.py ADDRESS PORT

Each line of input is a JSON object with `do`, and is answered by one line:

    {"do": "open", "kinds": {"ws": 100, …}, "servers": 20}   opens connections, tells how many stand
    {"do": "ends", "seconds": 10}                            waits for all to end, tells how, by kind
    {"do": "close"}                                          closes them, as people do
    {"do": "load", "workers": 64, "seconds": 5, "servers": 300}   one request after the other, each worker; tells how many

Kinds: `ws` (a websocket that is silent), `chatty` (one whose server speaks), `endless` (a running download),
`upload` (half of an upload), `wait` (a request without an answer so far), `kept` (idle after an answer).
"""

import asyncio
import json
import random
import sys
from collections import Counter

HANDSHAKE = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
#: So many connections are opened at the same time.
AT_ONCE = 100


class Person(asyncio.Protocol):
    """One connection. `stands` is set when it is in the state its kind has, `ended` when it is over."""

    def __init__(self, kind: str, server: int):
        self.kind, self.server = kind, server
        self.stands = asyncio.get_running_loop().create_future()
        self.ended = asyncio.get_running_loop().create_future()
        self.seen = bytearray()
        self.received = 0

    def connection_made(self, transport) -> None:
        self.transport = transport
        path, method, more = f"/s{self.server}/{self.kind}", "GET", ""
        if self.kind in ("ws", "chatty"):
            path, more = f"/s{self.server}/ws" + ("?chatty" if self.kind == "chatty" else ""), HANDSHAKE
        if self.kind == "upload":
            method, more = "POST", "Content-Length: 1000000\r\n"
        transport.write(f"{method} {path} HTTP/1.1\r\nHost: site\r\n{more}\r\n".encode())
        if self.kind == "upload":
            transport.write(b"." * 50_000)
        if self.kind in ("upload", "wait"):
            # Nothing comes back that would tell; the servers count their connections.
            self.stand()

    def stand(self) -> None:
        if not self.stands.done():
            self.stands.set_result(None)

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        if len(self.seen) < 4096:
            self.seen += data
        expected = f"{self.server} /s{self.server}/".encode() if self.kind in ("ws", "chatty") else b"\r\n\r\n"
        if expected in self.seen:
            self.stand()

    def connection_lost(self, error) -> None:
        if not self.stands.done():
            self.stands.set_exception(ConnectionError(f"{self.kind}: ended at once: {bytes(self.seen[:200])!r}"))
        if not self.ended.done():
            self.ended.set_result(self.how(error))

    def eof_received(self) -> None:
        return None

    def how(self, error) -> str:
        if self.kind in ("wait", "upload") and self.seen:
            return self.seen.split(b" ", 2)[1].decode()
        return "reset" if error else "closed"

    async def end(self) -> str:
        """How the connection ends; one that stays open after a whole answer has ended with its status."""
        while not self.ended.done():
            if self.kind in ("wait", "upload") and b"\r\n\r\n" in self.seen:
                self.transport.close()
                return self.how(None)
            await asyncio.wait([self.ended], timeout=0.2)
        return self.ended.result()


class People:
    def __init__(self, address: str, port: int):
        self.address, self.port = address, port
        self.all: list[Person] = []

    async def open(self, kinds: dict[str, int], servers: int) -> dict:
        slots = asyncio.Semaphore(AT_ONCE)
        loop = asyncio.get_running_loop()

        async def one(kind: str, server: int) -> None:
            async with slots:
                _, person = await loop.create_connection(lambda: Person(kind, server), self.address, self.port)
                self.all.append(person)
                await asyncio.wait_for(person.stands, 30)

        wanted = [(kind, number % servers) for kind, count in kinds.items() for number in range(count)]
        results = await asyncio.gather(*(one(*each) for each in wanted), return_exceptions=True)
        failures = [repr(result) for result in results if isinstance(result, BaseException)]
        return {"open": len(wanted) - len(failures), "failures": failures[:5]}

    async def ends(self, seconds: float) -> dict:
        deadline = asyncio.get_running_loop().time() + seconds
        ways: dict[str, Counter] = {}
        for person in self.all:
            ways.setdefault(person.kind, Counter())
        tasks = {asyncio.ensure_future(person.end()): person for person in self.all}
        done, late = await asyncio.wait(tasks, timeout=max(0, deadline - asyncio.get_running_loop().time()))
        for task in done:
            ways[tasks[task].kind][task.result()] += 1
        for task in late:
            task.cancel()
            ways[tasks[task].kind]["not at all"] += 1
            tasks[task].transport.abort()
        self.all.clear()
        return ways

    async def close(self) -> dict:
        for person in self.all:
            person.transport.close()
        await asyncio.gather(*(person.ended for person in self.all))
        count = len(self.all)
        self.all.clear()
        return {"closed": count}

    async def load(self, workers: int, seconds: float, servers: int) -> dict:
        """Each worker always has a request under way, so that `workers` is the number of live requests."""
        end = asyncio.get_running_loop().time() + seconds
        told = Counter()

        async def work(seed: int) -> None:
            dice = random.Random(seed)
            reader, writer = await asyncio.open_connection(self.address, self.port)
            while asyncio.get_running_loop().time() < end:
                server = dice.randrange(servers)
                writer.write(f"GET /s{server}/delay/{dice.randrange(5, 60)} HTTP/1.1\r\nHost: site\r\n\r\n".encode())
                head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)).decode("latin-1").lower()
                length = int(head.split("content-length: ")[1].split("\r\n")[0])
                body = await asyncio.wait_for(reader.readexactly(length), 30)
                right = head.startswith("http/1.1 200") and json.loads(body)["server"] == server
                told["right" if right else "wrong"] += 1
            writer.close()

        results = await asyncio.gather(*(work(seed) for seed in range(workers)), return_exceptions=True)
        failures = [repr(result) for result in results if isinstance(result, BaseException)]
        return {**told, "failures": failures[:5]}


async def main() -> None:
    people = People(sys.argv[1], int(sys.argv[2]))
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        order = json.loads(line)
        told = await getattr(people, order.pop("do"))(**order)
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
