"""What of a path reaches the server, and which server."""

from servers import Server
from suite import OneOf, case
from wire import get

# The target of the request line, which reaches the server as it is.
AS_THEY_ARE = {
    "the root": "/",
    "a query": "/x?a=1&b=%20c&&d",
    "a lone question mark": "/x?",
    "two question marks": "/x??a=?",
    "a URL in the query": "/x?next=http://other.example/a//b/../c",
    "a slash at the end": "/x/",
    "an inner double slash": "/a//b",
    "two slashes at the begin": "//host/path",
    "three slashes": "///",
    "dot segments": "/x/../y/./z",
    "escaped dot segments": "/x/%2e%2E/y",
    "dots above the root": "/../../etc/passwd",
    "a backslash": "/a\\b",
    "a quote": "/a'b",
    "a quote in the query": "/a?b='c'",
    "other characters that URLs must escape": '/a"b<c>d^e`f{g|h}',
    "the same in a query": '/a?"b<c>d^e`f{g|h}',
    "an escaped slash": "/x%2Fy",
    "small letters in an escape": "/%c3%a9%C3%A9",
    "needless escapes": "/%61%7e~",
    "an escaped percent sign": "/%2525",
    "an escape that is no UTF-8": "/%ff%fe",
    "a malformed escape": "/100%",
    "a malformed escape in the query": "/x?100%zz",
    "an escaped NUL": "/a%00b",
    "an escaped end of line": "/a%0d%0aX-Injected:%201",
    "an escaped question mark": "/a%3Fb?c",
    "an escaped number sign": "/x%23y",
    "parameters of a segment": "/a;b=c/d,e",
    "a plus sign": "/a+b?c+d",
    "the name of a property of each object": "/constructor",
    "another such name": "/__proto__/x",
    "a colon in the first segment": "/http://x/y",
    "a path of 4,000 bytes": "/" + "a" * 3999,
    "a query of 7,000 bytes": "/x?" + "a=b&" * 1750,
}
for _name, _target in AS_THEY_ARE.items():

    def _one(proxy, target=_target):
        return proxy.seen(get(target)).get("line") or proxy.seen(get(target))

    case(f"paths: {_name}", f"GET {_target} HTTP/1.1")(_one)


@case("paths: bytes that are not ASCII", ["GET /caf\u00c3\u00a9?\u00c3\u00a9 HTTP/1.1"])
def _(proxy):
    seen = proxy.seen("GET /café?é HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return [seen.get("line") or seen]


@case("paths: an absolute URL counts, its host too", {"line": "GET /x?y HTTP/1.1", "host": ["other.example"]})
def _(proxy):
    seen = proxy.seen(get("http://other.example/x?y"))
    return {"line": seen.get("line"), "host": [value for name, value in seen.get("headers", []) if name.lower() == "host"]}


@case("paths: OPTIONS of a star", OneOf("OPTIONS * HTTP/1.1", {"answer": 400}))
def _(proxy):
    seen = proxy.seen(get("*", method="OPTIONS"))
    return seen.get("line") or seen


# Which of the routes takes a path. Routes of the case lie below its prefix.
def route_of(proxy, routes: list[str], paths: list[str]) -> dict:
    servers = {route: Server(lambda visit, route=route: [visit.reply(route) for _ in iter(visit.request, None)]) for route in routes}
    try:
        for route, server in servers.items():
            server.__enter__()
            proxy.route(proxy.prefix + route, server)
        answers = {path: proxy.ask(get(path.replace("^", proxy.prefix, 1))) for path in paths}
        return {path: answer if isinstance(answer, str) else answer.text() if answer.status == 200 and len(answer.body) < 100 else answer.status if answer.status != 200 else "default" for path, answer in answers.items()}
    finally:
        for server in servers.values():
            server.__exit__()


def routing(name: str, routes: list[str], expect: dict, **options) -> None:
    case(f"paths: routes: {name}", expect, **options)(lambda proxy: route_of(proxy, routes, list(expect)))


routing(
    "the longest prefix of whole segments",
    ["", "/a", "/a/b"],
    {"^": "", "^/": "", "^/a": "/a", "^/a/": "/a", "^/a?x": "/a", "^/ab": "", "^/a/b/c": "/a/b", "^/a/bc": "/a", "^/c": ""},
)
routing("paths of no route go to the default", ["/a"], {"/nowhere": "default", "^/b": "default"})
routing("an escaped name is the same name", ["/a@b", "/%C3%A9"], {"^/a%40b/x": "/a@b", "^/a@b/x": "/a@b", "^/%61@b": "/a@b", "^/%c3%a9/": "/%C3%A9"})
routing("an escape is undone once", ["/a%2540b"], {"^/a%2540b": "/a%2540b", "^/a%40b": "default"})
routing("an escaped slash parts segments", ["/a/b"], {"^/a%2Fb/c": "/a/b", "^%2Fa/b": "/a/b"})
routing("dot segments are resolved before the choice", ["/a", "/b"], {"^/a/../b/x": "/b", "^/a/./x": "/a", "^/b/%2e%2e/a": "/a"})
routing("names have case", ["/Ada"], {"^/Ada": "/Ada", "^/ada": "default"})
routing("names of properties of objects", ["/toString"], {"^/toString/x": "/toString", "^/valueOf": "default", "^/__proto__": "default"})
routing("a slash at the end of a route does not count", ["/a/"], {"^/a": "/a/", "^/a/x": "/a/"})


@case("paths: routes: two slashes at the begin are no host", "default")
def _(proxy):
    # In a URL `//host` would be a host; a request line has none there.
    return route_of(proxy, [""], ["//elsewhere^"])["//elsewhere^"]


# Targets with a path.
def prefixed(name: str, route: str, target: str, expect: dict[str, str], *options: str) -> None:
    def run(proxy):
        with Server() as server:
            proxy.route(proxy.prefix + route, server.url + target)
            seen = {path: proxy.seen(get(proxy.prefix + path)) for path in expect}
        return {path: one["line"].removeprefix("GET ").removesuffix(" HTTP/1.1").replace(proxy.prefix, "^") if "line" in one else one for path, one in seen.items()}

    case(f"paths: targets: {name}", expect, options=options)(run)


prefixed("a path goes before", "/r", "/base", {"/r": "/base^/r", "/r/x?y=1": "/base^/r/x?y=1", "/r/": "/base^/r/"})
prefixed("a path with a slash at the end", "/r", "/base/", {"/r/x": "/base^/r/x"})
prefixed("a query goes before", "/r", "/base?k=v", {"/r/x?y=1": "/base^/r/x?k=v&y=1", "/r/x": "/base^/r/x?k=v"})
prefixed("--no-prepend-path", "/r", "/base?k=v", {"/r/x?y=1": "^/r/x?y=1"}, "--no-prepend-path")
prefixed("--no-include-prefix", "/r", "", {"/r": "/", "/r/": "/", "/r/x?y=1": "/x?y=1", "/r?y=1": "/?y=1", "/r/x/../y": "/y"}, "--no-include-prefix")
prefixed("--no-include-prefix and a path", "/r", "/base", {"/r": "/base", "/r/x?y=1": "/base/x?y=1"}, "--no-include-prefix")
prefixed("both", "/r", "/base", {"/r/x?y=1": "/x?y=1"}, "--no-include-prefix", "--no-prepend-path")
prefixed("--no-include-prefix and an escaped name", "/a@b", "", {"/a%40b/x": "/x", "/a@b/x": "/x"}, "--no-include-prefix")
prefixed("--no-include-prefix and another escape behind", "/r", "", {"/r/%40%2F": "/%40%2F"}, "--no-include-prefix")
