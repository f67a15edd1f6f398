"""One hub, upstream's or ours, started from a configuration file of its own.

Both kinds get the same `jupyterhub_config.py`, the same command line and the
same environment, so a difference seen by a test is a difference of the hubs.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import requests

from . import places

KINDS = ("upstream", "orrery")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def command(kind: str) -> list[str]:
    if kind == "upstream":
        return [str(places.venv_bin() / "jupyterhub")]
    return [str(places.orrery_binary())]


def environment(**extra: str) -> dict[str, str]:
    """The environment of a hub: nothing of the tester's own Jupyter or proxy settings."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("JUPYTER", "CONFIGPROXY", "PYTHON")) and not name.lower().endswith("_proxy")
    }
    kept["PATH"] = places.search_path()
    return kept | extra


class Hub:
    """A hub in a folder of its own; `with Hub(...) as hub:` stops it at the end."""

    def __init__(self, kind: str, config: str = "", *, folder: Path | None = None, simple: bool = True, keep: bool = False):
        self.kind = kind
        self.keep = keep or bool(os.environ.get("ORRERY_KEEP"))
        self.folder = Path(folder or tempfile.mkdtemp(prefix=f"orrery-{kind}-"))
        self.port, self.hub_port, self.api_port = free_port(), free_port(), free_port()
        self.origin = f"http://127.0.0.1:{self.port}"
        self.hub_origin = f"http://127.0.0.1:{self.hub_port}"
        self.log_path = self.folder / "hub.log"
        self.config_path = self.folder / "jupyterhub_config.py"
        self.config_path.write_text(self._base_config(simple) + config)
        self.process: subprocess.Popen | None = None
        self.started_at = 0.0
        #: The process ids of all lives of the hub: each leads the session of what it started.
        self.roots: list[int] = []

    def _base_config(self, simple: bool) -> str:
        text = f"""\
c = get_config()  # noqa
c.JupyterHub.bind_url = "http://127.0.0.1:{self.port}"
c.JupyterHub.hub_ip = "127.0.0.1"
c.JupyterHub.hub_port = {self.hub_port}
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{self.api_port}"
c.JupyterHub.db_url = "sqlite:///jupyterhub.sqlite"
c.JupyterHub.cookie_secret_file = "jupyterhub_cookie_secret"
"""
        if simple:
            homes = self.folder / "homes"
            homes.mkdir(exist_ok=True)
            text += f"""\
c.JupyterHub.spawner_class = "simple"
c.SimpleLocalProcessSpawner.home_dir_template = {str(homes / "{username}")!r}
"""
            if os.geteuid() == 0:
                text += 'c.Spawner.args = ["--allow-root"]\n'
        return text

    def start(self, *arguments: str, **extra_environment: str) -> "Hub":
        log = open(self.log_path, "ab")
        self.log_start = log.tell()
        self.started_at = time.monotonic()
        self.process = subprocess.Popen(
            [*command(self.kind), "-f", str(self.config_path), *arguments],
            cwd=self.folder,
            env=environment(**extra_environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.roots.append(self.process.pid)
        log.close()
        return self

    def wait_ready(self, seconds: float = 60) -> float:
        """Wait until the login page comes through the proxy; gives the seconds since the start."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"the hub ended with {self.process.returncode}:\n{self.log_tail()}")
            try:
                if requests.get(self.origin + "/hub/login", timeout=2, allow_redirects=False).status_code == 200:
                    return time.monotonic() - self.started_at
            except requests.RequestException:
                pass
            time.sleep(0.01)
        raise AssertionError(f"the hub was not ready after {seconds} s:\n{self.log_tail()}")

    def wait_running(self, seconds: float = 60) -> None:
        """Wait until the hub says that it runs: the login page may come before servers are found again."""
        self.wait_ready(seconds)
        deadline = time.monotonic() + seconds
        while "JupyterHub is now running" not in self.log_path.read_bytes()[self.log_start :].decode(errors="replace"):
            if time.monotonic() > deadline:
                raise AssertionError(f"the hub did not say that it runs after {seconds} s:\n{self.log_tail()}")
            time.sleep(0.02)

    def log_text(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def log_tail(self, lines: int = 30) -> str:
        return "\n".join(self.log_text().splitlines()[-lines:])

    def wait_exit(self, seconds: float = 20) -> int:
        return self.process.wait(seconds)

    def stop(self) -> None:
        """End the hub as an operator would, then whatever its session still holds."""
        if self.process is not None:
            members = session_members(self.process.pid)
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGTERM)
                try:
                    self.process.wait(20)
                except subprocess.TimeoutExpired:
                    self.process.kill()
                    self.process.wait(5)
            for root in self.roots:
                members |= session_members(root)
            for pid in members:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        if not self.keep:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> "Hub":
        return self

    def __exit__(self, *_exception) -> None:
        self.stop()


def session_members(root: int) -> set[int]:
    """The processes that descend from `root`, or share its session: what a hub has started."""
    parents: dict[int, int] = {}
    members: set[int] = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(entry.name)] = int(fields[1])
        if int(fields[3]) == root:
            members.add(int(entry.name))
    grown = True
    while grown:
        found = {pid for pid, parent in parents.items() if (parent == root or parent in members) and pid not in members}
        members |= found
        grown = bool(found)
    members.discard(root)
    return members
