"""The proxy as a process: ending, being upgraded without a gap, sockets from systemd, overload.

    run.py                  all steps
    run.py --only upgrade   steps with this word in their name

Everything runs against the real program, on ports of its own choice.
"""

import argparse
import os
import re
import resource
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from clients import Connection, Crowd, api, routes  # noqa: E402
from harness import places  # noqa: E402
from harness.certificates import Authority  # noqa: E402
from harness.hub import Hub, environment, free_port  # noqa: E402
from harness.steps import Steps, exit_with, require, same, wait_until  # noqa: E402

STEPS = []


def step(name: str):
    return lambda function: STEPS.append((name, function)) or function


class Backend:
    def __enter__(self) -> "Backend":
        command = [sys.executable, str(Path(__file__).parent / "backend.py")]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.url = f"http://127.0.0.1:{int(self.process.stdout.readline())}"
        return self

    def __exit__(self, *_exception) -> None:
        self.process.stdin.close()
        self.process.wait(10)


class Proxy:
    """A proxy and what took over from it. Its folder has the pid file, and the log of them all."""

    def __init__(self, backend: Backend, folder: Path, *options, program: list[str] | None = None, default: bool = True, **settings):
        self.folder = folder
        self.port, self.api_port = free_port(), free_port()
        self.log_path, self.pid_file = folder / "log", folder / "pid"
        self.options = ["--ip", "127.0.0.1", "--port", self.port, "--api-ip", "127.0.0.1", "--api-port", self.api_port, "--pid-file", self.pid_file]
        if default:
            self.options += ["--default-target", backend.url]
        self.options = [str(word) for word in [*(program or [places.orrery_binary(), "proxy"]), *self.options, *options]]
        self.backend, self.settings, self.pids = backend, settings, []
        self.start()

    def start(self) -> None:
        settings = dict(self.settings)
        with open(self.log_path, "a") as log:
            self.process = subprocess.Popen(
                self.options,
                cwd=self.folder,
                env=environment(CONFIGPROXY_AUTH_TOKEN="secret", **settings.pop("variables", {})),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **settings,
            )
        self.pids.append(self.process.pid)
        wait_until(lambda: self.process.poll() is not None or self.pid() == self.process.pid, "the proxy's start", pause=0.02)
        require(self.process.poll() is None, f"the proxy ended: {self.log()}")

    def pid(self) -> int | None:
        try:
            return int(self.pid_file.read_text())
        except (OSError, ValueError):
            return None

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def add(self, path: str = "/user/ada", **data) -> None:
        status, body = api(self.api_port, "POST", path, {"target": self.backend.url, **data})
        same(status, 201, f"adding a route: {body!r}")

    def signal(self, number: int) -> None:
        os.kill(self.pids[-1], number)

    def upgrade(self) -> int:
        """SIGUSR2; returns the new process, which has taken over."""
        old = self.pids[-1]
        require(self.pid() == old, "the pid file is the running proxy's")
        self.signal(signal.SIGUSR2)
        wait_until(lambda: self.pid() not in (None, old), f"the upgrade; the log says:\n{self.log()}", 60, 0.02)
        self.pids.append(self.pid())
        return self.pids[-1]

    def ended(self, seconds: float = 15) -> int:
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the proxy did not end; the log says:\n{self.log()}") from None

    def stop(self) -> None:
        # A step that failed in mid upgrade may not have noted the new process.
        for pid in {*self.pids, self.pid()} - {None}:
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(10)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


@contextmanager
def site(*options, **settings):
    with tempfile.TemporaryDirectory(prefix="orrery-pp-", dir="/tmp") as folder, Backend() as backend:
        proxy = Proxy(backend, Path(folder), *options, **settings)
        try:
            proxy.add()
            yield proxy
        except AssertionError as error:
            raise AssertionError(f"{error}\nthe log:\n{proxy.log()[-3000:]}") from error
        finally:
            proxy.stop()


# Ending.


