"""The REST API: each call, and each wrong one."""

import json
import re

from proxies import TOKEN, api_request
from servers import Server
from suite import OneOf, case
from wire import Message, connect, get

TIME = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")


def short(answer: Message | str):
    if isinstance(answer, str):
        return answer
    text = answer.text()
    # What JSON parsers say of bad JSON is their own.
    return [answer.status, text.split(":")[0] if text.startswith("Body not valid JSON") else text]


def timeless(route):
    if not isinstance(route, dict):
        return route
    return {key: "a time" if key == "last_activity" and isinstance(value, str) and TIME.match(value) else value for key, value in route.items()}


def one_call(name: str, request: str | bytes, expect, **options) -> None:
    case(f"api: {name}", expect, default=False, **options)(lambda proxy: short(proxy.ask_api(request)))


T = '{"target": "http://127.0.0.1:1"}'

# Adding

for _name, _body in {
    "no JSON": "nope",
    "an empty body": "",
    "half an object": '{"target":',
    "JSON with a comma too many": '{"target": "http://h",}',
    "two objects": T + T,
}.items():
    one_call(f"POST: {_name}", api_request("POST", "/api/routes/x", _body), [400, "Body not valid JSON"])
for _name, _body in {
    "no target": "{}",
    "null": "null",
    "false": "false",
    "a list": "[1]",
    "a text": '"http://h"',
    "a number": "1",
    "a target that is a number": '{"target": 1}',
    "a target that is null": '{"target": null}',
    "a target that is a list": '{"target": ["http://h"]}',
}.items():
    one_call(f"POST: {_name}", api_request("POST", "/api/routes/x", _body), [400, "Must specify 'target' as string"])
for _name, _target in {"is no URL": "nonsense", "is empty": "", "has no scheme": "127.0.0.1:80", "is of another scheme": "ftp://h/", "has no host": "http://", "has a bad port": "http://h:99999"}.items():

    @case(f"api: POST: a target that {_name}", {"status": 400, "stored": False}, default=False)
    def _(proxy, target=_target):
        status, _ = proxy.api("POST", f"/api/routes{proxy.prefix}", json.dumps({"target": target}))
        return {"status": status, "stored": proxy.prefix in proxy.routes()}


@case("api: POST answers 201 without a body", [201, ""], default=False)
def _(proxy):
    return short(proxy.ask_api(api_request("POST", f"/api/routes{proxy.prefix}", T)))


EXTRA = {"user": "a@b", "hub": True, "jupyterhub": True, "server_name": "", "n": [1.5, None, {"b": {}}], "text": "caf\u00e9 \u2603 \U0001f600 \"quoted\" \\", "empty": {}}


@case("api: what else a route holds comes back as it was", EXTRA | {"target": "http://127.0.0.1:1", "last_activity": "a time"}, default=False)
def _(proxy):
    proxy.route(proxy.prefix, "http://127.0.0.1:1", **EXTRA)
    return timeless(json.loads(proxy.api("GET", f"/api/routes{proxy.prefix}")[1]))


@case("api: a list of routes says the same as one", True, default=False)
def _(proxy):
    proxy.route(proxy.prefix, "http://127.0.0.1:1", **EXTRA)
    return proxy.routes()[proxy.prefix] == json.loads(proxy.api("GET", f"/api/routes{proxy.prefix}")[1])


@case("api: last_activity is ours to say", True, default=False)
def _(proxy):
    proxy.route(proxy.prefix, "http://127.0.0.1:1", last_activity="yesterday")
    return bool(TIME.match(json.loads(proxy.api("GET", f"/api/routes{proxy.prefix}")[1])["last_activity"]))


@case("api: POST replaces a route whole", {"target": "http://127.0.0.1:2", "b": 2, "last_activity": "a time"}, default=False)
def _(proxy):
    proxy.route(proxy.prefix, "http://127.0.0.1:1", a=1)
    proxy.route(proxy.prefix, "http://127.0.0.1:2", b=2)
    return timeless(json.loads(proxy.api("GET", f"/api/routes{proxy.prefix}")[1]))


