"""A person's browser without the browser: cookies per path, XSRF, Sec-Fetch headers, websockets."""

import json
import uuid
from urllib.parse import urlsplit

import requests
import websocket

from .steps import require, same

AGENT = "Mozilla/5.0 (X11; Linux x86_64) story"
TIMEOUT = 30


class Person:
    """One browser profile. Redirects are followed by hand, so that a story can look at each."""

    def __init__(self, origin: str, name: str, password: str = ""):
        self.origin, self.name, self.password = origin, name, password
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.headers["User-Agent"] = AGENT

    def cookie(self, name: str, path: str):
        for cookie in self.session.cookies:
            if cookie.name == name and cookie.path == path:
                return cookie
        return None

    def cookie_header(self, path: str) -> str:
        """The Cookie header a browser would send to `path`."""
        request = requests.Request("GET", self.origin + path).prepare()
        return requests.cookies.get_cookie_header(self.session.cookies, request) or ""

    def page(self, path: str, *, follow: bool = True, **options) -> requests.Response:
        """A navigation, as a browser's address bar does it."""
        headers = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Site": "same-origin", "Accept": "text/html"}
        return self.session.get(self._url(path), headers=headers, allow_redirects=follow, timeout=TIMEOUT, **options)

    def form(self, path: str, fields: dict, *, xsrf: bool = True, follow: bool = False) -> requests.Response:
        """A form sent from one of the hub's pages."""
        fields = dict(fields)
        if xsrf:
            fields["_xsrf"] = self.hub_xsrf()
        headers = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Site": "same-origin", "Origin": self.origin}
        return self.session.post(self._url(path), data=fields, headers=headers, allow_redirects=follow, timeout=TIMEOUT)

    def hub_xsrf(self) -> str:
        cookie = self.cookie("_xsrf", "/hub/")
        return cookie.value if cookie else ""

    def call(self, method: str, path: str, body=None, **options) -> requests.Response:
        """What a page's script does: fetch() with the XSRF header of the part the path lies in."""
        tokens = [c for c in self.session.cookies if c.name == "_xsrf" and urlsplit(path).path.startswith(c.path)]
        cookie = max(tokens, key=lambda c: len(c.path), default=None)
        headers = {
            "Sec-Fetch-Mode": "cors",
            "Sec-Fetch-Site": "same-origin",
            "X-XSRFToken": cookie.value if cookie else "",
            "Content-Type": "application/json",
        }
        data = None if body is None else json.dumps(body)
        return self.session.request(
            method, self._url(path), data=data, headers=headers, allow_redirects=False, timeout=TIMEOUT, **options
        )

    def sign_in(self, next_path: str = "") -> requests.Response:
        """Fill in the login form; gives the answer to the form, not what it leads to."""
        path = "/hub/login" + (f"?next={next_path}" if next_path else "")
        page = self.page(path)
        same(page.status_code, 200, "GET " + path)
        return self.form(path, {"username": self.name, "password": self.password})

    def progress(self, server: str | None = None, seconds: float = 90) -> list[dict]:
        """Read the progress stream to its end."""
        place = "server" if not server else f"servers/{server}"
        path = f"/hub/api/users/{self.name}/{place}/progress?_xsrf={self.hub_xsrf()}"
        headers = {"Accept": "text/event-stream", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Site": "same-origin"}
        events = []
        with self.session.get(self._url(path), headers=headers, stream=True, timeout=seconds) as answer:
            same(answer.status_code, 200, "status of the progress stream")
            same(answer.headers["Content-Type"].split(";")[0], "text/event-stream", "content type of the progress stream")
            for line in answer.iter_lines(decode_unicode=True):
                if line.startswith("data:"):
                    events.append(json.loads(line[5:]))
                    if events[-1].get("ready") or events[-1].get("failed"):
                        break
        return events

    def websocket(self, path: str) -> websocket.WebSocket:
        return websocket.create_connection(
            self._url(path).replace("http", "ws", 1),
            timeout=TIMEOUT,
            cookie=self.cookie_header(urlsplit(path).path),
            origin=self.origin,
            header={"User-Agent": AGENT},
        )

    def _url(self, path: str) -> str:
        return path if "://" in path else self.origin + path


def api(origin: str, token: str | None, method: str, path: str, body=None, **options) -> requests.Response:
    """A call of the REST API by a program that holds a token."""
    headers = options.pop("headers", {})
    if token is not None:
        headers["Authorization"] = f"token {token}"
    data = None if body is None else json.dumps(body)
    return requests.request(
        method, f"{origin}/hub/api{path}", data=data, headers=headers, allow_redirects=False, timeout=TIMEOUT, **options
    )


def run_cell(person: Person, base: str, code: str) -> str:
    """Make a notebook with a kernel in the server at `base`, run one cell, give what it printed."""
    notebook = {
        "cells": [{"cell_type": "code", "id": "cell-1", "source": code, "metadata": {}, "outputs": [], "execution_count": None}],
        "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    made = person.call("PUT", f"{base}api/contents/story.ipynb", {"type": "notebook", "format": "json", "content": notebook})
    require(made.status_code in (200, 201), f"saving the notebook: {made.status_code} {made.text[:300]}")
    session = person.call(
        "POST",
        f"{base}api/sessions",
        {"path": "story.ipynb", "type": "notebook", "name": "story.ipynb", "kernel": {"name": "python3"}},
    )
    same(session.status_code, 201, "status of POST api/sessions")
    channel = person.websocket(f"{base}api/kernels/{session.json()['kernel']['id']}/channels")
    try:
        message_id = uuid.uuid4().hex
        header = {"msg_id": message_id, "msg_type": "execute_request", "username": person.name, "session": "story", "version": "5.3", "date": ""}
        content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False}
        channel.send(json.dumps({"header": header, "parent_header": {}, "metadata": {}, "channel": "shell", "content": content, "buffers": []}))
        printed = ""
        while True:
            message = json.loads(channel.recv())
            if message.get("parent_header", {}).get("msg_id") != message_id:
                continue
            if message["msg_type"] == "stream":
                printed += message["content"]["text"]
            if message["msg_type"] == "error":
                raise AssertionError(f"the cell failed: {message['content']}")
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                return printed
    finally:
        channel.close()


def ask_terminal(person: Person, base: str, line: str, expected: str) -> str:
    """Open a terminal in the server at `base`, type a line, read until the answer is there."""
    made = person.call("POST", f"{base}api/terminals")
    require(made.status_code in (200, 201), f"making a terminal: {made.status_code} {made.text[:300]}")
    channel = person.websocket(f"{base}terminals/websocket/{made.json()['name']}")
    shown = ""
    try:
        channel.send(json.dumps(["stdin", line + "\r"]))
        while expected not in shown:
            kind, *rest = json.loads(channel.recv())
            if kind == "stdout":
                shown += rest[0]
        return shown
    finally:
        channel.close()
