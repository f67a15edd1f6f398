"""TLS on each of the proxy's sides. tests/tls has the story of a whole site."""

import json
import signal
import socket
import ssl

from harness.certificates import client
from harness.steps import wait_until
from proxies import free_port, listens
from servers import Server
from suite import own
from wire import connect, get


def public(site, *, passphrase: bytes | None = None) -> list:
    pair = site.pair("site", "locked" if passphrase else "proxy", passphrase=passphrase)
    return ["--ssl-key", pair.key, "--ssl-cert", pair.certificate]


def anyone(site) -> ssl.SSLContext:
    return client(site.authority("site").file)


def someone(site, authority: str = "people", name: str = "ada") -> ssl.SSLContext:
    return client(site.authority("site").file, site.pair(authority, name, [name]))


def over_tls(site, server, *options, **settings):
    proxy = site.start(*public(site), *options, default=server.url, **settings)
    proxy.tls = anyone(site)
    return proxy


def status(proxy, context=None, path: str = "/x"):
    proxy.tls = context
    answer = proxy.ask(get(path))
    return answer if isinstance(answer, str) else answer.status


#: How plain HTTP may end where TLS is spoken; an alert of TLS is no HTTP.
NOT_SERVED = ("closed", "closed in a head", "no HTTP", 400)

# To users


@own("tls: users: --ssl-key and --ssl-cert", {"status": 200, "plain": "closed", "log": True})
def _(site):
    with Server() as server:
        proxy = over_tls(site, server)
        found = {"status": status(proxy, anyone(site)), "log": "Proxying https://" in proxy.log()}
        plain = status(proxy, None)
        return found | {"plain": "closed" if plain in NOT_SERVED else plain}


@own("tls: users: servers are told", {"proto": "https", "port": "8000", "host": "example.org:8000"})
def _(site):
    with Server() as server:
        seen = over_tls(site, server).seen(get("/x"))
        return {name.lower()[12:]: value for name, value in seen["headers"] if name.lower() in ("x-forwarded-proto", "x-forwarded-port", "x-forwarded-host")}


@own("tls: users: servers are told: no port in Host", {"proto": "https", "port": "443"})
def _(site):
    with Server() as server:
        seen = over_tls(site, server).seen(get("/x", host="example.org"))
        return {name.lower()[12:]: value for name, value in seen["headers"] if name.lower() in ("x-forwarded-proto", "x-forwarded-port")}


@own("tls: users: servers are told: a websocket", "wss")
def _(site):
    with Server() as server:
        seen = over_tls(site, server).seen(get("/x", "Connection: Upgrade", "Upgrade: websocket"))
        return dict((name.lower(), value) for name, value in seen["headers"]).get("x-forwarded-proto")


@own("tls: users: a websocket", True)
def _(site):
    from cases.upgrades import ASKING, mirror

    with Server(mirror) as server, over_tls(site, server).connect() as stream:
        stream.send(get("/x", *ASKING)).head()
        return stream.send(b"abc" * 100).exactly(300) == b"abc" * 100


@own("tls: users: --ssl-request-cert with --ssl-ca", {"with": 200, "without": "closed", "another's": "closed"})
def _(site):
    return asked(site, "--ssl-request-cert")


@own("tls: users: --ssl-reject-unauthorized as well", {"with": 200, "without": "closed", "another's": "closed"})
def _(site):
    return asked(site, "--ssl-request-cert", "--ssl-reject-unauthorized")


@own("tls: users: --ssl-reject-unauthorized alone", {"with": 200, "without": 200, "another's": 200})
def _(site):
    return asked(site, "--ssl-reject-unauthorized")


def asked(site, *options) -> dict:
    with Server() as server:
        proxy = over_tls(site, server, "--ssl-ca", site.authority("people").file, *options)
        return {"with": status(proxy, someone(site)), "without": status(proxy, anyone(site)), "another's": status(proxy, someone(site, "strangers", "mallory"))}


