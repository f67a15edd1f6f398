"""The proxies that are measured: started alike, on the same core, in front of the same server."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from load import Load, open_files, placed

TOKEN = "the-token-of-the-bench-0123456789abcdef"
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "tests"))
from harness import places  # noqa: E402


class Proxy:
    """A running proxy with its public address, its API (not nginx) and what it costs."""

    name = ""

    def __init__(self, server: str, cores: set[int], realtime: bool, arguments: tuple[str, ...] = ()):
        self.server = server
        self.folder = Path(tempfile.mkdtemp(prefix=f"bench-{self.name}-"))
        self.port, self.api_port = free_port(), free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.log = (self.folder / "log").open("wb")
        environment = os.environ | {"CONFIGPROXY_AUTH_TOKEN": TOKEN}
        self.process = subprocess.Popen(
            [*self.command(), *arguments], stdin=subprocess.DEVNULL, stdout=self.log, stderr=subprocess.STDOUT, env=environment,
            preexec_fn=lambda: placed(cores, realtime),
        )
        try:
            self._wait(self.port)
        except BaseException:
            self.stop()
            raise

    def command(self) -> list[str]:
        raise NotImplementedError

    def add_routes(self, load: Load, first: int, count: int, seconds: float = 150, pipeline: int = 16) -> dict:
        return load.ask(
            do="routes", address=f"127.0.0.1:{self.api_port}", token=TOKEN, prefix="/user/person-", target=f"http://{self.server}",
            seconds=seconds, pipeline=pipeline, **{"from": first, "count": count},
        )

    def pids(self) -> list[int]:
        """The process and its children: nginx's worker is one."""
        own = self.process.pid
        children = Path(f"/proc/{own}/task/{own}/children").read_text().split()
        return [own, *map(int, children)]

    def cpu_seconds(self) -> float:
        return sum(cpu_seconds(pid) for pid in self.pids())

    def rss_kb(self) -> int:
        """Memory of the process that serves: nginx's worker, not its master."""
        return max(rss_kb(pid) for pid in self.pids())

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _wait(self, port: int) -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except OSError:
                time.sleep(0.02)
        raise SystemExit(f"{self.name} does not start:\n{(self.folder / 'log').read_text(errors='replace')}")


class Orrery(Proxy):
    name = "orrery"
    program: list[str] = []

    def command(self) -> list[str]:
        return [
            *(self.program or [str(places.orrery_binary()), "proxy"]), "--ip", "127.0.0.1", "--port", str(self.port), "--api-ip", "127.0.0.1",
            "--api-port", str(self.api_port), "--log-level", "error",
        ]


class Chp(Proxy):
    name = "chp"

    def command(self) -> list[str]:
        return [
            str(places.node_modules() / ".bin" / "configurable-http-proxy"), "--ip", "127.0.0.1", "--port", str(self.port), "--api-ip", "127.0.0.1",
            "--api-port", str(self.api_port), "--log-level", "error",
        ]


class Nginx(Proxy):
    """As a careful administrator configures it in front of JupyterHub, and no log of requests, as the others."""

    name = "nginx"

    def command(self) -> list[str]:
        (self.folder / "nginx.conf").write_text(self.config())
        return [nginx_program(), "-p", str(self.folder), "-c", "nginx.conf", "-e", "stderr"]

    def config(self) -> str:
        return f"""
daemon off;
{"user root;" if os.geteuid() == 0 else ""}
worker_processes 1;
pid nginx.pid;
error_log stderr crit;
worker_rlimit_nofile {open_files()};
events {{ worker_connections {open_files() - 100}; }}
http {{
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    keepalive_requests 1000000000;
    client_max_body_size 0;
    map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
    upstream server {{ server {self.server}; keepalive 256; keepalive_requests 1000000000; }}
    proxy_http_version 1.1;
    proxy_set_header Host $http_host;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection $connection_upgrade;
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    proxy_set_header X-Forwarded-Proto $scheme;
    proxy_set_header X-Forwarded-Host $http_host;
    proxy_set_header X-Forwarded-Port $server_port;
    proxy_read_timeout 1d;
    # Nothing goes over the disk.
    proxy_max_temp_file_size 0;
    proxy_request_buffering off;
    server {{
        listen {self.address} backlog=1024;
        location / {{ proxy_pass http://server; }}
        # Larger buffers than the default make nginx faster here.
        location ~ /files/ {{ proxy_pass http://server; proxy_buffers 8 64k; proxy_buffer_size 64k; proxy_busy_buffers_size 128k; client_body_buffer_size 64k; }}
    }}
}}
"""

    def add_routes(self, load: Load, first: int, count: int, seconds: float = 0, pipeline: int = 1) -> dict:
        return {"added": 0}


def nginx_program() -> str:
    found = shutil.which("nginx", path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"]))
    if not found:
        raise SystemExit("nginx is missing: scripts/apt-install.sh nginx")
    return found


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def cpu_seconds(pid: int) -> float:
    """Time on a core of all threads, counted in nanoseconds by the scheduler."""
    return sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir()) / 1e9


def rss_kb(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0
