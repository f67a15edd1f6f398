"""Prometheus metrics, as dashboards know them."""

import re

from proxies import free_port
from servers import Server
from suite import own
from wire import connect, get

#: The metrics of CHP itself, and the labels of their samples.
THEIRS = {
    "api_route_get": ("counter", ()),
    "api_route_add": ("counter", ()),
    "api_route_delete": ("counter", ()),
    "find_target_for_req": ("summary", ()),
    "last_activity_updating": ("summary", ()),
    "requests_ws": ("counter", ()),
    "requests_web": ("counter", ()),
    "requests_proxy": ("counter", ("status",)),
    "requests_api": ("counter", ("status",)),
}


def busy(site):
    """A proxy after 3 requests, one of them for nobody, one websocket and 5 calls to the API."""
    port = free_port()
    proxy = site.start("--metrics-ip", "127.0.0.1", "--metrics-port", port)
    proxy.metrics_port = port
    with Server() as server:
        proxy.route("/x", server)
        proxy.ask(get("/x"))
        proxy.ask(get("/x/y"))
        proxy.ask(get("/nothing"))
        proxy.ask(get("/nothing", "Connection: Upgrade", "Upgrade: websocket"))
    proxy.routes()
    proxy.api("GET", "/api/routes/none")
    proxy.api("GET", "/api/routes", headers={})
    proxy.api("DELETE", "/api/routes/x")
    return proxy


def read(place) -> tuple:
    with connect(place) as client:
        answer = client.send(get("/metrics")).answer()
    samples, types, helps = {}, {}, set()
    for line in answer.text().splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            types[name] = kind
        elif line.startswith("# HELP "):
            helps.add(line.split(" ")[2])
        elif line:
            name, value = line.rsplit(" ", 1)
            samples[name] = float(value)
    return answer, samples, types, helps


@own("metrics: names, types and labels", {name: [kind, list(labels), True] for name, (kind, labels) in THEIRS.items()})
def _(site):
    _, samples, types, helps = read(busy(site).metrics_port)
    found = {}
    for name in THEIRS:
        own_samples = [sample for sample in samples if re.fullmatch(rf"{name}(_sum|_count|_bucket)?(\{{.*\}})?", sample)]
        labels = {label for sample in own_samples for label in re.findall(r'[{,](\w+)="', sample)} - {"quantile"}
        found[name] = [types.get(name), sorted(labels), name in helps]
    return found


@own(
    "metrics: what is counted",
    {
        "api_route_get": 1,
        "api_route_add": 1,
        "api_route_delete": 1,
        "requests_ws": 1,
        "requests_web": 3,
        'requests_proxy{status="200"}': 2,
        'requests_proxy{status="404"}': 2,
        'requests_api{status="200"}': 1,
        'requests_api{status="201"}': 1,
        'requests_api{status="204"}': 1,
        'requests_api{status="403"}': 1,
        'requests_api{status="404"}': 1,
        "find_target_for_req_count": 4,
        # At least one when the route is added, and one for each good answer.
        "last_activity_updating_count": True,
    },
)
def _(site):
    _, samples, _, _ = read(busy(site).metrics_port)
    names = [name for name in samples if name.split("{")[0].removesuffix("_count") in THEIRS and "quantile" not in name]
    found = {name: samples[name] for name in names if samples[name] or "{" not in name}
    return found | {"last_activity_updating_count": found.get("last_activity_updating_count", 0) >= 3}


@own("metrics: the type of the page", "text/plain; version=0.0.4; charset=utf-8")
def _(site):
    return read(busy(site).metrics_port)[0].get("content-type")


@own("metrics: quantiles of summaries", ["0.01", "0.05", "0.5", "0.9", "0.95", "0.99", "0.999"])
def _(site):
    _, samples, _, _ = read(busy(site).metrics_port)
    return sorted(re.findall(r'quantile="([^"]*)"', " ".join(name for name in samples if name.startswith("find_target_for_req"))))


@own("metrics: what the process itself needs", {"process_cpu_seconds_total": True, "process_resident_memory_bytes": True, "process_open_fds": True, "process_start_time_seconds": True, "nodejs_version_info": False})
def _(site):
    _, samples, _, _ = read(busy(site).metrics_port)
    names = {name.split("{")[0] for name in samples}
    return {name: name in names for name in ("process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds", "process_start_time_seconds", "nodejs_version_info")}


@own("metrics: nothing else is at their port", [404, 404, 404])
def _(site):
    port = busy(site).metrics_port
    statuses = []
    for path in ("/", "/api/routes", "/metrics/x"):
        with connect(port) as client:
            statuses.append(client.send(get(path)).answer().status)
    return statuses


@own("metrics: no token is needed for them, and none without the options", [200, False])
def _(site):
    port = free_port()
    proxy = site.start("--metrics-port", port)
    with connect(port) as client:
        status = client.send(get("/metrics")).answer().status
    other = site.start()
    return [status, "Serve metrics" in other.log() or proxy is other]


@own("metrics: --metrics-socket", {"status": 200, "gone": True})
def _(site):
    import signal

    path = site.folder / "m"
    proxy = site.start("--metrics-socket", path)
    with connect(path) as client:
        status = client.send(get("/metrics")).answer().status
    proxy.signal(signal.SIGTERM)
    proxy.ended()
    return {"status": status, "gone": not path.exists()}