@case("api: POST takes effect at once", ["1", "2"], default=False)
def _(proxy):
    answers = []
    for name in "12":
        with Server(lambda visit, name=name: visit.first() and visit.reply(name, "Connection: close")) as server:
            proxy.route(proxy.prefix, server)
            answers.append(proxy.ask(get(proxy.prefix)).text())
    return answers


@case("api: a body in chunks", 201, default=False)
def _(proxy):
    request = f"POST /api/routes{proxy.prefix} HTTP/1.1\r\nHost: h\r\n{proxy.token_header()}\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = proxy.ask_api(request + f"{len(T):x}\r\n{T}\r\n0\r\n\r\n")
    return answer if isinstance(answer, str) else answer.status


@case("api: a query behind the path is no part of it", True, default=False)
def _(proxy):
    proxy.api("POST", f"/api/routes{proxy.prefix}?a=b", T)
    return proxy.prefix in proxy.routes()


# Names: what a route is called when it is added as this
for _path, _stored in {
    "/a%40b": "/a@b",
    "/a@b/c": "/a@b/c",
    "/d/": "/d",
    "/%C3%A9": "/\u00e9",
    "/e%2520f": "/e%20f",
    "/g%20h": "/g h",
    "/i%2Fj": "/i/j",
    "/k%3Fl": "/k?l",
    "/m+n": "/m+n",
    "/o~!$&()*,;=:": "/o~!$&()*,;=:",
    "/constructor": "/constructor",
}.items():

    @case(f"api: the route {_path} is called {_stored}", [_stored], default=False)
    def _(proxy, path=_path):
        proxy.api("POST", f"/api/routes{proxy.prefix}{path}", T)
        return [name.removeprefix(proxy.prefix) for name in proxy.routes() if name.startswith(proxy.prefix + "/")]


@case("api: the root", {"/": {"target": "http://127.0.0.1:1", "last_activity": "a time"}}, default=False, alone=True)
def _(proxy):
    proxy.api("POST", "/api/routes/", T)
    found = {name: timeless(route) for name, route in proxy.routes().items() if name == "/"}
    proxy.api("DELETE", "/api/routes/")
    return found


@case("api: POST without a path is of the root", True, default=False, alone=True)
def _(proxy):
    proxy.api("POST", "/api/routes", T)
    found = "/" in proxy.routes()
    proxy.api("DELETE", "/api/routes/")
    return found


@case("api: --default-target is a route", {"/": ["last_activity", "target"]}, alone=True)
def _(proxy):
    return {name: sorted(route) for name, route in proxy.routes().items() if name == "/"}


# Reading

one_call("GET: no such route", api_request("GET", "/api/routes/none"), [404, ""])
one_call("GET: a property of objects is no route", api_request("GET", "/api/routes/constructor-none"), [404, ""])
one_call("GET: a time that is none", api_request("GET", "/api/routes?inactive_since=soon"), [400, "Invalid datestamp 'soon' must be ISO8601."])
one_call("GET: the same by its new name", api_request("GET", "/api/routes?inactiveSince=soon"), [400, "Invalid datestamp 'soon' must be ISO8601."])


@case("api: GET says JSON", ["application/json", "application/json"], default=False)
def _(proxy):
    proxy.route(proxy.prefix, "http://127.0.0.1:1")
    return [proxy.ask_api(api_request("GET", path)).get("content-type") for path in ("/api/routes", f"/api/routes{proxy.prefix}")]


@case("api: GET of a route by other spellings", [200] * 4, default=False)
def _(proxy):
    proxy.route(proxy.prefix + "/a@b", "http://127.0.0.1:1")
    return [proxy.api("GET", f"/api/routes{proxy.prefix}{path}")[0] for path in ("/a@b", "/a%40b", "/a@b/", "/a@b?x=y")]