def spoken(site, proxy, context: ssl.SSLContext):
    try:
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as plain, context.wrap_socket(plain, server_hostname="localhost") as stream:
            return [stream.version(), stream.cipher()[0]]
    except OSError:
        return "closed"


SUITE = "ECDHE-RSA-AES256-GCM-SHA384"


@own("tls: users: --ssl-protocol", ["TLSv1.2", "TLSv1.3"])
def _(site):
    with Server() as server:
        return [spoken(site, over_tls(site, server, "--ssl-protocol", name), anyone(site))[0] for name in ("TLSv1_2", "TLS")]


@own("tls: users: --ssl-ciphers", [["TLSv1.2", SUITE], "closed"])
def _(site):
    with Server() as server:
        proxy = over_tls(site, server, "--ssl-ciphers", SUITE)
        context = anyone(site)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        first = spoken(site, proxy, context)
        context.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")
        return [first, spoken(site, proxy, context)]


@own("tls: users: by default old versions and weak suites are not spoken", ["closed", "closed", "TLSv1.3"])
def _(site):
    with Server() as server:
        proxy = over_tls(site, server)
        old = anyone(site)
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        old.set_ciphers("ALL:@SECLEVEL=0")
        weak = anyone(site)
        weak.maximum_version = ssl.TLSVersion.TLSv1_2
        weak.set_ciphers("AES128-SHA:@SECLEVEL=0")
        return [spoken(site, proxy, old), spoken(site, proxy, weak), spoken(site, proxy, anyone(site))[0]]


@own("tls: users: --ssl-allow-rc4 and --ssl-dhparam are taken", 200)
def _(site):
    from cases.dh import PARAMETERS

    file = site.folder / "dh.pem"
    file.write_text(PARAMETERS)
    with Server() as server:
        return status(over_tls(site, server, "--ssl-allow-rc4", "--ssl-dhparam", file), anyone(site))


@own("tls: users: an encrypted key, and CONFIGPROXY_SSL_KEY_PASSPHRASE", 200)
def _(site):
    with Server() as server:
        proxy = site.start(*public(site, passphrase=b"open sesame"), default=server.url, variables={"CONFIGPROXY_SSL_KEY_PASSPHRASE": "open sesame"}, ready=False)
        return ends_or(site, proxy, lambda: status(proxy, anyone(site)))


@own("tls: users: an encrypted key, and a wrong passphrase", "refused")
def _(site):
    proxy = site.start(*public(site, passphrase=b"open sesame"), variables={"CONFIGPROXY_SSL_KEY_PASSPHRASE": "wrong"}, ready=False)
    found = ends_or(site, proxy, lambda: "runs")
    return "the passphrase is in the log" if "wrong\n" in proxy.log() else found


def ends_or(site, proxy, otherwise):
    wait_until(lambda: proxy.process.poll() is not None or "Proxy API at" in proxy.log(), "the start")
    if proxy.process.poll() is not None:
        return "refused" if proxy.process.returncode else "ended"
    proxy.wait_ready()
    return otherwise()


@own("tls: users: HTTP/2 is offered", "h2")
def _(site):
    with Server() as server:
        proxy = over_tls(site, server)
        context = anyone(site)
        context.set_alpn_protocols(["h2", "http/1.1"])
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as plain, context.wrap_socket(plain, server_hostname="localhost") as stream:
            return stream.selected_alpn_protocol()


@own("tls: users: HTTP/1.1 for those who want it", ["http/1.1", None])
def _(site):
    with Server() as server:
        proxy = over_tls(site, server)
        found = []
        for names in (["http/1.1"], []):
            context = anyone(site)
            if names:
                context.set_alpn_protocols(names)
            with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as plain, context.wrap_socket(plain, server_hostname="localhost") as stream:
                found.append(stream.selected_alpn_protocol())
        return found


