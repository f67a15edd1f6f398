"""A throw-away PostgreSQL and MariaDB, which a test may stop and start again, and databases in them."""

import os
import secrets
import shlex
import signal
import subprocess
import time
from pathlib import Path
from urllib.parse import urlsplit

from .places import CHECKOUT
from .steps import wait_until

SCRIPTS = CHECKOUT / "tests" / "databases"
#: Kinds of databases, as tests name them.
KINDS = ("sqlite", "postgres", "mysql")


class Servers:
    """Both servers, started by `tests/databases/start.sh`; `with Servers() as servers:` stops them at the end."""

    def __enter__(self) -> "Servers":
        printed = subprocess.run([SCRIPTS / "start.sh"], stdout=subprocess.PIPE, text=True, check=True, timeout=120).stdout
        said = dict(line.removeprefix("export ").split("=", 1) for line in printed.splitlines())
        said = {name: shlex.split(value)[0] for name, value in said.items()}
        self.folder = Path(said["ORRERY_TEST_DATABASES_DIR"])
        self.urls = {"postgres": said["ORRERY_TEST_POSTGRES_URL"], "mysql": said["ORRERY_TEST_MYSQL_URL"]}
        self.commands = {}
        self.children: dict[str, subprocess.Popen] = {}
        for kind in self.urls:
            process = Path("/proc") / self.pid_file(kind).read_text().strip()
            owner = process.stat()
            self.commands[kind] = (process.joinpath("cmdline").read_text().split("\0")[:-1], owner.st_uid, owner.st_gid)
        return self

    def __exit__(self, *_exception) -> None:
        # Those that we started are ours to wait for.
        for kind, child in self.children.items():
            if child.poll() is None:
                self.stop(kind)
            self.pid_file(kind).unlink()
        subprocess.run([SCRIPTS / "stop.sh", self.folder], check=False, timeout=60)

    def pid_file(self, kind: str) -> Path:
        return self.folder / f"{kind}.pid"

    def stop(self, kind: str) -> None:
        """Stop a server as its own tools do on a restart: sessions are cut, what was committed stays."""
        pid = int(self.pid_file(kind).read_text())
        os.kill(pid, signal.SIGINT if kind == "postgres" else signal.SIGTERM)
        if kind in self.children:
            self.children[kind].wait(30)
        else:
            wait_until(lambda: not running(pid), f"the end of {kind}", 30, pause=0.01)

    def start(self, kind: str) -> float:
        """Start it again where it was; gives the moment at which it answered."""
        command, uid, gid = self.commands[kind]
        rights = {"user": uid, "group": gid, "extra_groups": []} if os.geteuid() == 0 else {}
        with open(self.folder / f"{kind}-again.log", "ab") as log:
            self.children[kind] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **rights)
        self.pid_file(kind).write_text(str(self.children[kind].pid))
        wait_until(lambda: self._answers(kind), f"{kind} after its restart", 30, pause=0.02)
        return time.monotonic()

    def _answers(self, kind: str) -> bool:
        try:
            self.connect(kind).close()
        except Exception:  # each driver has its own errors for "not yet"
            return False
        return True

    def connect(self, kind: str, database: str | None = None):
        """A connection of Python's own driver, each statement of which is committed at once."""
        url = urlsplit(self.urls[kind])
        database = database or url.path[1:]
        if kind == "postgres":
            import psycopg2

            connection = psycopg2.connect(host=url.hostname, port=url.port, user=url.username, password=url.password, dbname=database, connect_timeout=5)
            connection.autocommit = True
            return connection
        import pymysql

        return pymysql.connect(host=url.hostname, port=url.port, user=url.username, password=url.password, database=database, autocommit=True, connect_timeout=5)

    def execute(self, kind: str, *statements: str, database: str | None = None) -> None:
        connection = self.connect(kind, database)
        try:
            for statement in statements:
                with connection.cursor() as cursor:
                    cursor.execute(statement)
        finally:
            connection.close()

    def as_root(self, *statements: str) -> None:
        """Statements by MariaDB's own administrator, who may make users."""
        import pymysql

        password = urlsplit(self.urls["mysql"]).password
        with pymysql.connect(unix_socket=str(self.folder / "mysql" / "socket"), user="root", password=password) as connection:
            for statement in statements:
                with connection.cursor() as cursor:
                    cursor.execute(statement)

    def new_database(self, kind: str) -> tuple[str, str]:
        """An empty database: its name, and its URL as SQLAlchemy reads it."""
        name = "orrery_" + secrets.token_hex(6)
        self.execute(kind, f"CREATE DATABASE {name}" + (" CHARACTER SET utf8mb4" if kind == "mysql" else ""))
        base = self.urls[kind].rpartition("/")[0]
        if kind == "postgres":
            return name, base.replace("postgresql://", "postgresql+psycopg2://") + f"/{name}"
        return name, base.replace("mysql://", "mysql+pymysql://") + f"/{name}?charset=utf8mb4"


def running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