@case("api: GET of what lies below a route is not the route", 404, default=False)
def _(proxy):
    proxy.route(proxy.prefix, "http://127.0.0.1:1")
    return proxy.api("GET", f"/api/routes{proxy.prefix}/below")[0]


INACTIVE = {
    "inactive_since=2000-01-01T00:00:00Z": False,
    "inactiveSince=2000-01-01T00:00:00Z": False,
    "inactive_since=2990-01-01T00:00:00Z": True,
    "inactiveSince=2990-01-01T00:00:00.000Z": True,
    "inactiveSince=2990-01-01": True,
    "inactiveSince=2990-01-01T00:00:00%2B02:00": True,
    "inactiveSince=2990-01-01T00:00": True,
    "inactiveSince=2990-01-01T00:00:00.123456Z": True,
    "inactiveSince=": True,
    "inactiveSince=2000-01-01&inactive_since=2990-01-01": False,
    "inactiveSince=&inactive_since=2000-01-01": False,
}


@case("api: GET of what was inactive since", INACTIVE, default=False)
def _(proxy):
    proxy.route(proxy.prefix, "http://127.0.0.1:1")
    return {query: proxy.prefix in json.loads(proxy.api("GET", f"/api/routes?{query}")[1]) for query in INACTIVE}


# Deleting


@case("api: DELETE", [204, 404, 404], default=False)
def _(proxy):
    proxy.route(proxy.prefix, "http://127.0.0.1:1")
    path = f"/api/routes{proxy.prefix}"
    return [proxy.api("DELETE", path)[0], proxy.api("DELETE", path)[0], proxy.api("GET", path)[0]]


@case("api: DELETE answers without a body", [204, ""], default=False)
def _(proxy):
    proxy.route(proxy.prefix, "http://127.0.0.1:1")
    return short(proxy.ask_api(api_request("DELETE", f"/api/routes{proxy.prefix}")))


@case("api: DELETE takes effect at once", [200, 404], default=False)
def _(proxy):
    with Server() as server:
        proxy.route(proxy.prefix, server)
        before = proxy.ask(get(proxy.prefix)).status
        proxy.api("DELETE", f"/api/routes{proxy.prefix}")
        return [before, proxy.ask(get(proxy.prefix)).status]


@case("api: DELETE leaves what lies below and above", ["", "/a/b"], default=False)
def _(proxy):
    for path in ("", "/a", "/a/b"):
        proxy.route(proxy.prefix + path, "http://127.0.0.1:1")
    proxy.api("DELETE", f"/api/routes{proxy.prefix}/a")
    return sorted(name.removeprefix(proxy.prefix) for name in proxy.routes() if name == proxy.prefix or name.startswith(proxy.prefix + "/"))


@case("api: DELETE by another spelling", 204, default=False)
def _(proxy):
    proxy.route(proxy.prefix + "/a@b", "http://127.0.0.1:1")
    return proxy.api("DELETE", f"/api/routes{proxy.prefix}/a%40b/")[0]


@case("api: DELETE without a path is of the root", [204, 404], default=False, alone=True)
def _(proxy):
    proxy.api("POST", "/api/routes", T)
    answers = [proxy.ask_api(api_request("DELETE", "/api/routes")) for _ in range(2)]
    proxy.api("DELETE", "/api/routes/")
    return [answer if isinstance(answer, str) else answer.status for answer in answers]


# Other paths and methods

for _method in ("PUT", "PATCH", "OPTIONS", "HEAD"):
    one_call(f"{_method} of a route is no method", api_request(_method, "/api/routes/x", T if _method in ("PUT", "PATCH") else ""), [405, "" if _method == "HEAD" else "Method not supported"])


@case("api: PUT of all routes replaces the table", [204, ["/p"]], default=False, options=["--log-level", "INFO"])
def _(proxy):
    proxy.api("POST", "/api/routes/x", T)
    status, _ = proxy.api("PUT", "/api/routes", json.dumps({"/p": {"target": "http://127.0.0.1:1"}}))
    return [status, list(proxy.routes())]