@step("SIGTERM closes idle connections at once and exits with 0")
def ends_at_once():
    with site() as proxy:
        idle = Connection(proxy.port)
        same(idle.get("/user/ada/hello"), 200, "a request")
        begun = time.monotonic()
        proxy.signal(signal.SIGTERM)
        require(idle.ends(3), "the idle connection is closed")
        same(proxy.ended(), 0, "the exit code")
        require(time.monotonic() - begun < 2.5, "it took no longer than it must")
        require(not proxy.pid_file.exists(), "the pid file is removed")


@step("SIGTERM lets a running request end")
def ends_after_the_request():
    with site("--drain-timeout", "10000") as proxy:
        slow = Connection(proxy.port).ask("/user/ada/slow-1.5")
        wait_until(lambda: busy(proxy) >= 1, "the request", pause=0.02)
        proxy.signal(signal.SIGTERM)
        status, _, body = slow.answer()
        same((status, body), (200, b"hello"), "the answer")
        require(slow.ends(3), "then the connection is closed")
        same(proxy.ended(5), 0, "the exit code")


def busy(proxy: Proxy) -> int:
    """How many connections the proxy has with its backend."""
    port = f"{int(proxy.backend.url.rsplit(':', 1)[1]):04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[2].endswith(":" + port) and row[3] == "01" for row in rows)


@step("SIGTERM lets websockets and events run until --drain-timeout")
def ends_at_the_deadline():
    with site("--drain-timeout", "1500") as proxy:
        websocket = Connection(proxy.port).websocket()
        events = Connection(proxy.port).ask("/user/ada/events-")
        events.take(b"data: x")
        begun = time.monotonic()
        proxy.signal(signal.SIGTERM)
        refused(proxy.port)
        while time.monotonic() - begun < 1:
            require(websocket.echoes(), "the websocket echoes")
            events.take(b"data: x")
        require(websocket.ends(5) and events.ends(5), "then both are cut")
        require(1.3 < time.monotonic() - begun < 5, f"at the deadline, not after {time.monotonic() - begun:.1f} s")
        same(proxy.ended(), 0, "the exit code")


def refused(port: int) -> None:
    def is_refused():
        try:
            socket.create_connection(("127.0.0.1", port), 5).close()
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
        return False

    wait_until(is_refused, "new connections are refused", 5, 0.05)


@step("a second signal ends it at once")
def ends_at_the_second_signal():
    with site("--drain-timeout", "60000") as proxy:
        websocket = Connection(proxy.port).websocket()
        proxy.signal(signal.SIGTERM)
        refused(proxy.port)
        require(websocket.echoes(), "the websocket lives on")
        proxy.signal(signal.SIGINT)
        require(websocket.ends(3), "the websocket is cut")
        same(proxy.ended(3), 0, "the exit code")


@step("SIGTERM serves what the kernel has accepted")
def backlog_is_served():
    with site("--drain-timeout", "10000") as proxy:
        # Stopped, the proxy cannot accept; the kernel does, and the requests wait in its queue.
        proxy.signal(signal.SIGSTOP)
        waiting = [Connection(proxy.port).ask("/user/ada/hello", "Connection: close") for _ in range(50)]
        proxy.signal(signal.SIGTERM)
        proxy.signal(signal.SIGCONT)
        for connection in waiting:
            same(connection.answer()[0], 200, "a request that waited")
        same(proxy.ended(), 0, "the exit code")


# Upgrades.


