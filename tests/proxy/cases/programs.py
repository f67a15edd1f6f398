"""The program: its command line, where it listens, how it begins and ends."""

import re
import signal
import socket
import subprocess
from pathlib import Path

from harness.hub import environment
from harness.steps import wait_until
from proxies import OURS, command, free_port, listens, original_options
from servers import Server
from suite import OneOf, own
from wire import connect, get


def output(site, *arguments: str, program: list[str] | None = None) -> subprocess.CompletedProcess:
    words = [str(word) for word in [*(program or command(site.kind)), *arguments]]
    return subprocess.run(words, env=environment(), cwd=site.folder, capture_output=True, text=True, timeout=30)


# The command line


@own("programs: --help names each flag of the original", [])
def _(site):
    theirs = original_options()
    ours = set(re.findall(r"--[a-z0-9-]+", output(site, "--help").stdout))
    assert len(theirs) > 45, f"the original's flags: {theirs}"
    return sorted(set(theirs) - ours)


@own("programs: --help ends well", [0, True])
def _(site):
    done = output(site, "--help")
    return [done.returncode, "--default-target" in done.stdout]


@own("programs: -V and --version", [0, 0, True])
def _(site):
    short, long = output(site, "-V"), output(site, "--version")
    return [short.returncode, long.returncode, bool(re.search(r"\d+\.\d+\.\d+\s*$", long.stdout)) and short.stdout == long.stdout]


def refused(name: str, *arguments: str, files: dict[str, str] | None = None) -> None:
    """Started like this the program ends at once, with a failure and a word about it."""

    @own(f"programs: refused: {name}", [True, True])
    def _(site):
        for file, text in (files or {}).items():
            (site.folder / file).write_text(text)
        port = free_port()
        listen = [] if "--socket" in arguments else ["--port", port]
        proxy = site.start("--ip", "127.0.0.1", *listen, *arguments, listen=False, ready=False) if "--socket" not in arguments else site.start(*arguments, listen=False, ready=False)
        code = proxy.ended(site.patience)
        return code if code == "runs on" else [code != 0, bool(proxy.log().strip())]


refused("a flag that is none", "--no-such-flag")
refused("a flag without its value", "--default-target")
refused("a custom header without a colon", "--custom-header", "nocolon")
refused("a custom header without a name", "--custom-header", ":value")
refused("an error target and an error path", "--error-target", "http://127.0.0.1:1", "--error-path", ".")
refused("a redirect without certificates", "--redirect-port", "8080")
refused("--socket with --port", "--socket", "s", "--port", "8000")
refused("--socket with --ip", "--socket", "s", "--ip", "127.0.0.1")
refused("a storage backend that is not there", "--storage-backend", "no-such-storage")
refused("a key that is not there", "--ssl-key", "none", "--ssl-cert", "none")
refused("a key that is none", "--ssl-key", "k", "--ssl-cert", "k", files={"k": "nonsense"})
refused("an authority that is not there", "--client-ssl-ca", "none")
refused("a TLS version that is none", "--ssl-key", "k", "--ssl-cert", "k", "--ssl-protocol", "TLSv9", files={"k": "nonsense"})
refused("a default target that is no URL", "--default-target", "nonsense")
refused("an error target that is no URL", "--error-target", "nonsense")


@own("programs: options may be written with =", 200)
def _(site):
    port, api = free_port(), free_port()
    with Server() as server:
        proxy = site.start("--ip=127.0.0.1", f"--port={port}", "--api-ip=127.0.0.1", f"--api-port={api}", f"--default-target={server.url}", listen=False, ready=False)
        proxy.port = proxy.place = port
        proxy.api_port = proxy.api_place = api
        proxy.wait_ready()
        return proxy.ask(get("/x")).status


@own("programs: through a link with its name", {"status": 200, "log": True})
def _(site):
    link = site.folder / "configurable-http-proxy"
    program = command(site.kind)[0]
    link.symlink_to(program)
    # Node's program looks for its modules beside the file that the link leads to.
    with Server() as server:
        proxy = site.start(program=[str(link)], default=server.url)
        return {"status": proxy.ask(get("/x")).status, "log": "Proxying http://" in proxy.log()}


# Addresses


@own("programs: the API is at the next port", True)
def _(site):
    port = free_port()
    proxy = site.start("--ip", "127.0.0.1", "--port", port, listen=False, ready=False)
    wait_until(lambda: proxy.process.poll() is not None or listens(port + 1), "the API")
    return proxy.process.poll() is None