for _path in ("/", "/api", "/api/", "/api/routesx", "/api/x/routes", "/metrics", "/x?/api/routes", "/API/routes"):
    one_call(f"GET {_path} is not there", api_request("GET", _path), [404, "Not Found"])
one_call("dot segments are not resolved", api_request("GET", "/x/../api/routes/none"), [404, "Not Found"])
one_call("a malformed escape", api_request("GET", "/api/routes/%zz"), OneOf([400, ""], [404, ""]))
one_call("an escape that is no UTF-8", api_request("POST", "/api/routes/%ff", T), [400, "The path is not UTF-8"])
one_call("an escaped NUL in a name", api_request("GET", "/api/routes/a%00b"), [404, ""])


# Who may


def allowed(name: str, headers: list[str], expect, method: str = "GET", path: str = "/api/routes/none") -> None:
    @case(f"api: token: {name}", expect, default=False)
    def _(proxy):
        return short(proxy.ask_api(get(path, *headers, method=method, body=T if method == "POST" else "")))


allowed("right", [f"Authorization: token {TOKEN}"], [404, ""])
allowed("two spaces", [f"Authorization: token  {TOKEN}"], [404, ""])
allowed("a tab", [f"Authorization: token\t{TOKEN}"], [403, ""])
allowed("none", [], [403, ""])
allowed("wrong", ["Authorization: token wrong"], [403, ""])
allowed("the begin of it", [f"Authorization: token {TOKEN[:-1]}"], [403, ""])
allowed("more than it", [f"Authorization: token {TOKEN}x"], [403, ""])
allowed("a great letter", [f"Authorization: Token {TOKEN}"], [404, ""])
allowed("as Bearer", [f"Authorization: Bearer {TOKEN}"], [403, ""])
allowed("without its word", [f"Authorization: {TOKEN}"], [403, ""])
allowed("behind something else", [f"Authorization: x token {TOKEN}"], [403, ""])
allowed("and something else", [f"Authorization: token {TOKEN} x"], [403, ""])
allowed("as a query", [], [403, ""], path=f"/api/routes/none?token={TOKEN}")
allowed("none, POST", [], [403, ""], method="POST")
allowed("none, DELETE", [], [403, ""], method="DELETE")


@case("api: token: POST without it changes nothing", False, default=False)
def _(proxy):
    proxy.ask_api(get(f"/api/routes{proxy.prefix}", method="POST", body=T))
    return proxy.prefix in proxy.routes()


@case("api: token: it is looked at before the body", 403, default=False)
def _(proxy):
    with connect(proxy.api_port, patience=proxy.patience) as client:
        client.send(f"POST /api/routes{proxy.prefix} HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n")
        answer = client.answer()
        return answer if isinstance(answer, str) else answer.status


@case("api: a body of 2 MB", 413, default=False)
def _(proxy):
    body = json.dumps({"target": "http://127.0.0.1:1", "x": "y" * 2_000_000})
    answer = proxy.ask_api(api_request("POST", f"/api/routes{proxy.prefix}", body))
    return answer if isinstance(answer, str) else answer.status


@case("api: a body of 500 kB comes back whole", 500_000, default=False)
def _(proxy):
    proxy.route(proxy.prefix, "http://127.0.0.1:1", x="y" * 500_000)
    got = len(json.loads(proxy.api("GET", f"/api/routes{proxy.prefix}")[1])["x"])
    proxy.api("DELETE", f"/api/routes{proxy.prefix}")
    return got


@case("api: calls share a connection", [404, 201, 204, 403, 404], default=False)
def _(proxy):
    path = f"/api/routes{proxy.prefix}"
    calls = [api_request("GET", path), api_request("POST", path, T), api_request("DELETE", path), get(path), api_request("GET", path)]
    with connect(proxy.api_port, patience=proxy.patience) as client:
        answers = []
        for call in calls:
            answer = client.send(call).answer()
            answers.append(answer if isinstance(answer, str) else answer.status)
        return answers
