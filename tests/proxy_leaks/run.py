#!/usr/bin/env python3
"""The proxy gives everything back: people and servers that vanish without a word, servers that are killed.

    python tests/proxy_leaks/run.py [--full]

Proxy, people and servers run in network namespaces of their own, so that silence is real: no FIN, no reset.
File descriptors and memory of the proxy must be back where they were, within 5 %, and no more sockets may lead
to servers than 2 for each live request and 1 for each websocket. `--full` takes 8,000 websockets and 1,000 servers
instead of 2,000 and 200. Needs root and iproute2.
"""

import argparse
import http.client
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]
from harness import places  # noqa: E402
from harness.hub import environment  # noqa: E402
from harness.steps import Steps, exit_with, require, same, wait_until  # noqa: E402
from network import PEOPLE, PROXY, SERVERS, Network, NoNetwork  # noqa: E402

#: Milliseconds without a byte after which the proxy asks whether a peer is still there.
TCP_KEEPALIVE = 4000
#: Everything is to be back after this time.
BACK_WITHIN = 60
#: Idle connections that the proxy may keep beyond twice the live requests, for each of its workers.
SPARE = 8
THREADS = 2
#: So many servers share a process.
SERVERS_EACH = 50


class Program:
    """A program that answers each line of JSON with a line of JSON."""

    def __init__(self, command: list[str]):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, order: dict | None = None, seconds: float = 60):
        self.process.stdin.write(json.dumps(order).encode() + b"\n")
        self.process.stdin.flush()
        return self.hear(seconds)

    def hear(self, seconds: float):
        readable, _, _ = select.select([self.process.stdout], [], [], seconds)
        require(readable, f"{self.process.args[-3:]} did not answer within {seconds} s")
        line = self.process.stdout.readline()
        require(line, f"{self.process.args[-3:]} ended")
        return json.loads(line)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)
        self.process.stdin.close()
        self.process.stdout.close()


