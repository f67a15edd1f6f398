"""Asking one hub, and what of its answer and of its database is compared."""

import http.client
import json
import re
import sqlite3
import time
from collections import Counter
from pathlib import Path

from suite import Case, Request
from world import World

#: How long an answer may take.
PATIENCE = 40
#: Headers that say nothing of the API: of the transport, and of when and by what the answer was made.
UNTOLD = {"date", "server", "content-length", "connection", "keep-alive", "transfer-encoding", "etag"}
#: Lists whose order means nothing; JupyterHub gives some of them in another order each time.
SETS = {"scopes", "api_tokens", "roles", "groups", "users", "allowed_scopes"}
#: Scopes that JupyterHub does not know, which admins have with ours.
OUR_SCOPES = {"read:audit"}
#: What JupyterHub has as null or as empty, depending on what it was asked before.
ANYHOW = {"user_options", "state"}
#: Lists of scopes in sentences, in any order.
EXCESS = re.compile(r"(?<=requested scopes )\S+(?= not held by )")

DATE = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d{1,6})?")
DRAWN = re.compile(r"(?<![\w-])a\d{1,3}(?![\w-])|(?<![\w-])[\w-]{43}(?![\w-])|(?<=code=)[0-9A-Za-z]{30}\b|\b[0-9a-f]{32}\b|\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b")