for _ip in ("", "*", "0.0.0.0", "::"):

    @own(f"programs: --ip {_ip or 'of nothing'!s} is all interfaces", {"v4": True, "v6": _ip != "0.0.0.0"})
    def _(site, ip=_ip):
        port = free_port()
        proxy = site.start("--ip", ip, "--port", port, "--api-ip", "127.0.0.1", "--api-port", free_port(), listen=False, ready=False)
        wait_until(lambda: proxy.process.poll() is not None or listens(port), "the listener")
        with socket.socket(socket.AF_INET6) as probe:
            return {"v4": listens(port), "v6": probe.connect_ex(("::1", port)) == 0}


@own("programs: --ip ::1 is that alone", {"v4": False, "v6": True, "for": "::1"})
def _(site):
    port = free_port()
    with Server() as server:
        proxy = site.start("--ip", "::1", "--port", port, "--api-ip", "127.0.0.1", "--api-port", free_port(), listen=False, ready=False, default=server.url)
        wait_until(lambda: listens6(port), "the listener")
        with socket.create_connection(("::1", port), timeout=10) as client:
            client.sendall(get("/x", "Connection: close").encode())
            while client.recv(65536):
                pass
        assert proxy.process.poll() is None
        return {"v4": listens(port), "v6": listens6(port), "for": server.requests[0].get("x-forwarded-for")}


def listens6(port: int) -> bool:
    with socket.socket(socket.AF_INET6) as probe:
        return probe.connect_ex(("::1", port)) == 0


@own("programs: a client of IPv4 on all interfaces", OneOf("127.0.0.1", "::ffff:127.0.0.1"))
def _(site):
    port = free_port()
    with Server() as server:
        proxy = site.start("--ip", "", "--port", port, "--api-ip", "127.0.0.1", "--api-port", free_port(), listen=False, ready=False, default=server.url)
        proxy.place = port
        wait_until(lambda: listens(port), "the listener")
        proxy.ask(get("/x"))
        return server.requests[0].get("x-forwarded-for")


# Unix sockets


def on_sockets(site, server, **options):
    proxy = site.start("--socket", "s", "--api-socket", "a", listen=False, ready=False, default=server.url, **options)
    proxy.place, proxy.api_place = site.folder / "s", site.folder / "a"
    proxy.wait_ready()
    return proxy


@own("programs: --socket and --api-socket", {"status": 200, "routes": 200, "log": True})
def _(site):
    with Server() as server:
        proxy = on_sockets(site, server)
        return {
            "status": proxy.ask(get("/x")).status,
            "routes": proxy.ask_api(get("/api/routes", proxy.token_header())).status,
            "log": "Proxying http://s to http" in proxy.log() and "Proxy API at http://a/api/routes" in proxy.log(),
        }


@own("programs: --api-socket and --metrics-socket are stronger than ports", {"api": 200, "metrics": 200, "ports": [False, False]})
def _(site):
    port, api, metrics = free_port(), free_port(), free_port()
    proxy = site.start(
        *["--ip", "127.0.0.1", "--port", port, "--api-ip", "127.0.0.1", "--api-port", api, "--api-socket", "a"],
        *["--metrics-port", metrics, "--metrics-socket", "m"],
        listen=False,
        ready=False,
    )
    proxy.place, proxy.api_place = port, site.folder / "a"
    proxy.wait_ready()
    with connect(site.folder / "m") as client:
        status = client.send(get("/metrics")).answer().status
    return {"api": proxy.ask_api(get("/api/routes", proxy.token_header())).status, "metrics": status, "ports": [listens(api), listens(metrics)]}


@own("programs: --socket alone has its API at 8001, or says why not", True)
def _(site):
    proxy = site.start("--socket", "s", listen=False, ready=False)
    words = ":8001" if site.kind == OURS else "8001:localhost"
    return words in wait_until(lambda: proxy.log() if "8001" in proxy.log() else "", "the API's port in the log")


@own("programs: --socket: whose request it is", {"host": "example.org:8000", "port": "8000", "proto": "http"})
def _(site):
    with Server() as server:
        seen = on_sockets(site, server).seen(get("/x"))
        return {name.lower().removeprefix("x-forwarded-"): value for name, value in seen["headers"] if name.lower().startswith("x-forwarded-") and name.lower() != "x-forwarded-for"}


@own("programs: --socket: sockets go with the program", {"s": False, "a": False})
def _(site):
    with Server() as server:
        proxy = on_sockets(site, server)
        proxy.signal(signal.SIGTERM)
        proxy.ended()
        return {name: (site.folder / name).exists() for name in "sa"}