class Proxy:
    """Orrery's proxy, with its API and its metrics on unix sockets, which know no network namespaces."""

    def __init__(self, network: Network, folder: Path, *arguments: str):
        self.api_socket = folder / "api.sock"
        self.log_path = folder / "proxy.log"
        self.address = network.address(PROXY, seen_from=PEOPLE)
        self.port = 8000
        command = network.within(
            PROXY, str(places.orrery_binary()), "proxy", "--ip", self.address, "--port", str(self.port),
            "--api-socket", str(self.api_socket), "--threads", str(THREADS), *arguments,
        )
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(command, env=environment(CONFIGPROXY_AUTH_TOKEN=""), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(lambda: self.process.poll() is not None or self.api_socket.is_socket(), "the proxy's API", 20)
        require(self.process.poll() is None, f"the proxy ended:\n{self.log_path.read_text()}")

    def api(self, method: str, path: str, body: dict | None = None) -> int:
        connection = http.client.HTTPConnection("localhost", timeout=20)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(20)
        connection.sock.connect(str(self.api_socket))
        connection.request(method, "/api/routes" + path, json.dumps(body) if body else None)
        answer = connection.getresponse()
        answer.read()
        connection.close()
        return answer.status

    def files(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def memory(self) -> int:
        """Resident kilobytes."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        raise AssertionError("the proxy's memory cannot be read")

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(5)


class Story:
    def __init__(self, network: Network, proxy: Proxy, steps: Steps, *, websockets: int, servers: int):
        self.network, self.proxy, self.steps = network, proxy, steps
        self.websockets, self.servers = websockets, servers
        self.running: list[Program] = []
        #: File descriptors of a proxy that has done nothing yet.
        self.fresh = proxy.files()
        self.before = (0, 0)

    def tell(self) -> None:
        step = self.steps.step
        with step("a small round of everything shows what the proxy needs at rest"):
            # With all routes there will be: the table is not to count as growth.
            self.start_servers(self.servers)
            self.vanish_people({"ws": 20, "chatty": 20, "endless": 10, "upload": 10, "wait": 10, "kept": 10}, SERVERS_EACH)
            self.with_people(lambda people: people.ask({"do": "load", "workers": 16, "seconds": 1, "servers": SERVERS_EACH}))
            self.end_servers({"ws": 10, "endless": 10, "upload": 10, "wait": 10}, SERVERS_EACH)
            wait_until(lambda: self.proxy.files() <= self.fresh + SPARE, "the end of the connections", BACK_WITHIN)
            self.before = (self.proxy.files(), self.proxy.memory())
            print(f"      at rest: {self.before[0]} file descriptors, {self.before[1]} kB", flush=True)
        if self.steps.failed:
            return
        rest = self.websockets // 40
        chatty = self.websockets // 10
        kinds = {"ws": self.websockets - chatty, "chatty": chatty, "endless": rest, "upload": rest, "wait": rest, "kept": rest}
        self.start_servers(SERVERS_EACH)
        with step(f"{self.websockets} websockets and {4 * rest} requests of people who vanished leave nothing behind"):
            self.vanish_people(kinds, SERVERS_EACH)
            self.back("after people vanished")
        with step("their servers have been told"):
            wait_until(lambda: sum(server.ask() for server in self.running) <= THREADS * SPARE, "the end of the servers' connections", 10)
        many = {"ws": self.servers * 2, "endless": self.servers, "upload": self.servers, "wait": self.servers}
        with step(f"{self.servers} servers killed in mid connection: everybody hears of it, and nothing stays"):
            self.start_servers(self.servers)
            self.end_servers(many, self.servers)
            self.back("after servers were killed")
        with step(f"{self.servers} servers that vanished without a word: the same"):
            self.start_servers(self.servers)
            self.end_servers(many, self.servers, silent=True)
            self.back("after servers vanished")
        self.network.restore(SERVERS)
        with step("under load no more sockets lead to servers than 2 for a request and 1 for a websocket"):
            self.start_servers(self.servers)
            self.outbound()
        with step("and again everything is back"):
            self.back("after the load")

    def outbound(self) -> None:
        websockets = 50
        sockets = self.with_people_open({"ws": websockets}, self.servers)
        try:
            for workers in (64, 8):
                people = Program(self.command_of_people())
                people.process.stdin.write(json.dumps({"do": "load", "workers": workers, "seconds": 8, "servers": self.servers}).encode() + b"\n")
                people.process.stdin.flush()
                # What the load before has left may take a moment.
                time.sleep(4)
                most, limit = 0, 2 * workers + websockets + SPARE * THREADS
                end = time.monotonic() + 3.5
                while time.monotonic() < end:
                    most = max(most, self.network.outbound())
                    time.sleep(0.05)
                told = people.hear(30)
                people.kill()
                print(f"      {workers} live requests among {self.servers} servers, {websockets} websockets: at most {most} sockets to servers; {told}", flush=True)
                same((told.get("wrong", 0), told["failures"]), (0, []), "answers")
                require(most <= limit, f"{most} sockets lead to servers, more than {limit}")
        finally:
            sockets.ask({"do": "close"})
            sockets.kill()

    def vanish_people(self, kinds: dict[str, int], servers: int) -> None:
        """People open connections, and then their machine is gone."""
        begun = time.monotonic()
        people = self.with_people_open(kinds, servers)
        # Requests are on their way to the servers.
        self.wait_for_servers(sum(kinds.values()) - kinds.get("kept", 0))
        print(f"      {sum(kinds.values())} connections stand after {time.monotonic() - begun:.1f} s: {self.proxy.files()} file descriptors, {self.proxy.memory()} kB", flush=True)
        self.network.silence(PEOPLE)
        people.kill()
        try:
            self.wait_rest()
        finally:
            self.network.restore(PEOPLE)

    def end_servers(self, kinds: dict[str, int], servers: int, *, silent: bool = False) -> None:
        """People are connected to servers, and these die. Ends with no server at all."""
        people = self.with_people_open(kinds, servers)
        self.wait_for_servers(sum(kinds.values()))
        if silent:
            self.network.silence(SERVERS)
        begun = time.monotonic()
        for server in self.running:
            server.process.send_signal(signal.SIGKILL)
        ways = people.ask({"do": "ends", "seconds": 30 if silent else 10}, 60)
        for server in self.running:
            server.kill()
        self.running.clear()
        print(f"      how {sum(kinds.values())} connections ended, within {time.monotonic() - begun:.1f} s: {ways}", flush=True)
        people.kill()
        for kind, how in ways.items():
            require("not at all" not in how, f"{how['not at all'] if 'not at all' in how else 0} of kind {kind} were left hanging")
        same(set(ways["wait"]), {"503"}, "requests without an answer")
        same(set(ways["endless"]) <= {"reset", "closed"}, True, f"downloads were cut: {ways['endless']}")

    def start_servers(self, count: int) -> None:
        """`count` servers, each with its route; those that run already are ended."""
        for server in self.running:
            server.kill()
        self.running.clear()
        address = self.network.address(SERVERS)
        for first in range(0, count, SERVERS_EACH):
            command = self.network.within(SERVERS, sys.executable, str(HERE / "servers.py"), address, str(first), str(SERVERS_EACH))
            self.running.append(Program(command))
        for program in self.running:
            for server, place in program.hear(20).items():
                same(self.proxy.api("POST", f"/s{server}", {"target": f"http://{place}"}), 201, "adding a route")

    def command_of_people(self) -> list[str]:
        return self.network.within(PEOPLE, sys.executable, str(HERE / "people.py"), self.proxy.address, str(self.proxy.port))

    def with_people(self, body) -> None:
        people = Program(self.command_of_people())
        try:
            body(people)
        finally:
            people.kill()

    def with_people_open(self, kinds: dict[str, int], servers: int) -> Program:
        people = Program(self.command_of_people())
        told = people.ask({"do": "open", "kinds": kinds, "servers": servers}, 120)
        same((told["failures"], told["open"]), ([], sum(kinds.values())), "connections opened")
        return people

    def wait_for_servers(self, wanted: int) -> None:
        counts = []

        def all_there() -> bool:
            counts[:] = [server.ask() for server in self.running]
            return sum(counts) >= wanted

        try:
            wait_until(all_there, "the connections at the servers", 60)
        except AssertionError as error:
            raise AssertionError(f"{error}: {wanted} were opened, the servers have {counts}") from None

    def wait_rest(self) -> None:
        """Until what is left are the few connections that the proxy keeps for the next request."""
        wait_until(lambda: self.proxy.files() <= self.fresh + SPARE * THREADS, "the end of the connections", BACK_WITHIN)

    def back(self, when: str) -> None:
        """Everything is as it was at rest, within 5 %, and within the time promised."""
        begun = time.monotonic()
        files, memory = self.before

        def now_back() -> bool:
            return self.proxy.files() <= max(files * 1.05, files + SPARE) and self.proxy.memory() <= memory * 1.05

        try:
            wait_until(now_back, "everything given back", BACK_WITHIN)
        finally:
            now = (self.proxy.files(), self.proxy.memory())
            print(f"      {when}: {now[0]} file descriptors ({now[0] / files - 1:+.1%}), {now[1]} kB ({now[1] / memory - 1:+.1%}), after {time.monotonic() - begun:.1f} s more", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="8,000 websockets and 1,000 servers")
    options = parser.parse_args()
    # A websocket takes two file descriptors of the proxy.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    # Whoever ends the test wants the namespaces and the programs in them gone, too.
    signal.signal(signal.SIGTERM, lambda *_signal: sys.exit("told to end"))
    steps = Steps("proxy-leaks")
    with ExitStack() as resources:
        folder = Path(resources.enter_context(tempfile.TemporaryDirectory(prefix="orrery-leaks-")))
        try:
            network = resources.enter_context(Network())
        except NoNetwork as reason:
            with steps.step("the network of the test"):
                raise AssertionError(str(reason)) from None
            exit_with(steps.finish())
        proxy = Proxy(network, folder, "--tcp-keepalive", str(TCP_KEEPALIVE), "--tcp-user-timeout", str(4 * TCP_KEEPALIVE), "--keep-alive-timeout", "5000")
        resources.callback(proxy.stop)
        size = {"websockets": 8000, "servers": 1000} if options.full else {"websockets": 2000, "servers": 200}
        story = Story(network, proxy, steps, **size)
        resources.callback(lambda: [server.kill() for server in story.running])
        story.tell()
        if steps.failed:
            print("-- the end of the proxy's log\n" + "\n".join(proxy.log_path.read_text(errors="replace").splitlines()[-20:]))
    exit_with(steps.finish())


if __name__ == "__main__":
    main()