class Wire:
    """One hub, asked through its proxy over one connection after the other."""

    def __init__(self, world: World, kind: str):
        self.hub, self.headers, self.secrets = world.hubs[kind], world.headers, world.secrets
        self.ports = {name: getattr(self.hub, name) for name in ("port", "hub_port", "api_port")} | {"shop_port": world.shop.server_port}
        self.connection: http.client.HTTPConnection | None = None
        place = f"file:{Path(self.hub.folder)}/jupyterhub.sqlite?mode=ro"
        self.database = sqlite3.connect(place, uri=True, timeout=PATIENCE, check_same_thread=False, isolation_level=None)
        self.version = None
        self.state = self._state()
        #: What `{name}` in a path or body stands for; a story's earlier answers say it.
        self.found: dict[str, str] = {}

    def run(self, case: Case) -> dict:
        """The outcome of a case: part → value. The first request's parts have no number before them."""
        self.found = {"xsrf": self.headers["ada-browser"]["X-XSRFToken"]}
        if case.script is None:
            return self._each(case.requests, 0)
        outcome = {part: self.plain(value) for part, value in case.script(self).items()}
        if change := self._change():
            outcome["change of the database"] = change
        return outcome

    def run_then(self, case: Case) -> dict:
        return self._each(case.then, len(case.requests))

    def _each(self, requests: list[tuple[str, Request]], first: int) -> dict:
        outcome: dict = {}
        for number, (requester, request) in enumerate(requests, first):
            before = "" if number == 0 else f"{number + 1}. {request.line} as {requester}: "
            for part, value in self.ask(requester, request).items():
                outcome[before + part] = value
            if request.changes and (change := self._change()):
                outcome[before + "change of the database"] = change
        return outcome

    def ask(self, requester: str, request: Request) -> dict:
        deadline = time.monotonic() + PATIENCE
        while True:
            status, headers, body = self._send(requester, request)
            if not request.settled or time.monotonic() > deadline or not (status == 202 or b'"pending": "' in body or b'"pending":"' in body):
                break
            time.sleep(0.03)
        self._remember(body)
        parts: dict = {"status": status}
        for name, value in headers:
            name = name.lower()
            if name not in UNTOLD:
                parts[f"header {name}"] = ", ".join(filter(None, [parts.get(f"header {name}"), self._header(name, value)]))
        parts |= flat("body", self._body(parts.get("header content-type", ""), body, request))
        return parts

    def _send(self, requester: str, request: Request):
        headers = {"Host": "hub.example.org", "Accept": "*/*"} | self.headers[requester]
        body = request.raw
        if body is None and request.body is not None:
            body = self._fill_in(json.dumps(request.body)).encode()
            headers["Content-Type"] = "application/json"
        headers |= request.headers or {}
        headers = {name: self._fill_in(value) for name, value in headers.items() if value is not None}
        if body is not None or request.changes:
            headers.setdefault("Content-Length", str(len(body or b"")))
        path = self._fill_in(request.path)
        for attempt in (1, 2):
            fresh = self.connection is None
            if fresh:
                self.connection = http.client.HTTPConnection("127.0.0.1", self.hub.port, timeout=PATIENCE)
            try:
                self.connection.putrequest(request.method, path, skip_host=True, skip_accept_encoding=True)
                for name, value in headers.items():
                    self.connection.putheader(name, value.encode("utf-8"))
                self.connection.endheaders(body)
                answer = self.connection.getresponse()
                data = answer.read()
                if answer.will_close:
                    self._close()
                return answer.status, answer.getheaders(), data
            except (OSError, http.client.HTTPException):
                self._close()
                # A kept connection may have been closed by the other side just now.
                if fresh or attempt == 2:
                    raise
        raise AssertionError("not reached")

    def _close(self) -> None:
        if self.connection:
            self.connection.close()
        self.connection = None

    def _fill_in(self, text: str) -> str:
        for name, value in self.found.items():
            text = text.replace(f"{{{name}}}", value)
        return text

    def _remember(self, body: bytes) -> None:
        """`{id}`, `{token}`, `{code}`, … of the last answer that had them, for what comes later in a story."""
        try:
            answer = json.loads(body)
        except ValueError:
            return
        if isinstance(answer, dict):
            self.found |= {name: str(value) for name, value in answer.items() if isinstance(value, str | int) and not isinstance(value, bool)}

    def _header(self, name: str, value: str) -> str:
        value = self._redact(value)
        if name == "set-cookie":
            pair, *attributes = value.split(";")
            cookie, _, content = pair.partition("=")
            attributes = [attribute.strip().lower() for attribute in attributes]
            attributes = ["expires=…" if attribute.startswith("expires=") else attribute for attribute in attributes]
            if content in ("", '""') and "expires=…" in attributes:
                # A cookie is deleted by either; ours has both.
                attributes = [attribute for attribute in attributes if attribute != "max-age=0"]
            return "; ".join([f"{cookie}={'…' if len(content) > 2 else ''}", *sorted(attributes)])
        return value

    def _body(self, kind: str, body: bytes, request: Request):
        text = self._redact(body.decode("utf-8", "backslashreplace"))
        if kind.startswith("text/html") and len(text) > 200:
            return "(a page)"
        try:
            return self._plain(json.loads(text), request.ignore)
        except ValueError:
            return text

    def plain(self, value):
        """What a script found, as it is compared."""
        return self._plain(json.loads(self._redact(json.dumps(value, default=sorted))), ())

    def _plain(self, value, ignore: tuple):
        if isinstance(value, dict):
            plain = {key: "(ignored)" if key in ignore and item not in (None, [], {}) else self._plain(item, ignore) for key, item in value.items()}
            for key in ANYHOW & plain.keys():
                plain[key] = {} if plain[key] is None else plain[key]
            return {key: sorted((one for one in item if not isinstance(one, str) or one not in OUR_SCOPES), key=repr) if key in SETS and isinstance(item, list) else item for key, item in plain.items()}
        if isinstance(value, list):
            return [self._plain(item, ignore) for item in value]
        return value

    def _redact(self, text: str) -> str:
        for secret in self.secrets:
            text = text.replace(secret, "(secret)")
        for name, port in self.ports.items():
            text = re.sub(rf"(?<!\d){port}(?!\d)", f"({name})", text)
        text = text.replace(str(self.hub.folder), "(folder)").replace(self.hub.log_path.parent.name, "(folder)")
        text = EXCESS.sub(lambda found: ",".join(sorted(scope for scope in found[0].split(",") if scope not in OUR_SCOPES)), text)
        text = DATE.sub("(date)", text)
        # JupyterHub names them in another order each time.
        text = re.sub(r"(?<=requested scopes )\S+(?= not held)", lambda found: ",".join(sorted(found[0].split(","))), text)
        return DRAWN.sub("(drawn)", text)

    # --- the database

    def _change(self) -> dict:
        """What has changed in the database since the last look: sign and row → how often."""
        now = self._state()
        gone, new = self.state - now, now - self.state
        self.state = now
        return {f"- {row}": count for row, count in sorted(gone.items())} | {f"+ {row}": count for row, count in sorted(new.items())}

    def _state(self) -> Counter:
        version = self.database.execute("PRAGMA data_version").fetchone()
        if version == self.version:
            return self.state
        self.version = version
        rows: Counter = Counter()
        for table, query in QUERIES.items():
            for row in self.database.execute(query):
                rows[f"{table} {' | '.join(map(self._cell, row))}"] += 1
        return rows

    def _cell(self, value) -> str:
        if not isinstance(value, str):
            return repr(value)
        try:
            parsed = json.loads(value)
            value = json.dumps(sorted(parsed, key=repr) if isinstance(parsed, list) else parsed, sort_keys=True, ensure_ascii=False)
        except ValueError:
            pass
        return self._redact(value)