@own("tls: users: SIGHUP takes up a new certificate", True)
def _(site):
    from harness.certificates import Authority

    folder = site.folder / "own"
    folder.mkdir()
    authority = Authority(folder, "own")
    pair = authority.sign("renewed", ["localhost"])
    proxy = site.start("--ssl-key", pair.key, "--ssl-cert", pair.certificate)

    def shown():
        return ssl.get_server_certificate(("127.0.0.1", proxy.port), timeout=10)

    first = shown()
    authority.sign("renewed", ["localhost"])
    proxy.signal(signal.SIGHUP)
    try:
        return wait_until(lambda: shown() != first, "the new certificate", 5)
    except OSError:
        return "ended"


# From plain HTTP to HTTPS


def redirecting(name: str, expect, request: str, *options) -> None:
    @own(f"tls: --redirect-port: {name}", expect)
    def _(site):
        port = free_port()
        proxy = site.start(*public(site), "--redirect-port", port, *options)
        line = proxy.waits_to_say("Added HTTP to HTTPS redirection")
        wait_until(lambda: listens(port), "the port that redirects")
        with connect(port, patience=site.patience) as stream:
            answer = stream.send(request).answer()
        to = options[1] if options else str(proxy.port)
        return {
            "status": answer.status,
            "location": (answer.get("location") or "none").replace(str(proxy.port), "PORT"),
            "log": line == f"info: Added HTTP to HTTPS redirection from {port} to {to}",
        }


redirecting("to the users' port", {"status": 301, "location": "https://example.org:PORT/hub?a=b", "log": True}, get("/hub?a=b"))
redirecting("--redirect-to", {"status": 301, "location": "https://example.org:8443/x", "log": True}, get("/x", host="example.org"), "--redirect-to", "8443")
redirecting("--redirect-to 443 needs no number", {"status": 301, "location": "https://example.org/x", "log": True}, get("/x"), "--redirect-to", "443")
redirecting("other methods", {"status": 301, "location": "https://example.org:8443/x", "log": True}, get("/x", method="POST", body="a"), "--redirect-to", "8443")
redirecting("no host", {"status": 400, "location": "none", "log": True}, "GET / HTTP/1.0\r\n\r\n", "--redirect-to", "8443")
redirecting("an IPv6 address", {"status": 301, "location": "https://[::1]:8443/x", "log": True}, get("/x", host="[::1]:80"), "--redirect-to", "8443")


# To the API


def api_options(site, name: str = "api", **options) -> list:
    pair = site.pair("site", name, **options)
    return ["--api-ssl-key", pair.key, "--api-ssl-cert", pair.certificate]


def ask_api(proxy, context):
    try:
        with connect(proxy.api_port, tls=context) as stream:
            answer = stream.send(get("/api/routes", proxy.token_header())).answer()
            return answer if isinstance(answer, str) else answer.status
    except OSError:
        return "closed"


@own("tls: the API: --api-ssl-key and --api-ssl-cert", {"tls": 200, "plain": "closed", "log": True})
def _(site):
    proxy = site.start(*api_options(site))
    plain = ask_api(proxy, None)
    return {"tls": ask_api(proxy, anyone(site)), "plain": "closed" if plain in NOT_SERVED else plain, "log": "Proxy API at https://" in proxy.log()}


@own("tls: the API: --api-ssl-request-cert, --api-ssl-ca, --api-ssl-reject-unauthorized", {"with": 200, "without": "closed", "another's": "closed"})
def _(site):
    proxy = site.start(*api_options(site), "--api-ssl-ca", site.authority("people").file, "--api-ssl-request-cert", "--api-ssl-reject-unauthorized")
    return {"with": ask_api(proxy, someone(site)), "without": ask_api(proxy, anyone(site)), "another's": ask_api(proxy, someone(site, "strangers", "mallory"))}


