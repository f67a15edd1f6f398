"""The part of configurable-http-proxy that the hub's supervision needs: options, token, REST API.

With SMALL_PROXY_BULK the whole table can be replaced, as in our own proxy. Its value is how often
somebody else is to change the table just before.
"""

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
token = "token " + os.environ["CONFIGPROXY_AUTH_TOKEN"]
table = {}
bulk = os.environ.get("SMALL_PROXY_BULK")
others = int(bulk or 0)
version = 0


class Api(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, body=b""):
        self.send_response(status)
        if bulk:
            self.send_header("ETag", f'"{version}"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def path_of_route(self):
        return "/" + unquote(self.path.removeprefix("/api/routes").strip("/"))

    def handle_route(self):
        global version, others
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Authorization") != token:
            return self.answer(403)
        if self.command == "PUT":
            if others:
                others -= 1
                version += 1
                table[f"/other/{others}"] = {"target": "http://127.0.0.1:1"}
            if self.headers["If-Match"] != f'"{version}"':
                return self.answer(412)
            table.clear()
            table.update(json.loads(body))
            table["/replaced"] = {"target": "http://127.0.0.1:1", "jupyterhub": True}
            return self.answer(204)
        version += self.command != "GET"
        if self.command == "GET":
            if self.path_of_route() == "/":
                return self.answer(200, json.dumps(table).encode())
            return self.answer(200 if self.path_of_route() in table else 404)
        if self.command == "POST":
            table[self.path_of_route()] = json.loads(body)
            return self.answer(201)
        return self.answer(204 if table.pop(self.path_of_route(), None) else 404)

    do_GET = do_POST = do_DELETE = handle_route

    if bulk:
        do_PUT = handle_route

    def log_message(self, *_):
        pass


try:
    public = ThreadingHTTPServer((options["--ip"], int(options["--port"])), Api)
    api = ThreadingHTTPServer((options["--api-ip"], int(options["--api-port"])), Api)
except OSError as error:
    sys.exit(f"the small proxy cannot listen: {error}")
api.serve_forever()