@step("upgrade under load: no request fails, websockets and routes stay")
def upgrade_under_load():
    metrics = free_port()
    with site("--metrics-port", metrics, "--metrics-ip", "127.0.0.1", "--host-routing", "--log-level", "warn", variables={"ORRERY_TEST": "kept"}, default=True) as proxy:
        proxy.add("/proxy.test/user/ada", user="ada", deep={"a": [1, None]})
        for number in range(300):
            proxy.add(f"/proxy.test/user/u{number}", number=number)
        before = routes(proxy.api_port)
        websockets = [Connection(proxy.port).websocket() for _ in range(50)]
        events = Connection(proxy.port).ask("/user/ada/events-")
        written = 0
        with Crowd(proxy.port) as crowd:
            wait_until(lambda: crowd.done > 500, "a load")
            for _ in range(2):
                old = proxy.pids[-1]
                proxy.signal(signal.SIGUSR2)
                # Routes that are added meanwhile are added.
                while proxy.pid() in (None, old):
                    proxy.add(f"/proxy.test/late/{written}")
                    written += 1
                    require(written < 20000, "the upgrade comes to an end")
                proxy.pids.append(proxy.pid())
                done = crowd.done
                wait_until(lambda done=done: crowd.done > done + 1000, "a load on the new process")
            crowd.stop()
            print(f"      {crowd.done} requests, {crowd.closed} told to close, {written} routes added meanwhile", flush=True)
            same(crowd.failures[:3], [], f"failures of {crowd.done} requests ({len(crowd.failures)} in all)")
        require(crowd.done > 2500, "enough requests")
        require(is_alive(proxy.pids[0]) and is_alive(proxy.pids[2]), "the first process lives as long as its websockets")
        require(all(websocket.echoes() for websocket in websockets), "the websockets echo")
        events.take(b"data: x")
        same(Connection(proxy.port).websocket().echoes(), True, "a new websocket")
        same(Connection(metrics).get("/metrics"), 200, "the metrics")
        after = routes(proxy.api_port)
        for path, route in before.items():
            same({**after[path], "last_activity": 0}, {**route, "last_activity": 0}, f"the route {path}")
        wait_until(lambda: len(routes(proxy.api_port)) == len(before) + written, "all routes that were added meanwhile", 3)
        variables = Path(f"/proc/{proxy.pids[-1]}/environ").read_bytes().split(b"\0")
        require(b"ORRERY_TEST=kept" in variables, "the environment is passed on")
        # The old processes end as their connections do.
        events.close()
        for websocket in websockets:
            websocket.close()
        same(proxy.ended(), 0, "the exit code of the first process")
        wait_until(lambda: not is_alive(proxy.pids[1]), "the end of the second process", 10)
        same(proxy.pid(), proxy.pids[2], "the pid file")
        same(Connection(proxy.port).get("/user/ada/hello"), 200, "the third process serves")


@step("upgrade: use of a websocket in the old process counts in the new one")
def upgrade_keeps_activity():
    with site() as proxy:
        websocket = Connection(proxy.port).websocket()
        proxy.add("/user/bob")
        idle = routes(proxy.api_port)["/user/bob"]["last_activity"]
        proxy.upgrade()
        same(routes(proxy.api_port)["/user/bob"]["last_activity"], idle, "the activity of an idle route")

        def later():
            require(websocket.echoes(), "the websocket echoes")
            return routes(proxy.api_port)["/user/ada"]["last_activity"] > last

        for _ in range(2):
            last = routes(proxy.api_port)["/user/ada"]["last_activity"]
            wait_until(later, "later activity", 10)


@step("upgrade: a connection of the old process sees routes that the new one gets")
def upgrade_tells_routes_back():
    with site() as proxy:
        held = Connection(proxy.port).websocket()
        lasting = Connection(proxy.port)
        same(lasting.get("/user/ada/hello"), 200, "before")
        proxy.upgrade()
        api(proxy.api_port, "DELETE", "/")
        api(proxy.api_port, "DELETE", "/user/ada")
        proxy.add("/user/eve")
        time.sleep(0.2)
        status, head, _ = lasting.ask("/user/eve/hello").answer()
        same(status, 200, "a route of the new process")
        require(b"connection: close" in head.lower(), "the answer says that it is the last one")
        require(lasting.ends(3), "the connection is closed")
        held.close()
        same(proxy.ended(), 0, "the exit code")


