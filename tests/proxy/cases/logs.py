"""The log: the lines that scripts wait for."""

import re
import signal

from proxies import free_port
from servers import Server, dead
from suite import own
from wire import get


def clean(proxy, line: str) -> str:
    return line.rstrip().replace(str(proxy.port), "PORT").replace(str(proxy.api_port), "API").replace(str(proxy.process.pid), "PID").replace(str(proxy.site.folder), "FOLDER")


def lines(proxy, words: str = "") -> list[str]:
    return [clean(proxy, line) for line in proxy.said() if words in line]


@own("logs: the begin: where it listens", ["info: Proxying http://127.0.0.1:PORT to (no default)", "info: Proxy API at http://127.0.0.1:API/api/routes"])
def _(site):
    return lines(site.start(), "Prox")


@own("logs: the begin: words without the addresses", ["Proxying http:// to (no default)", "Proxy API at http:///api/routes"])
def _(site):
    proxy = site.start()
    return [re.sub(r"//[^ /]*", "//", line).removeprefix("info: ") for line in lines(proxy, "Prox")]


@own("logs: the begin: the default target", ["info: Route added / -> TARGET", "to TARGET"])
def _(site):
    with Server() as server:
        proxy = site.start(default=server.url)
        proxy.waits_to_say("Route added")
        found = [line.replace(server.url, "TARGET") for line in lines(proxy)]
        return [line for line in found if "Route added" in line] + [line[line.index("to TARGET") :] for line in found if "Proxying" in line]


@own("logs: the begin: without a token", True)
def _(site):
    return "warn: REST API is not authenticated." in lines(site.start(token=""))


@own("logs: the begin: the metrics", "info: Serve metrics at http://127.0.0.1:METRICS/metrics")
def _(site):
    port = free_port()
    proxy = site.start("--metrics-ip", "127.0.0.1", "--metrics-port", port)
    return clean(proxy, proxy.waits_to_say("Serve metrics at")).replace(str(port), "METRICS")


@own("logs: the begin: the file with the process id", "info: Writing pid PID to FOLDER/pid")
def _(site):
    proxy = site.start("--pid-file", site.folder / "pid")
    return clean(proxy, proxy.waits_to_say("Writing pid"))


@own("logs: the begin: redirects that are rewritten", ["info: AutoRewrite of Location headers enabled.", "info: Change Origin of host headers enabled.", "info: ProtocolRewrite enabled. Rewriting to https"])
def _(site):
    return lines(site.start("--auto-rewrite", "--change-origin", "--protocol-rewrite", "https"), "nabled")


@own("logs: routes", ["info: Route added /a@b -> http://127.0.0.1:1", "info: 201 POST /api/routes/a%40b", "info: Removing route /a@b", "info: 204 DELETE /api/routes/a%40b", "warn: 404 DELETE /api/routes/a%40b", "info: 200 GET /api/routes", "warn: 403 GET /api/routes"])
def _(site):
    proxy = site.start()
    proxy.api("POST", "/api/routes/a%40b?x=secret", '{"target": "http://127.0.0.1:1"}')
    proxy.api("DELETE", "/api/routes/a%40b")
    proxy.api("DELETE", "/api/routes/a%40b")
    proxy.api("GET", "/api/routes?x=secret")
    proxy.api("GET", "/api/routes", headers={})
    proxy.waits_to_say("403 GET")
    return [line for line in lines(proxy) if re.match(r"\w+: (\d{3} |Route |Removing )", line)]


@own("logs: an added route", ["info: Adding route /x -> http://127.0.0.1:1", "info: Route added /x -> http://127.0.0.1:1"])
def _(site):
    proxy = site.start()
    proxy.route("/x", "http://127.0.0.1:1")
    proxy.waits_to_say("201 POST")
    return lines(proxy, "/x -> ")


@own("logs: bad calls of the API", ["warn: 405 PUT /api/routes/x Method not supported", "warn: 400 POST /api/routes/x Must specify 'target' as string", "warn: 404 GET /nothing"])
def _(site):
    proxy = site.start()
    proxy.api("PUT", "/api/routes/x", "{}")
    proxy.api("POST", "/api/routes/x", "{}")
    proxy.api("GET", "/nothing")
    proxy.waits_to_say("404 GET")
    return [line.removesuffix(" Not Found") for line in lines(proxy)[2:] if re.match(r"\w+: \d", line)]


@own("logs: failed requests name no query", ["404 GET /nothing", "503 GET /dead"])
def _(site):
    url = dead()
    proxy = site.start()
    proxy.route("/dead", url)
    proxy.ask(get("/nothing?token=secret"))
    proxy.ask(get("/dead?token=secret"))
    proxy.waits_to_say("503 GET")
    if "secret" in proxy.log():
        return "the query is in the log"
    return [" ".join(line.split(" ")[1:4]) for line in lines(proxy) if re.match(r"\w+: \d+ GET /(nothing|dead)", line)]


@own("logs: --log-level", {"debug": ["debug", "error", "info"], "info": ["error", "info"], "warn": ["error"], "error": ["error"], "ERROR": ["error"]})
def _(site):
    found = {}
    for level in ("debug", "info", "warn", "error", "ERROR"):
        with Server() as server:
            proxy = site.start("--log-level", level, ready=False, default=server.url)
            proxy.wait_ready("")
            proxy.ask(get("/x"))
            url = dead()
            proxy.api("POST", "/api/routes/dead", f'{{"target": "{url}"}}')
            proxy.ask(get("/dead"))
            proxy.waits_to_say("503 GET")
            found[level] = sorted({line.split(":")[0] for line in lines(proxy) if re.match(r"\w+: ", line)})
    return found


@own("logs: debug: each request and its target", "debug: PROXY WEB /x to TARGET")
def _(site):
    with Server() as server:
        proxy = site.start("--log-level", "debug", default=server.url)
        proxy.ask(get("/x?token=secret"))
        return clean(proxy, proxy.waits_to_say("PROXY WEB")).replace(server.url, "TARGET")


@own("logs: the form of a line", True)
def _(site):
    line = next(line for line in site.start().log().splitlines() if "Proxying" in line)
    return bool(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z \[ConfigProxy\] (\x1b\[\d+m)?info(\x1b\[39m)?: Proxying .*", line))


@own("logs: no colours in a file", False)
def _(site):
    return "\x1b" in site.start().log()


@own("logs: the end", ["warn: Terminated", "warn: Interrupted"])
def _(site):
    found = []
    for number in (signal.SIGTERM, signal.SIGINT):
        proxy = site.start()
        proxy.signal(number)
        proxy.ended()
        found += [line for line in lines(proxy)[2:] if line.startswith("warn")]
    return found


@own("logs: tokens are not in them", False)
def _(site):
    proxy = site.start("--log-level", "debug")
    proxy.routes()
    proxy.api("GET", "/api/routes", headers={"Authorization": "token almost-the-right-one"})
    proxy.waits_to_say("403")
    return proxy.token in proxy.log() or "almost-the-right-one" in proxy.log()
