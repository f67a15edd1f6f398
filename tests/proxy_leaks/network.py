"""Three machines in one: the proxy, the people and the servers, each in a network namespace of its own.

A machine that lost its power says nothing: no FIN, no reset, no close frame. `silence` makes that real by taking
the machine's address away. The link stays up, so the proxy's kernel hears of nothing either.
"""

import os
import subprocess

PROXY, PEOPLE, SERVERS = "proxy", "people", "servers"
#: The range for measurements of RFC 2544; it lives inside the namespaces only.
_NETS = {PEOPLE: "198.18.1", SERVERS: "198.18.2"}


class NoNetwork(Exception):
    """This machine does not let us make network namespaces."""


class Network:
    """`with Network() as network:`; needs root and the `ip` program."""

    def __init__(self):
        self._mark = f"orrery-{os.getpid()}"
        self._made: list[str] = []

    def name(self, machine: str) -> str:
        return f"{self._mark}-{machine}"

    def address(self, machine: str, *, seen_from: str = PROXY) -> str:
        """The address of `machine`; the proxy has one towards each of the others."""
        if machine == PROXY:
            return f"{_NETS[seen_from]}.1"
        return f"{_NETS[machine]}.2"

    def within(self, machine: str, *command: str) -> list[str]:
        """The command line that runs `command` on `machine`; the process id is the command's own."""
        return ["ip", "netns", "exec", self.name(machine), *command]

    def __enter__(self) -> "Network":
        try:
            for machine in (PROXY, PEOPLE, SERVERS):
                _ip("netns", "add", self.name(machine))
                self._made.append(self.name(machine))
                self._on(machine, "link", "set", "lo", "up")
            for index, machine in enumerate((PEOPLE, SERVERS)):
                inner = f"to-{machine}"
                _ip("link", "add", inner, "netns", self.name(PROXY), "type", "veth", "peer", "name", "uplink", "netns", self.name(machine))
                self._on(PROXY, "address", "add", f"{_NETS[machine]}.1/24", "dev", inner)
                self._on(PROXY, "link", "set", inner, "up")
                self._on(machine, "link", "set", "uplink", "up")
                self._give_address(machine)
                self._remember_each_other(machine, inner)
        except (subprocess.CalledProcessError, FileNotFoundError) as error:
            self.__exit__()
            said = getattr(error, "stderr", "") or str(error)
            raise NoNetwork(f"cannot make network namespaces (root and iproute2 are needed): {said.strip()}") from error
        return self

    def __exit__(self, *_exception) -> None:
        for name in self._made:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)
        self._made.clear()

    def silence(self, machine: str) -> None:
        self._on(machine, "address", "flush", "dev", "uplink")

    def restore(self, machine: str) -> None:
        self._give_address(machine)

    def outbound(self) -> int:
        """The sockets that the proxy holds towards the servers: open, opening, or not yet closed by it."""
        states = ["established", "syn-sent", "close-wait"]
        found = subprocess.run(
            self.within(PROXY, "ss", "-Htn", *(word for state in states for word in ("state", state)), "dst", self.address(SERVERS)),
            check=True, capture_output=True, text=True, timeout=20,
        )
        return len(found.stdout.splitlines())

    def _give_address(self, machine: str) -> None:
        self._on(machine, "address", "replace", f"{_NETS[machine]}.2/24", "dev", "uplink")

    def _remember_each_other(self, machine: str, inner: str) -> None:
        """Fixed neighbours, so that a silent machine is not found out by ARP, as no machine behind a router is."""
        hardware = self._hardware(machine, "uplink")
        self._on(PROXY, "neighbour", "replace", f"{_NETS[machine]}.2", "lladdr", hardware, "dev", inner, "nud", "permanent")

    def _hardware(self, machine: str, device: str) -> str:
        told = subprocess.run(self.within(machine, "cat", f"/sys/class/net/{device}/address"), check=True, capture_output=True, text=True, timeout=20)
        return told.stdout.strip()

    def _on(self, machine: str, *words: str) -> None:
        _ip("-netns", self.name(machine), *words)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=20)
