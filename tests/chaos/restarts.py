"""Two people work in real notebook servers while the hub is killed, ended and started again under them.

Told for Orrery, and as far as upstream promises the same, for upstream: there a new hub ends the old
proxy, so that websockets drop, and a proxy that dies is noticed only at the next look.
"""

import json
import os
import signal
import subprocess
import time
import uuid
from pathlib import Path

import requests
import websocket

from harness import places
from harness.client import Person, api
from harness.hub import Hub, session_members
from harness.steps import Steps, require, same, wait_until

PASSWORD = "a-password-for-the-chaos"
TOKEN = "the-token-of-the-chaos-service-0123456789"
CONFIG = f"""
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = {PASSWORD!r}
c.Authenticator.allowed_users = {{"ada", "bob"}}
c.JupyterHub.services = [{{"name": "chaos", "api_token": {TOKEN!r}}}]
c.JupyterHub.load_roles = [{{"name": "chaos", "services": ["chaos"], "scopes": ["admin:users", "admin:servers", "list:users", "access:servers"]}}]
"""
#: What each death of a proxy may cost, and after how long nobody waits for it any more.
PROXY_BACK, PROXY_BACK_AT_WORST = 1.0, 10.0
#: How long a program takes to begin on a machine that has time for it. Where it takes longer, everything does, and a
#: proxy may too, but never more than so many times.
BEGIN, OVERLOAD_AT_WORST = 0.25, 3.0


def leave(servers: bool, proxy: bool) -> tuple[str, str]:
    return f"--JupyterHub.cleanup_servers={servers}", f"--JupyterHub.cleanup_proxy={proxy}"


class Kernel:
    """A kernel with its websocket, as an open notebook has it."""

    def __init__(self, person: Person):
        self.person, self.base = person, f"/user/{person.name}/"
        made = person.call("POST", f"{self.base}api/kernels", {"name": "python3"})
        same(made.status_code, 201, "POST api/kernels")
        self.id = made.json()["id"]
        self.session = uuid.uuid4().hex
        self.open()
        self.pid = int(self.run("import os, time; state = 0; print(os.getpid())"))

    def open(self) -> None:
        self.socket = self.person.websocket(f"{self.base}api/kernels/{self.id}/channels")
        self.socket.settimeout(60)

    def send(self, code: str) -> str:
        message = uuid.uuid4().hex
        header = {"msg_id": message, "msg_type": "execute_request", "username": self.person.name, "session": self.session, "version": "5.3", "date": ""}
        content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False}
        self.socket.send(json.dumps({"header": header, "parent_header": {}, "metadata": {}, "channel": "shell", "content": content, "buffers": []}))
        return message

    def receive(self, message: str) -> str:
        """Read until the cell of `message` is done; what it printed."""
        printed = ""
        while True:
            got = json.loads(self.socket.recv())
            if got.get("parent_header", {}).get("msg_id") != message:
                continue
            if got["msg_type"] == "stream":
                printed += got["content"]["text"]
            if got["msg_type"] == "error":
                raise AssertionError(f"the cell failed: {got['content']}")
            if got["msg_type"] == "status" and got["content"]["execution_state"] == "idle":
                return printed

    def run(self, code: str) -> str:
        return self.receive(self.send(code))

    def goes_on(self) -> None:
        """The same process, with the state it had, over the socket that is open."""
        before = int(self.run("print(state)"))
        same(self.run("state += 1; print(os.getpid(), state)").split(), [str(self.pid), str(before + 1)], f"{self.person.name}'s kernel: pid, state")