@step("upgrade: connections in TLS get their last answer, new ones come to the new process")
def upgrade_in_tls():
    with tempfile.TemporaryDirectory(prefix="orrery-pt-", dir="/tmp") as folder:
        authority = Authority(Path(folder), "public")
        pair = authority.sign("proxy", ["127.0.0.1", "localhost"])
        context = ssl.create_default_context(cafile=str(authority.file))
        with site("--ssl-key", pair.key, "--ssl-cert", pair.certificate) as proxy:

            def connect():
                connection = Connection(proxy.port)
                connection.sock = context.wrap_socket(connection.sock, server_hostname="localhost")
                return connection

            websocket, lasting = connect().websocket(), connect()
            same(lasting.get("/user/ada/hello"), 200, "before")
            # In the middle of its handshake: the kernel has accepted it, the client says nothing yet.
            early = Connection(proxy.port)
            proxy.upgrade()
            early.sock = context.wrap_socket(early.sock, server_hostname="localhost")
            for connection in (lasting, early):
                status, head, _ = connection.ask("/user/ada/hello").answer()
                same((status, b"connection: close" in head.lower()), (200, True), "the last answer")
            same(connect().get("/user/ada/hello"), 200, "a new connection")
            require(websocket.echoes(), "the websocket echoes")
            websocket.close()
            same(proxy.ended(), 0, "the exit code")


@step("upgrade: unix sockets stay, and are removed at the end of the last process")
def upgrade_keeps_sockets():
    with tempfile.TemporaryDirectory(prefix="orrery-ps-", dir="/tmp") as sockets:
        place = Path(sockets) / "metrics"
        with site("--metrics-socket", place) as proxy:
            proxy.upgrade()
            same(proxy.ended(), 0, "the exit code of the old process")
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(5)
                client.connect(str(place))
                client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
                require(client.recv(100).startswith(b"HTTP/1.1 200"), "the metrics")
            proxy.signal(signal.SIGTERM)
            wait_until(lambda: not is_alive(proxy.pids[-1]), "the end")
            require(not place.exists() and not proxy.pid_file.exists(), "the files are removed")


@step("upgrade: the state file is the new process's")
def upgrade_keeps_the_state_file():
    with tempfile.TemporaryDirectory(prefix="orrery-pf-", dir="/tmp") as folder:
        with site("--state-file", Path(folder) / "routes") as proxy:
            websocket = Connection(proxy.port).websocket()
            api(proxy.api_port, "DELETE", "/")
            proxy.upgrade()
            proxy.add("/user/new")
            websocket.close()
            same(proxy.ended(), 0, "the exit code of the old process")
            proxy.add("/user/newer")
            wanted = set(routes(proxy.api_port))
            same(wanted, {"/user/ada", "/user/new", "/user/newer"}, "the routes, without the default target that was deleted")
            proxy.signal(signal.SIGKILL)
            wait_until(lambda: not is_alive(proxy.pids[-1]), "the death")
            proxy.pid_file.unlink()
            proxy.start()
            same(set(routes(proxy.api_port)), wanted | {"/"}, "the routes after a death")


@step("upgrade that fails: the old process goes on and says why")
def upgrade_fails():
    with tempfile.TemporaryDirectory(prefix="orrery-pl-", dir="/tmp") as folder:
        # A link of this name is the proxy without further words.
        program = Path(folder) / "configurable-http-proxy"
        program.symlink_to(places.orrery_binary())
        with site("--upgrade-timeout", "1500", "--state-file", Path(folder) / "routes", program=[program]) as proxy:
            websocket = Connection(proxy.port).websocket()
            for script, words in [("exit 3", "ended (exit status: 3)"), ("exec sleep 60", "was not ready within 1.5 s")]:
                replace(program, f"#!/bin/sh\n{script}\n")
                with Crowd(proxy.port, lasting=2, single=2) as crowd:
                    proxy.signal(signal.SIGUSR2)
                    wait_until(lambda words=words: words in proxy.log(), words, 20)
                    done = crowd.done
                    wait_until(lambda done=done: crowd.done > done + 50, "requests after it")
                    crowd.stop()
                    same(crowd.failures, [], "failures")
                require(websocket.echoes(), "the websocket echoes")
                proxy.add("/user/after")
            wait_until(lambda: not tasks_children(proxy.process.pid), "the end of what could not take over", 5)
            # And when the program is mended, it works.
            program.unlink()
            program.symlink_to(places.orrery_binary())
            proxy.upgrade()
            require("/user/after" in routes(proxy.api_port), "the routes")
            websocket.close()
            same(proxy.ended(), 0, "the exit code")