def flat(path: str, value) -> dict:
    """JSON as its leaves, so that a difference is one of them: `body[ada].servers.one.ready`."""
    if isinstance(value, dict) and value:
        return {place: leaf for key, item in value.items() for place, leaf in flat(f"{path}.{key}", item).items()}
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        names = [str(item.get("name", item.get("id", number))) for number, item in enumerate(value)]
        if len(set(names)) < len(names):
            names = [str(number) for number in range(len(value))]
        return {f"{path}[]": names} | {place: leaf for name, item in zip(names, value) for place, leaf in flat(f"{path}[{name}]", item).items()}
    return {path: value}


#: JupyterHub deletes tokens that have expired when somebody lists them, ours on its own.
#: What is compared of the database, by names instead of numbers. JupyterHub makes a row for the default
#: server as soon as it looks at a user more closely; ours when the server is asked for.
QUERIES = {
    "user": "SELECT name, admin, created IS NULL, encrypted_auth_state IS NULL FROM users",
    "group": "SELECT name, properties FROM groups",
    "role": "SELECT name, description, scopes, managed_by_auth FROM roles",
    "member": "SELECT g.name, u.name FROM user_group_map m JOIN users u ON u.id = m.user_id JOIN groups g ON g.id = m.group_id",
    "user's role": "SELECT u.name, r.name, m.managed_by_auth FROM user_role_map m JOIN users u ON u.id = m.user_id JOIN roles r ON r.id = m.role_id",
    "group's role": "SELECT g.name, r.name, m.managed_by_auth FROM group_role_map m JOIN groups g ON g.id = m.group_id JOIN roles r ON r.id = m.role_id",
    "service's role": "SELECT s.name, r.name, m.managed_by_auth FROM service_role_map m JOIN services s ON s.id = m.service_id JOIN roles r ON r.id = m.role_id",
    "service": "SELECT name, admin, url, oauth_client_allowed_scopes, info, display, oauth_no_confirm, command, cwd, environment, user, timeout, from_config, oauth_client_id FROM services",
    "server": "SELECT u.name, s.name, s.user_options, s.display_name, s.server_id IS NULL, s.oauth_client_id FROM spawners s JOIN users u ON u.id = s.user_id WHERE NOT (s.name = '' AND s.server_id IS NULL AND s.user_options IS NULL)",
    "client": "SELECT identifier, description, redirect_uri, allowed_scopes, secret IS NULL FROM oauth_clients",
    "token": "SELECT u.name, s.name, t.client_id, t.session_id IS NULL, t.expires_at IS NULL, t.note, t.scopes FROM api_tokens t LEFT JOIN users u ON u.id = t.user_id LEFT JOIN services s ON s.id = t.service_id WHERE t.note IS NOT 'has expired'",
    "code": "SELECT client_id, user_id, redirect_uri, scopes, code_challenge_method FROM oauth_codes",
    "share": "SELECT o.name, s.name, u.name, g.name, x.scopes, x.expires_at IS NULL FROM shares x JOIN users o ON o.id = x.owner_id JOIN spawners s ON s.id = x.spawner_id LEFT JOIN users u ON u.id = x.user_id LEFT JOIN groups g ON g.id = x.group_id",
    "share code": "SELECT o.name, s.name, x.scopes, x.expires_at IS NULL, x.exchange_count FROM share_codes x JOIN users o ON o.id = x.owner_id JOIN spawners s ON s.id = x.spawner_id",
}