@own("programs: --socket: one left by a killed program is replaced", 200)
def _(site):
    for name in "sa":
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(site.folder / name))
    with Server() as server:
        proxy = site.start("--socket", "s", "--api-socket", "a", listen=False, ready=False, default=server.url)
        proxy.place = site.folder / "s"
        try:
            wait_until(lambda: proxy.process.poll() is not None or listens(proxy.place), "the listener", site.patience)
        except AssertionError:
            return "no answer"
        answer = proxy.ask(get("/x")) if proxy.process.poll() is None else "ended"
        return answer if isinstance(answer, str) else answer.status


@own("programs: --socket: one in use is not taken", "first")
def _(site):
    with Server(lambda visit: visit.request() and visit.reply("first", "Connection: close")) as first, Server() as second:
        proxy = on_sockets(site, first)
        other = site.start("--socket", "s", "--api-socket", "b", listen=False, ready=False, default=second.url)
        wait_until(lambda: other.process.poll() is not None or "EADDRINUSE" in other.log(), "the end of the second")
        return proxy.ask(get("/x")).text()


# Places that are taken


def taken(name: str, *options) -> None:
    @own(f"programs: a taken place: {name}", [True, True])
    def _(site):
        with socket.socket() as holder:
            holder.bind(("127.0.0.1", 0))
            holder.listen()
            port = holder.getsockname()[1]
            words = [port if word == "TAKEN" else free_port() if word == "FREE" else word for word in options]
            proxy = site.start("--ip", "127.0.0.1", "--api-ip", "127.0.0.1", *words, listen=False, ready=False)
            code = proxy.ended(site.patience)
            return [isinstance(code, int) and code != 0, str(port) in proxy.log()] if code != "runs on" else code


taken("the users' port", "--port", "TAKEN", "--api-port", "FREE")
taken("the API's port", "--port", "FREE", "--api-port", "TAKEN")
taken("the metrics' port", "--port", "FREE", "--api-port", "FREE", "--metrics-ip", "127.0.0.1", "--metrics-port", "TAKEN")
taken("an address of another machine", "--port", "FREE", "--api-port", "FREE", "--metrics-ip", "192.0.2.1", "--metrics-port", "TAKEN")


# The end


for _signal, _code in ((signal.SIGTERM, 0), (signal.SIGINT, 0)):

    @own(f"programs: {_signal.name} ends it", [_code, False])
    def _(site, number=_signal):
        proxy = site.start("--pid-file", "pid")
        proxy.waits_to_say("Writing pid")
        wait_until(lambda: (site.folder / "pid").exists(), "the file")
        proxy.signal(number)
        return [proxy.ended(), (site.folder / "pid").exists()]


@own("programs: --pid-file holds the process id", True)
def _(site):
    proxy = site.start("--pid-file", "pid")
    text = wait_until(lambda: (site.folder / "pid").exists() and (site.folder / "pid").read_text(), "the file")
    return text.strip() == str(proxy.process.pid)


@own("programs: --pid-file replaces one that was left", True)
def _(site):
    (site.folder / "pid").write_text("99999999")
    proxy = site.start("--pid-file", "pid")
    return bool(wait_until(lambda: (site.folder / "pid").read_text().strip() == str(proxy.process.pid), "the new text"))


@own("programs: SIGTERM lets a running answer end", "hello")
def _(site):
    import threading

    release = threading.Event()

    def script(visit):
        visit.request()
        visit.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel")
        release.wait(10)
        visit.send("lo")

    with Server(script) as server:
        proxy = site.start(default=server.url)
        with proxy.connect() as client:
            client.send(get("/x")).until(b"hel")
            proxy.signal(signal.SIGTERM)
            wait_until(lambda: "Terminated" in proxy.log() or not listens(proxy.port), "the end's begin")
            release.set()
            return "hel" + client.rest()[0].decode()


@own("programs: SIGHUP does not end it", True)
def _(site):
    proxy = site.start()
    proxy.signal(signal.SIGHUP)
    return proxy.ended(1.5) == "runs on" and bool(proxy.routes() == {})


@own("programs: CONFIGPROXY_AUTH_TOKEN unset: the API is open", [200, 201])
def _(site):
    proxy = site.start(token="")
    return [proxy.api("GET", "/api/routes", headers={})[0], proxy.api("POST", "/api/routes/x", '{"target": "http://127.0.0.1:1"}', headers={})[0]]


@own("programs: the token is not in the command line", False)
def _(site):
    proxy = site.start()
    return proxy.token.encode() in Path(f"/proc/{proxy.process.pid}/cmdline").read_bytes()


@own("programs: its one storage without options forgets", {})
def _(site):
    first = site.start()
    first.route("/x", "http://127.0.0.1:1")
    first.signal(signal.SIGTERM)
    first.ended()
    return site.start().routes()


