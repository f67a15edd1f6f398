"""A server behind a proxy: tells the headers it got, and echoes over a websocket."""

import asyncio
import json
import ssl
import threading
from pathlib import Path

from harness.certificates import Pair
from tornado import web, websocket
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets


class Tell(web.RequestHandler):
    def get(self):
        self.write(json.dumps({name.lower(): value for name, value in self.request.headers.items()}))


class Echo(websocket.WebSocketHandler):
    def check_origin(self, _origin):
        return True

    def on_message(self, message):
        self.write_message(json.dumps({"message": message, "proto": self.request.headers.get("X-Forwarded-Proto")}))


class Backend:
    """`with Backend(pair, asks=authority.file) as backend:`; without a pair it is plain."""

    def __init__(self, pair: Pair | None = None, *, asks: Path | None = None):
        self.context = None
        if pair:
            self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(asks) if asks else None)
            self.context.load_cert_chain(pair.certificate, pair.key)
            self.context.verify_mode = ssl.CERT_REQUIRED if asks else ssl.CERT_NONE
        self.sockets = bind_sockets(0, "127.0.0.1")
        self.port = self.sockets[0].getsockname()[1]
        self.url = f"{'https' if pair else 'http'}://127.0.0.1:{self.port}"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        application = web.Application([("/.*ws", Echo), ("/.*", Tell)])
        HTTPServer(application, ssl_options=self.context).add_sockets(self.sockets)
        self._loop.run_forever()

    def __enter__(self) -> "Backend":
        self._thread.start()
        return self

    def __exit__(self, *_exception) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