class Story:
    def __init__(self, hub: Hub, steps: Steps):
        self.hub, self.steps = hub, steps
        self.ours = hub.kind == "orrery"
        self.people = [Person(hub.origin, name, PASSWORD) for name in ("ada", "bob")]
        self.kernels: list[Kernel] = []
        self.servers: dict[str, int] = {}

    def tell(self) -> None:
        step = self.steps.step
        with step("a hub with two servers, each with a kernel and its websocket"):
            self.hub.start(*leave(False, False)).wait_running()
            for person in self.people:
                person.sign_in()
                same(self.api("POST", f"/users/{person.name}/server").status_code in (201, 202), True, "POST server")
            for person in self.people:
                wait_until(lambda: self.server_of(person.name), f"{person.name}'s server", 90)
                same(person.page(f"/user/{person.name}/lab").status_code, 200, "GET lab")
                self.kernels.append(Kernel(person))
            self.servers = {person.name: self.server_pid(person.name) for person in self.people}
        if not self.kernels:
            return
        with step("kill -9 of the hub: nobody who works notices"):
            self.over_the_gap(lambda: self.end(signal.SIGKILL, -signal.SIGKILL))
        with step("SIGTERM with cleanup_servers and cleanup_proxy off: nobody who works notices"):
            self.over_the_gap(lambda: self.end(signal.SIGTERM, 0))
        with step("SIGINT with both off: the same"):
            self.over_the_gap(lambda: self.end(signal.SIGINT, 0))
        with step("two signals at once are one wish"):
            self.over_the_gap(lambda: self.end(signal.SIGTERM, 0, again=True))
        if self.ours:
            with step("kill -9 of the proxy: all routes are served again within a second, by the same hub"):
                self.proxy_dies()
            with step("kill -9 of hub and proxy together: a new proxy serves all routes at once"):
                self.both_die()
        with step("cleanup_servers off, cleanup_proxy on: servers live on without a proxy"):
            self.restart(leave(False, True))
            self.end(signal.SIGTERM, 0)
            same((self.proxy_is_there(), self.living_servers()), (False, ["ada", "bob"]), "proxy, servers")
        with step("cleanup_servers on, cleanup_proxy off: the proxy lives on without servers"):
            self.hub.start(*leave(True, False)).wait_running()
            for kernel in self.kernels:
                kernel.open()
                kernel.goes_on()
            self.end(signal.SIGTERM, 0)
            same((self.proxy_is_there(), self.living_servers()), (True, []), "proxy, servers")
        with step("both on: nothing is left"):
            self.hub.start(*leave(True, True)).wait_running()
            same(self.api("POST", "/users/ada/server").status_code in (201, 202), True, "POST server")
            wait_until(lambda: self.server_of("ada"), "ada's server", 90)
            self.servers = {"ada": self.server_pid("ada")}
            self.end(signal.SIGTERM, 0)
            same((self.proxy_is_there(), self.living_servers()), (False, []), "proxy, servers")
            left = [pid for root in self.hub.roots for pid in session_members(root) if is_alive(pid)]
            same(left, [], "processes that are left")

    # --- ends and beginnings

    def end(self, how: int, code: int, *, again: bool = False) -> None:
        self.hub.process.send_signal(how)
        if again:
            self.hub.process.send_signal(how)
        same(self.hub.wait_exit(60), code, "the hub's exit code")

    def restart(self, arguments: tuple[str, str]) -> None:
        self.end(signal.SIGKILL, -signal.SIGKILL)
        self.hub.start(*arguments).wait_running()

    def over_the_gap(self, end) -> None:
        """Cells print without a pause from before the hub's end until after its next start."""
        running = [kernel.send("for number in range(60):\n    print(number, flush=True); time.sleep(0.05)") for kernel in self.kernels]
        end()
        for person in self.people:
            same(requests.get(f"{self.hub.origin}/user/{person.name}/api", timeout=10).status_code, 200, f"{person.name}'s server without a hub")
        self.hub.start(*leave(False, False)).wait_running()
        if self.ours:
            for kernel, message in zip(self.kernels, running):
                same(kernel.receive(message).split(), [str(number) for number in range(60)], f"what {kernel.person.name}'s cell printed")
        else:
            for kernel in self.kernels:
                wait_until(lambda: self.is_reached(kernel.person.name), "the route", 30)
                kernel.open()
        for kernel in self.kernels:
            kernel.goes_on()
        self.nothing_is_lost()

    def nothing_is_lost(self) -> None:
        same({name: self.server_pid(name) for name in self.servers}, self.servers, "processes of the servers")
        for person in self.people:
            same(person.page(f"/user/{person.name}/lab").status_code, 200, f"{person.name}'s lab")
            same(person.call("GET", f"/hub/api/users/{person.name}").json()["server"], f"/user/{person.name}/", "the server")

    def proxy_dies(self) -> None:
        hub, took = self.hub.process.pid, []
        paths = ["/hub/login", "/user/ada/api", "/user/bob/api"]
        overload = seconds_to_begin()
        for _ in range(5):
            old = self.proxy_pid()
            os.kill(old, signal.SIGKILL)
            begun = time.monotonic()
            wait_until(lambda: all(self.answers(path) for path in paths), "all routes", PROXY_BACK_AT_WORST, pause=0.005)
            seconds = time.monotonic() - begun
            require(self.proxy_pid() != old, "the old proxy's pid file is still there")
            before, overload = overload, seconds_to_begin()
            limit = PROXY_BACK * min(max(before / BEGIN, overload / BEGIN, 1), OVERLOAD_AT_WORST)
            took.append((seconds, limit))
        told = ", ".join(f"{seconds:.2f} of {limit:.2f}" for seconds, limit in took)
        print("      seconds without a proxy: " + told)
        require(all(seconds <= limit for seconds, limit in took), f"seconds until all routes were served, of those allowed: {told}")
        same((self.hub.process.poll(), self.hub.process.pid), (None, hub), "the hub")
        for kernel in self.kernels:
            kernel.open()
            kernel.goes_on()
        self.nothing_is_lost()

    def both_die(self) -> None:
        proxy = self.proxy_pid()
        self.end(signal.SIGKILL, -signal.SIGKILL)
        os.kill(proxy, signal.SIGKILL)
        self.hub.start(*leave(False, False)).wait_running()
        wait_until(lambda: self.answers("/user/ada/api") and self.answers("/user/bob/api"), "all routes", PROXY_BACK_AT_WORST, pause=0.005)
        for kernel in self.kernels:
            kernel.open()
            kernel.goes_on()
        self.nothing_is_lost()

    # --- what is the case

    def api(self, method: str, path: str) -> requests.Response:
        return api(self.hub.origin, TOKEN, method, path)

    def server_of(self, name: str) -> str | None:
        return self.api("GET", f"/users/{name}").json()["server"]

    def server_pid(self, name: str) -> int:
        return self.api("GET", f"/users/{name}?include_stopped_servers").json()["servers"][""]["state"]["pid"]

    def living_servers(self) -> list[str]:
        return sorted(name for name, pid in self.servers.items() if is_alive(pid))

    def proxy_pid(self) -> int:
        return int((self.hub.folder / "jupyterhub-proxy.pid").read_text())

    def proxy_is_there(self) -> bool:
        try:
            requests.get(self.hub.origin + "/hub/login", timeout=5, allow_redirects=False)
        except requests.ConnectionError:
            return False
        return True

    def is_reached(self, name: str) -> bool:
        return self.answers(f"/user/{name}/api")

    def answers(self, path: str) -> bool:
        try:
            return requests.get(self.hub.origin + path, timeout=2, allow_redirects=False).status_code == 200
        except requests.RequestException:
            return False


def seconds_to_begin() -> float:
    """How long the machine takes just now to start the program, which does nothing then."""
    begun = time.monotonic()
    subprocess.run([places.orrery_binary(), "--version"], check=True, stdout=subprocess.DEVNULL, timeout=60)
    return time.monotonic() - begun


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def tell(kind: str, steps: Steps) -> None:
    with Hub(kind, CONFIG) as hub:
        failed = len(steps.failed)
        Story(hub, steps).tell()
        if len(steps.failed) > failed:
            print("-- the end of the hub's log\n" + hub.log_tail(60))
