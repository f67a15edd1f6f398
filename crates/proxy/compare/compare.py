#!/usr/bin/env python3
"""Send the same requests to configurable-http-proxy and to our proxy, and print where they differ.

Usage: compare.py CHP_COMMAND OUR_COMMAND
       (each a command line in one argument; ours for example "target/debug/orrery proxy")

Standard library only. Exits with 1 when a difference is found that EXPECTED does not explain.
"""

import http.client
import http.server
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import tempfile
import threading
import time

TOKEN = "compare"

# What differs on purpose, by the name of the case, and why.
EXPECTED = {
    "dots": "CHP resolves dot segments before forwarding; we forward what the client wrote",
    "lone question mark": "CHP drops it",
    "quote and backslash": "CHP rewrites these characters",
    "api bad escape": "CHP never answers",
    "api delete without path": "CHP never answers; we take it as the root, as POST does",
    "api unusable target": "CHP stores it and answers 500 to every request for it",
    "non-UTF-8 escape": "CHP answers 500",
    "hop by hop": "CHP passes hop-by-hop headers",
    "absolute": "CHP keeps the Host header; RFC 9112 3.2.2 says that the request line counts",
    "escaped name": "with --no-include-prefix CHP cuts by length, in the middle of an escape",
    "api token anywhere": "CHP finds the token anywhere in the header",
    "two hosts": "node joins or drops the second Host header; we refuse the request",
    "constructor": "CHP answers 500 to a path that names a property of JavaScript objects",
}


class Origin(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        length = int(self.headers.get("content-length") or 0)
        body = self.rfile.read(length).decode()
        status = int(m.group(1)) if (m := re.search(r"/status/(\d+)", self.path)) else 200
        seen = {
            "line": f"{self.command} {self.path}",
            "headers": [f"{k.lower()}: {v}" for k, v in self.headers.items()],
            "body": body,
        }
        text = json.dumps(seen).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Set-Cookie", "a=1")
        self.send_header("Set-Cookie", "b=2")
        if status not in (204, 304):
            self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD" and status not in (204, 304):
            self.wfile.write(text)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_HEAD = answer

    def log_message(self, *args):
        pass


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Proxy:
    def __init__(self, command, arguments):
        self.port, self.api_port = free_port(), free_port()
        environment = dict(os.environ, CONFIGPROXY_AUTH_TOKEN=TOKEN)
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            shlex.split(command)
            + ["--ip", "127.0.0.1", "--port", str(self.port)]
            + ["--api-ip", "127.0.0.1", "--api-port", str(self.api_port)]
            + arguments,
            env=environment,
            stdout=self.log,
            stderr=self.log,
        )
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.api_port)).close()
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def exchange(self, request, api=False):
        """The answer to these bytes as (status, headers, body), or a word for its lack."""
        port = self.api_port if api else self.port
        with socket.create_connection(("127.0.0.1", port), timeout=3) as s:
            s.sendall(request.encode("latin-1"))
            response = http.client.HTTPResponse(s, method=request.split(" ")[0])
            try:
                response.begin()
                body = response.read()
            except TimeoutError:
                return "no answer", [], b""
            except (http.client.HTTPException, OSError):
                return "closed", [], b""
            return response.status, response.getheaders(), body

    def stop(self):
        self.process.terminate()
        self.process.wait(20)


def request(method, path, *headers, body=""):
    lines = [f"{method} {path} HTTP/1.1", "Host: example.org:8000", *headers]
    if body or method in ("POST", "PUT", "PATCH"):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines) + "\r\n\r\n" + body


def api(method, path, body=""):
    return request(method, path, f"Authorization: token {TOKEN}", body=body)


