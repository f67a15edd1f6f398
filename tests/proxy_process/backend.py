"""A server behind the proxy, in a process of its own: hellos, slow answers, events, echoes.

    backend.py    prints its port and serves until standard input closes
"""

import asyncio
import sys


class Backend(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.buffer, self.echoes, self.busy = transport, b"", False, None

    def connection_lost(self, _error):
        if self.busy:
            self.busy.cancel()

    def data_received(self, data):
        if self.echoes:
            self.transport.write(data)
            return
        self.buffer += data
        while not self.echoes and b"\r\n\r\n" in self.buffer:
            head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
            self.answer(head.split(b" ", 2)[1].decode())

    def answer(self, path):
        kind, _, argument = path.rpartition("/")[2].partition("-")
        if kind == "ws":
            self.echoes = True
            self.transport.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        elif kind == "events":
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
            self.busy = asyncio.ensure_future(self.events())
        elif kind == "slow":
            self.busy = asyncio.ensure_future(self.later(float(argument)))
        else:
            self.hello()

    def hello(self):
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")

    async def later(self, seconds):
        await asyncio.sleep(seconds)
        self.hello()

    async def events(self):
        while True:
            self.transport.write(b"8\r\ndata: x\n\r\n")
            await asyncio.sleep(0.05)


async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Backend, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
