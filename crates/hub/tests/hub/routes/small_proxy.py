"""The part of configurable-http-proxy that the hub's supervision needs: options, token, REST API."""

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
token = "token " + os.environ["CONFIGPROXY_AUTH_TOKEN"]
table = {}


class Api(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, body=b""):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def path_of_route(self):
        return "/" + unquote(self.path.removeprefix("/api/routes").strip("/"))

    def handle_route(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Authorization") != token:
            return self.answer(403)
        if self.command == "GET":
            if self.path_of_route() == "/":
                return self.answer(200, json.dumps(table).encode())
            return self.answer(200 if self.path_of_route() in table else 404)
        if self.command == "POST":
            table[self.path_of_route()] = json.loads(body)
            return self.answer(201)
        return self.answer(204 if table.pop(self.path_of_route(), None) else 404)

    do_GET = do_POST = do_DELETE = handle_route

    def log_message(self, *_):
        pass


try:
    public = ThreadingHTTPServer((options["--ip"], int(options["--port"])), Api)
    api = ThreadingHTTPServer((options["--api-ip"], int(options["--api-port"])), Api)
except OSError as error:
    sys.exit(f"the small proxy cannot listen: {error}")
api.serve_forever()