def cases(origin, dead):
    yield "add", True, api("POST", "/api/routes/user/a%40b/", json.dumps({"target": origin, "user": "a@b", "n": [1.5, None]}))
    yield "add root", True, api("POST", "/api/routes/", json.dumps({"target": origin}))
    yield "add with a path", True, api("POST", "/api/routes/based", json.dumps({"target": origin + "/base?k=v"}))
    yield "add dead", True, api("POST", "/api/routes/dead", json.dumps({"target": dead}))
    yield "list", True, api("GET", "/api/routes")
    yield "list with a slash", True, api("GET", "/api/routes/")
    yield "get one", True, api("GET", "/api/routes/user/a@b")
    yield "get none", True, api("GET", "/api/routes/none")
    yield "inactive past", True, api("GET", "/api/routes?inactive_since=2000-01-01T00:00:00Z")
    yield "inactive future", True, api("GET", "/api/routes?inactiveSince=2990-01-01")
    yield "inactive bad", True, api("GET", "/api/routes?inactive_since=soon")
    yield "api no token", True, request("GET", "/api/routes")
    yield "api wrong token", True, request("GET", "/api/routes", "Authorization: token no")
    yield "api token anywhere", True, request("GET", "/api/routes", f"Authorization: x token {TOKEN}")
    yield "api wrong path", True, api("GET", "/api")
    yield "api wrong method", True, api("PUT", "/api/routes/x", "{}")
    yield "api no JSON", True, api("POST", "/api/routes/x", "nope")
    yield "api no target", True, api("POST", "/api/routes/x", "{}")
    yield "api null", True, api("POST", "/api/routes/x", "null")
    yield "api list as body", True, api("POST", "/api/routes/x", "[1]")
    yield "api number as target", True, api("POST", "/api/routes/x", '{"target": 1}')
    yield "api unusable target", True, api("POST", "/api/routes/unusable", '{"target": "nonsense"}')
    yield "api bad escape", True, api("GET", "/api/routes/%zz")
    for name, path in {
        "root": "/",
        "query": "/x?a=1&b=%20c&&d",
        "escaped name": "/user/a%40b/lab",
        "plain name": "/user/a@b/lab",
        "sibling": "/user/a@bc/lab",
        "base": "/based/x?y=1",
        "base itself": "/based",
        "dots": "/user/x/../y/./z",
        "lone question mark": "/x?",
        "double slash": "//host/path",
        "quote and backslash": "/a'b\\c",
        "inner double slash": "/a//b",
        "trailing slashes": "/user/a@b//",
        "non-UTF-8 escape": "/%ff",
        "constructor": "/constructor",
        "fragment-like": "/x%23y",
        "status 204": "/status/204",
        "status 302": "/status/302",
        "status 304": "/status/304",
        "status 404": "/status/404",
        "status 500": "/status/500",
        "health": "/_chp_healthz",
    }.items():
        yield name, False, request("GET", path)
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        yield method, False, request(method, "/x", "Content-Type: text/plain", body="hello")
    yield "delete without body", False, request("DELETE", "/x")
    yield "head", False, request("HEAD", "/x")
    yield "absolute", False, request("GET", "http://other.example/x")
    yield "forwarded", False, request("GET", "/x", "X-Forwarded-For: 1.1.1.1", "X-Forwarded-Proto: https", "X-Forwarded-Port: 443", "X-Forwarded-Host: a.b")
    yield "hop by hop", False, request("GET", "/x", "Connection: X-Secret", "X-Secret: 1", "Keep-Alive: 5", "TE: gzip")
    yield "old client", False, "GET /x HTTP/1.0\r\n\r\n"
    yield "two hosts", False, request("GET", "/x", "Host: other")
    yield "dead", False, request("GET", "/dead/x?y=1")
    yield "dead post", False, request("POST", "/dead/x", body="hello")
    yield "websocket refused", False, request("GET", "/status/403", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: x", "Sec-WebSocket-Version: 13")
    yield "websocket dead", False, request("GET", "/dead", "Connection: Upgrade", "Upgrade: websocket")
    yield "api delete", True, api("DELETE", "/api/routes/user/a@b")
    yield "api delete again", True, api("DELETE", "/api/routes/user/a@b")
    yield "api delete root", True, api("DELETE", "/api/routes/")
    yield "api delete without path", True, api("DELETE", "/api/routes")
    yield "no route", False, request("GET", "/nothing?x")
    yield "websocket no route", False, request("GET", "/nothing", "Connection: Upgrade", "Upgrade: websocket")


# Headers that say how a message is framed, or when it was sent.
FRAMING = {"connection", "keep-alive", "transfer-encoding", "content-length", "date"}


def normal(answer, arguments):
    """An answer without what may differ from run to run."""
    status, headers, body = answer
    headers = sorted(f"{k.lower()}: {v}" for k, v in headers if k.lower() not in FRAMING)
    text = body.decode("utf-8", "replace")
    text = re.sub(r'"last_activity":\s*"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"', '"last_activity":"T"', text)
    if "Body not valid JSON" in text:
        text = "Body not valid JSON"
    if "<html" in text:
        text = "a page"
    try:
        seen = json.loads(text)
    except ValueError:
        return {"status": status, "headers": headers, "body": text}
    if isinstance(seen, dict) and "headers" in seen:
        # The server behind: compare what it got, order included, but for the framing.
        seen["headers"] = sorted(h for h in seen["headers"] if h.split(":")[0] not in FRAMING)
    return {"status": status, "headers": headers, "body": seen}


def main():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Origin)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    origin = f"http://127.0.0.1:{server.server_port}"
    dead = f"http://127.0.0.1:{free_port()}"
    unexplained = 0
    for arguments in (
        [],
        ["--error-target", f"{origin}/hub/error"],
        ["--no-include-prefix"],
        ["--no-prepend-path", "--no-x-forward"],
        ["--custom-header", "X-Site: here", "--default-target", origin],
        ["--host-routing"],
    ):
        proxies = [Proxy(command, arguments) for command in sys.argv[1:3]]
        print("==", " ".join(arguments) or "no options")
        for name, is_api, bytes_sent in cases(origin, dead):
            theirs, ours = (normal(p.exchange(bytes_sent, is_api), arguments) for p in proxies)
            if theirs == ours:
                continue
            reason = EXPECTED.get(name)
            unexplained += reason is None
            print(f"{'expected' if reason else 'DIFFERENT'}: {name}{': ' + reason if reason else ''}")
            if not reason:
                print("   CHP ", json.dumps(theirs))
                print("   ours", json.dumps(ours))
        for proxy in proxies:
            proxy.stop()
    print(f"{unexplained} unexplained differences")
    sys.exit(unexplained > 0)


if __name__ == "__main__":
    main()