# Host routing

HOSTS = ["--host-routing"]


def hosts(name: str, routes: list[str], asked: dict[tuple[str, str], str]) -> None:
    @own(f"programs: --host-routing: {name}", [[host, path, answer] for (host, path), answer in asked.items()])
    def _(site):
        servers = {route: Server(lambda visit, route=route: [visit.reply(route) for _ in iter(visit.request, None)]) for route in routes}
        proxy = site.start(*HOSTS)
        try:
            for route, server in servers.items():
                server.__enter__()
                proxy.route(route, server)
            found = []
            for host, path in asked:
                answer = proxy.ask(get(path, host=host) if host else f"GET {path} HTTP/1.0\r\n\r\n")
                found.append([host, path, answer if isinstance(answer, str) else answer.text() if answer.status == 200 else answer.status])
            return found
        finally:
            for server in servers.values():
                server.__exit__()


hosts(
    "the host is the first segment",
    ["/", "/a.example", "/a.example/x", "/b.example"],
    {
        ("a.example", "/"): "/a.example",
        ("a.example:8000", "/y"): "/a.example",
        ("a.example", "/x/y"): "/a.example/x",
        ("b.example", "/x"): "/b.example",
        ("c.example", "/x"): "/",
        ("sub.a.example", "/"): "/",
    },
)
hosts("hosts have no case", ["/", "/a.example"], {("A.Example", "/x"): "/a.example", ("a.EXAMPLE:8000", "/x"): "/a.example"})
hosts("routes of hosts have no case", ["/", "/A.Example"], {("a.example", "/x"): "/A.Example"})
hosts("a path is no host", ["/", "/a.example"], {("c.example", "/a.example/x"): "/"})
hosts("a request without a host", ["/", "/a.example"], {("", "/x"): "/"})
hosts("no route at all", ["/a.example"], {("c.example", "/x"): 404})


@own("programs: --host-routing: the route says its host", ["a.example", None])
def _(site):
    proxy = site.start(*HOSTS)
    proxy.route("/a.example/x", "http://127.0.0.1:1")
    proxy.route("/", "http://127.0.0.1:1")
    routes = proxy.routes()
    return [routes["/a.example/x"].get("host"), routes["/"].get("host")]


@own("programs: --host-routing: the server sees the path alone", "GET /x?y HTTP/1.1")
def _(site):
    with Server() as server:
        proxy = site.start(*HOSTS)
        proxy.route("/a.example", server)
        return proxy.seen(get("/x?y", host="a.example")).get("line")


# Targets


def targeted(name: str, expect, **options) -> None:
    @own(f"programs: targets: {name}", expect)
    def _(site):
        settings = {key: value(site) if callable(value) else value for key, value in options.items() if key != "url"}
        with Server(**settings) as server:
            proxy = site.start()
            proxy.route("/r", options.get("url", lambda url: url)(server.url))
            seen = proxy.seen(get("/r/x?y"))
            return [seen.get("line") or seen, next((value for key, value in seen.get("headers", []) if key.lower() == "host"), None)]


targeted("a unix socket", ["GET /r/x?y HTTP/1.1", "example.org:8000"], unix=lambda site: site.folder / "u")
targeted("a unix socket with a path", ["GET /base/r/x?y HTTP/1.1", "example.org:8000"], unix=lambda site: site.folder / "u", url=lambda url: url + "/base")
targeted("a unix socket by its other name", ["GET /r/x?y HTTP/1.1", "example.org:8000"], unix=lambda site: site.folder / "u", url=lambda url: url.replace("http+unix", "unix+http"))
targeted("IPv6", ["GET /r/x?y HTTP/1.1", "example.org:8000"], family=socket.AF_INET6, host="::1")
targeted("a name", ["GET /r/x?y HTTP/1.1", "example.org:8000"], url=lambda url: url.replace("127.0.0.1", "localhost"))
targeted("great letters", ["GET /r/x?y HTTP/1.1", "example.org:8000"], url=lambda url: url.replace("http://127.0.0.1", "HTTP://LOCALHOST"))


@own("programs: targets: a websocket on a unix socket", 101)
def _(site):
    from cases.upgrades import ASKING, mirror

    with Server(mirror, unix=site.folder / "u") as server:
        proxy = site.start()
        proxy.route("/r", server)
        answer = proxy.ask(get("/r", *ASKING))
        return answer if isinstance(answer, str) else answer.status


@own("programs: targets: a unix socket that is not there", 503)
def _(site):
    proxy = site.start()
    proxy.route("/r", f"http+unix://{str(site.folder / 'none').replace('/', '%2F')}")
    return proxy.ask(get("/r")).status