@step("upgrade whose pid file or state file cannot be written: the old process goes on")
def upgrade_without_files():
    with tempfile.TemporaryDirectory(prefix="orrery-pw-", dir="/tmp") as folder:
        files, away = Path(folder) / "files", Path(folder) / "away"
        files.mkdir()
        for options, words in [(["--pid-file", files / "pid"], "write the pid file"), (["--state-file", files / "routes"], "open the state file")]:
            with site() as proxy:
                proxy.stop()
                proxy.pids, proxy.options = [], [*proxy.options, *map(str, options)]
                if options[0] == "--pid-file":
                    # The last one counts.
                    proxy.pid_file = options[1]
                    proxy.options = without(proxy.options, "--pid-file")
                proxy.start()
                proxy.add()
                files.rename(away)
                proxy.signal(signal.SIGUSR2)
                wait_until(lambda: "this process goes on" in proxy.log(), "the log's word", 20)
                require(words in proxy.log(), f"the log says: {words}")
                require(served(proxy), "a request")
                proxy.add("/user/after")
                away.rename(files)
                proxy.upgrade()
                require(served(proxy) and "/user/after" in routes(proxy.api_port), "the new process serves")
                same(proxy.ended(), 0, "the exit code of the old process")


def without(options: list[str], name: str) -> list[str]:
    """The options without the first one of this name."""
    index = options.index(name)
    return options[:index] + options[index + 2 :]


def replace(program: Path, text: str) -> None:
    fresh = program.with_suffix(".new")
    fresh.write_text(text)
    fresh.chmod(0o755)
    fresh.rename(program)


@step("upgrade: --upgrade-drain-timeout ends the old process, SIGTERM to the new one ends both")
def upgrade_drains():
    with site("--upgrade-drain-timeout", "1500", "--drain-timeout", "200") as proxy:
        websocket = Connection(proxy.port).websocket()
        proxy.upgrade()
        begun = time.monotonic()
        require(websocket.echoes(), "the websocket echoes")
        require(websocket.ends(10), "the websocket is cut at last")
        require(time.monotonic() - begun > 1, "not at once")
        same(proxy.ended(), 0, "the exit code")
    with site("--drain-timeout", "1500") as proxy:
        websocket = Connection(proxy.port).websocket()
        proxy.upgrade()
        proxy.signal(signal.SIGTERM)
        time.sleep(0.7)
        require(websocket.echoes(), "the websocket echoes")
        require(is_alive(proxy.pids[-1]), "the new process waits for the old one")
        require(websocket.ends(10), "the websocket is cut")
        same(proxy.ended(5), 0, "the exit code of the old process")
        wait_until(lambda: not is_alive(proxy.pids[-1]), "the end of the new process", 5)


@step("upgrade: SIGHUP reaches the old process while it drains, and does not shorten that")
def upgrade_reloads():
    with tempfile.TemporaryDirectory(prefix="orrery-ph-", dir="/tmp") as folder:
        log, moved = Path(folder, "access"), Path(folder, "moved")
        with site("--access-log", log, "--upgrade-drain-timeout", "8000") as proxy:
            websocket, slow = Connection(proxy.port).websocket(), Connection(proxy.port).ask("/user/ada/slow-3")
            proxy.upgrade()
            log.rename(moved)
            proxy.process.send_signal(signal.SIGHUP)
            same(slow.answer()[0], 200, "the request that runs")
            wait_until(lambda: log.exists() and "/user/ada/slow-3" in log.read_text(), "its line in the new file", 5)
            require(websocket.echoes(), "the websocket echoes")
            websocket.close()
            same(proxy.ended(), 0, "the exit code")


@step("SIGTERM while an upgrade is under way ends it")
def term_during_upgrade():
    with tempfile.TemporaryDirectory(prefix="orrery-pl-", dir="/tmp") as folder:
        program = Path(folder) / "configurable-http-proxy"
        program.symlink_to(places.orrery_binary())
        with site(program=[program]) as proxy:
            replace(program, "#!/bin/sh\nexec sleep 60\n")
            proxy.signal(signal.SIGUSR2)
            child = int(wait_until(lambda: tasks_children(proxy.process.pid), "the new process"))
            proxy.signal(signal.SIGTERM)
            same(proxy.ended(10), 0, "the exit code")
            wait_until(lambda: not is_alive(child), "the end of the new process", 5)


