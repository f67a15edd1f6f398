"""What scripts of cases use: browsers that log in, clients of OAuth, and plain calls."""

import base64
import hashlib
import json
import re
import time
from urllib.parse import parse_qsl, urlencode, urlsplit

import requests

from harness.client import Person, api
from harness.steps import require
from world import PASSWORD

#: How long anything may take.
PATIENCE = 30


def call(wire, requester: str, method: str, path: str, body=None, **headers) -> dict:
    """A request outside the case's list; may be sent from any thread."""
    return send(wire, method, path, wire.headers[requester] | headers, body)


def with_token(wire, token: str, method: str, path: str, body=None) -> dict:
    return send(wire, method, path, {"Authorization": f"token {token}"}, body)


def call_at(hub, token: str, method: str, path: str, body=None) -> None:
    """A call of a hub that is not the twins', which must be granted."""
    answer = api(hub.origin, token, method, path, body)
    require(answer.status_code < 300, f"{method} {path}: {answer.status_code} {answer.text}")


def send(wire, method: str, path: str, headers: dict, body=None) -> dict:
    url = wire.hub.origin + (path if path.startswith(("/hub/", "/user/")) else "/hub/api" + path)
    data = None if body is None else json.dumps(body)
    if body is not None:
        headers = headers | {"Content-Type": "application/json"}
    headers = {"Accept": "*/*"} | {name: value.encode() for name, value in headers.items()}
    with requests.Session() as session:
        session.trust_env = False
        answer = session.request(method, url, data=data, headers=headers, allow_redirects=False, timeout=PATIENCE)
    body = read(answer)
    if isinstance(body, dict) and body.get("message") in (None, "Forbidden", "Not Found", "Bad Request", "Method Not Allowed") and "status" in body:
        # Listed once, for all cases.
        body["message"] = "(the words of the status)"
    return {"status": answer.status_code, "body": body}


def read(answer: requests.Response):
    try:
        return answer.json()
    except ValueError:
        return "(a page)" if "html" in answer.headers.get("Content-Type", "") else answer.text


def until(condition, what: str, seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        require(time.monotonic() < deadline, f"not within {seconds} s: {what}")
        time.sleep(0.03)


def browser(wire, name: str) -> Person:
    """A browser that has just logged in."""
    person = Person(wire.hub.origin, name, PASSWORD)
    answer = person.sign_in()
    require(answer.status_code == 302, f"{name} logs in: {answer.status_code}")
    person.page("/hub/home")
    wire.secrets.append(person.hub_xsrf())
    return person


def pkce(verifier: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


class Client:
    """A client of OAuth: a service, or a server, as the hub knows it."""

    def __init__(self, wire, identifier: str, secret: str, redirect_uri: str):
        self.wire, self.identifier, self.secret, self.redirect_uri = wire, identifier, secret, redirect_uri

    def address(self, **changes) -> str:
        """Where the browser is sent; a change to None leaves a parameter out."""
        query = {"client_id": self.identifier, "redirect_uri": self.redirect_uri, "response_type": "code", "state": "a state"} | changes
        pairs = [(key, value) for key, value in query.items() if value is not None]
        return "/hub/api/oauth2/authorize?" + urlencode(pairs, doseq=True)

    def ask(self, person: Person, **changes) -> dict:
        """The browser comes with a request for a code."""
        return self.told(person.page(self.address(**changes), follow=False))

    def confirm(self, person: Person, scopes=None, xsrf: bool = True, **changes) -> dict:
        """The browser sends the form of the page that asks."""
        fields = {} if scopes is None else {"scopes": scopes}
        return self.told(person.form(self.address(**changes), fields, xsrf=xsrf))

    def told(self, answer: requests.Response) -> dict:
        """An answer to the browser: its status, what it offers, and where it leads."""
        place = urlsplit(answer.headers.get("Location", ""))
        query = dict(parse_qsl(place.query or place.fragment, keep_blank_values=True))
        found = {"status": answer.status_code}
        if answer.is_redirect:
            found["leads to"] = place._replace(query="", fragment="").geturl() + ("#" if place.fragment else "")
            # The words are compared by a case of their own.
            found["query"] = {key: "(a code)" if key == "code" else value for key, value in query.items() if key != "error_description"}
            found["words"] = query.get("error_description")
        elif answer.status_code == 200:
            inputs = re.findall(r"<input[^>]*>", answer.text)
            offered = [re.search(r'value="([^"]*)"', one) for one in inputs if 'name="scopes"' in one]
            found["offers"] = sorted(one[1] for one in offered if one)
        found["code"] = query.get("code", "")
        return found

    def exchange(self, code: str, **changes) -> dict:
        """The client asks for a token; gives what it is told, and the token."""
        form = {
            "grant_type": "authorization_code",
            "client_id": self.identifier,
            "client_secret": self.secret,
            "redirect_uri": self.redirect_uri,
            "code": code,
        } | changes
        pairs = [(key, value) for key, value in form.items() if value is not None]
        with requests.Session() as session:
            session.trust_env = False
            answer = session.post(self.wire.hub.origin + "/hub/api/oauth2/token", data=pairs, allow_redirects=False, timeout=PATIENCE)
        told = read(answer)
        token = ""
        if isinstance(told, dict) and "access_token" in told:
            token, told["access_token"] = told["access_token"], "(a token)"
            told["scope"] = sorted(told["scope"].split())
        kept = {name: answer.headers.get(name) for name in ("Content-Type", "Cache-Control", "Pragma", "WWW-Authenticate")}
        return {"status": answer.status_code, "body": told, "headers": kept, "token": token}


def record(told: dict) -> dict:
    """What is compared of an answer: nothing that was drawn."""
    return {key: value for key, value in told.items() if key not in ("code", "token", "words")}