@own("tls: the API: two authorities in one file", {"people": 200, "strangers": 200})
def _(site):
    both = site.folder / "both.crt"
    both.write_text(site.authority("people").file.read_text() + site.authority("strangers").file.read_text())
    proxy = site.start(*api_options(site), "--api-ssl-ca", both, "--api-ssl-request-cert", "--api-ssl-reject-unauthorized")
    return {"people": ask_api(proxy, someone(site)), "strangers": ask_api(proxy, someone(site, "strangers", "mallory"))}


@own("tls: the API: an encrypted key, and CONFIGPROXY_API_SSL_KEY_PASSPHRASE", 200)
def _(site):
    proxy = site.start(*api_options(site, "locked-api", passphrase=b"open sesame"), variables={"CONFIGPROXY_API_SSL_KEY_PASSPHRASE": "open sesame"}, ready=False)
    return ends_or(site, proxy, lambda: ask_api(proxy, anyone(site)))


# To servers


def serving(site, name: str = "notebook", names=("localhost", "127.0.0.1"), **options) -> Server:
    return Server(pair=site.pair("notebooks", name, names), **options)


def trust(site) -> list:
    return ["--client-ssl-ca", site.authority("notebooks").file]


def to_server(site, server, *options, host: str = "127.0.0.1:1", **settings):
    proxy = site.start(*options, default=server.url, **settings)
    answer = proxy.ask(get("/x", host=host))
    return answer if isinstance(answer, str) else answer.status


@own("tls: servers: --client-ssl-ca: one that is known", 200)
def _(site):
    with serving(site) as server:
        return to_server(site, server, *trust(site))


@own("tls: servers: one of an unknown authority", 503)
def _(site):
    with serving(site) as server:
        return to_server(site, server, "--client-ssl-ca", site.authority("site").file)


@own("tls: servers: one of an unknown authority, without options", 503)
def _(site):
    with serving(site) as server:
        return to_server(site, server)


@own("tls: servers: --client-ssl-key and --client-ssl-cert", {"shown": 200, "not shown": 503})
def _(site):
    mine = site.pair("people", "proxy-client")
    with serving(site, asks=site.authority("people").file) as server:
        show = ["--client-ssl-key", mine.key, "--client-ssl-cert", mine.certificate]
        return {"shown": to_server(site, server, *trust(site), *show), "not shown": to_server(site, server, *trust(site))}


@own("tls: servers: --client-ssl-request-cert and --client-ssl-reject-unauthorized are taken", 200)
def _(site):
    with serving(site) as server:
        return to_server(site, server, *trust(site), "--client-ssl-request-cert", "--client-ssl-reject-unauthorized")


@own("tls: servers: the name is the target's, not the browser's", {"hub.example.org": 200, "127.0.0.1:1": 200})
def _(site):
    with serving(site) as server:
        return {host: to_server(site, server, *trust(site), host=host) for host in ("hub.example.org", "127.0.0.1:1")}


@own("tls: servers: a certificate for another name", 503)
def _(site):
    with serving(site, "elsewhere", ["elsewhere.example"]) as server:
        return to_server(site, server, *trust(site), host="elsewhere.example")


@own("tls: servers: --insecure checks none", 200)
def _(site):
    with serving(site, "elsewhere", ["elsewhere.example"]) as server:
        return to_server(site, server, "--insecure")


@own("tls: servers: a websocket", 101)
def _(site):
    from cases.upgrades import ASKING, mirror

    with Server(mirror, pair=site.pair("notebooks", "notebook")) as server:
        proxy = site.start(*trust(site), default=server.url)
        answer = proxy.ask(get("/x", *ASKING, host="127.0.0.1:1"))
        return answer if isinstance(answer, str) else answer.status


@own("tls: servers: an error target over TLS", "GET /e/404?url=%2Fx HTTP/1.1")
def _(site):
    with serving(site) as server:
        proxy = site.start(*trust(site), "--error-target", server.url + "/e")
        answer = proxy.ask(get("/x", host="127.0.0.1:1"))
        return json.loads(answer.body)["line"] if not isinstance(answer, str) and answer.body.startswith(b"{") else answer