def tasks_children(pid: int) -> str:
    """The first child of any of the process's threads."""
    found = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    return next((pids.split()[0] for pids in found if pids.split()), "")


@step("upgrade of the proxy that Orrery's hub started: the hub finds the new process")
def upgrade_under_the_hub():
    with Hub("orrery") as hub:
        hub.start().wait_ready()
        pid_file = hub.folder / "jupyterhub-proxy.pid"
        old = int(pid_file.read_text())
        os.kill(old, signal.SIGUSR2)
        wait_until(lambda: not is_alive(old), "the end of the old process", 20)
        wait_until(lambda: "another process has taken over" in hub.log_text(), "the hub's word", 10)
        new = wait_until(lambda: named(pid_file, old), "the new process in the pid file", 10)
        hub.wait_ready(5)
        require("the proxy has died" not in hub.log_text(), "the hub does not take it for a death")
        # It looks after the new one as it did after the old one.
        os.kill(new, signal.SIGKILL)
        wait_until(lambda: named(pid_file, new), "another proxy", 10)
        hub.wait_ready(5)


def named(pid_file: Path, before: int) -> int | None:
    try:
        pid = int(pid_file.read_text())
    except (OSError, ValueError):
        return None
    return pid if pid != before and is_alive(pid) else None


# What starts it.


@step("sockets that systemd passes are used, by name and in order, and passed on")
def socket_activation():
    for names in ("api:proxy", ""):
        with tempfile.TemporaryDirectory(prefix="orrery-pa-", dir="/tmp") as folder, Backend() as backend:
            public, control = (socket.create_server(("127.0.0.1", 0), backlog=64) for _ in range(2))
            passed = [control, public] if names else [public, control]
            start = ["/bin/sh", "-c", 'export LISTEN_PID=$$; exec "$@"', "sh", str(places.orrery_binary()), "proxy"]

            def take(passed=passed):
                spare = [os.dup(each.fileno()) for each in passed]
                spare = [os.dup2(number, 100 + index) for index, number in enumerate(spare)]
                for index, number in enumerate(spare):
                    os.dup2(number, 3 + index)

            variables = {"LISTEN_FDS": "2"} | ({"LISTEN_FDNAMES": names} if names else {})
            # The options' own ports are not listened on.
            proxy = Proxy(backend, Path(folder), program=start, variables=variables, preexec_fn=take, close_fds=False)
            ours, ours_api = proxy.port, proxy.api_port
            proxy.port, proxy.api_port = (each.getsockname()[1] for each in (public, control))
            try:
                for unused in (ours, ours_api):
                    require(socket.socket().connect_ex(("127.0.0.1", unused)) != 0, "the option's port is free")
                public.close()
                control.close()
                proxy.add()
                same(Connection(proxy.port).get("/user/ada/hello"), 200, "a request")
                proxy.upgrade()
                same(proxy.ended(), 0, "the exit code of the old process")
                same(Connection(proxy.port).get("/user/ada/hello"), 200, "a request to the new process")
                require("/user/ada" in routes(proxy.api_port), "the routes")
            finally:
                proxy.stop()


@step("systemd is told when it serves, who serves, and that it ends")
def notifications():
    with tempfile.TemporaryDirectory(prefix="orrery-pn-", dir="/tmp") as folder:
        place = f"{folder}/notify"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
            notified.bind(place)
            notified.settimeout(10)
            with site(variables={"NOTIFY_SOCKET": place}) as proxy:
                same(notified.recv(1000).split(), [b"READY=1"], "at the start")
                new = proxy.upgrade()
                told = {notified.recv(1000).strip(), notified.recv(1000).strip()}
                same(told, {b"MAINPID=%d" % new, b"READY=1"}, "at an upgrade")
                same(proxy.ended(), 0, "the exit code of the old process")
                proxy.signal(signal.SIGTERM)
                same(notified.recv(1000).strip(), b"STOPPING=1", "at the end, and nothing of the old one's")


@step("the limit of open files is raised")
def file_limit():
    with site(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, 3000))) as proxy:
        limits = Path(f"/proc/{proxy.process.pid}/limits").read_text()
        same(re.search(r"Max open files +(\d+) +(\d+)", limits).groups(), ("3000", "3000"), "the limits")
        require("3000 files may be open" in proxy.log(), "the log says so")


# Overload.


@step("more than --max-connections are answered 503, idle ones make room")
def max_connections():
    with site("--max-connections", "5") as proxy:
        websockets = [Connection(proxy.port).websocket() for _ in range(3)]
        slow = [Connection(proxy.port).ask("/user/ada/slow-3") for _ in range(2)]
        wait_until(lambda: busy(proxy) == 5, "all five", pause=0.02)
        begun = time.monotonic()
        status, head, _ = Connection(proxy.port).ask("/user/ada/hello").answer()
        same(status, 503, "the sixth")
        require(b"retry-after" in head.lower() and time.monotonic() - begun < 2, "soon, and with a time to come back")
        for connection in slow:
            same(connection.answer()[0], 200, "those that were there")
        # Now they wait for a next request, and are in the way.
        time.sleep(1.1)
        wait_until(lambda: served(proxy), "room", 5)
        require(all(websocket.echoes() for websocket in websockets), "websockets stay")


def served(proxy: Proxy) -> bool:
    try:
        connection = Connection(proxy.port, 3)
        return connection.ask("/user/ada/hello", "Connection: close").answer()[0] == 200
    except (OSError, EOFError):
        return False


@step("without file descriptors it turns clients away, idles, and recovers")
def no_descriptors():
    with site(variables={"ORRERY_TEST": "1"}) as proxy:
        require(served(proxy), "a request")
        websocket = Connection(proxy.port).websocket()
        open_now = len(os.listdir(f"/proc/{proxy.process.pid}/fd"))
        resource.prlimit(proxy.process.pid, resource.RLIMIT_NOFILE, (open_now + 10, open_now + 10))
        crowd = []
        for _ in range(150):
            try:
                crowd.append(Connection(proxy.port, 3))
            except OSError:
                pass
        wait_until(lambda: "cannot accept connections for now" in proxy.log(), "the log's word")
        turned_away = wait_until(lambda: sum(is_closed(connection) for connection in crowd) >= 100, "most are turned away", 10)
        require(turned_away, "most are turned away")
        used = processor_time(proxy.process.pid)
        time.sleep(1)
        used = processor_time(proxy.process.pid) - used
        require(used < 0.5, f"it does not spin: {used:.2f} s of one")
        require(websocket.echoes(), "what is open goes on")
        for connection in crowd:
            connection.close()
        wait_until(lambda: served(proxy), "service again", 5)
        require(websocket.echoes(), "what is open goes on")
        same(proxy.process.poll(), None, "the process lives")


def is_closed(connection: Connection) -> bool:
    connection.sock.settimeout(0.01)
    try:
        return connection.sock.recv(1000) == b"" or True
    except TimeoutError:
        return False
    except OSError:
        return True


def processor_time(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@step("clients that send slowly are cut at --header-timeout")
def slow_clients():
    with site("--header-timeout", "1000", "--keep-alive-timeout", "60000") as proxy:
        silent = Connection(proxy.port)
        dripping = Connection(proxy.port).send(b"GET /user/ada/hello HTTP/1.1\r\nHost: a\r\n")
        begun = time.monotonic()
        closed = False
        while not closed and time.monotonic() - begun < 6:
            try:
                dripping.send(b"X: y\r\n")
                closed = is_closed(dripping)
            except OSError:
                closed = True
            time.sleep(0.2)
        require(closed, "one that drips its head is cut")
        require(time.monotonic() - begun > 0.8, "not before its time")
        silent.close()
        require(served(proxy), "others are served")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", action="append", default=[])
    arguments = parser.parse_args()
    steps = Steps("proxy process")
    for name, function in STEPS:
        if not arguments.only or any(word in name for word in arguments.only):
            with steps.step(name):
                function()
    return steps.finish()


if __name__ == "__main__":
    exit_with(main())
