"""A clean machine to install things on: a container of scripts/container.sh, and its network from here."""

import ctypes
import importlib.util
import os
import secrets
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from harness import places  # noqa: E402
from harness.steps import require, same, wait_until  # noqa: E402

SCRIPT = places.CHECKOUT / "scripts" / "container.sh"
CLONE_NEWNET = 0x40000000
# tests/browser/run.py, which is called as the program of this folder is.
_spec = importlib.util.spec_from_file_location("browser_run", HERE.parent / "browser" / "run.py")
_browser = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_browser)
PASSWORD, tell = _browser.PASSWORD, _browser.tell


class Machine:
    """`with Machine("package") as machine:` makes, boots and removes one."""

    def __init__(self, purpose: str, *binds: str):
        self.name = f"test-{purpose}-{secrets.token_hex(2)}"
        self.binds = [word for folder in (*binds, *sources_of_a_debug_build()) for word in ("--bind-ro", folder)]

    def __enter__(self) -> "Machine":
        script("create", self.name)
        try:
            self.root = Path(script("path", self.name).strip())
            self.boot()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exception) -> None:
        if os.environ.get("ORRERY_KEEP"):
            print(f"-- kept: scripts/container.sh run {self.name} -- bash", flush=True)
        else:
            script("remove", self.name)

    def boot(self) -> None:
        script("start", self.name, *self.binds, seconds=120)

    def halt(self) -> None:
        script("stop", self.name)

    def run(self, *words: str, check: bool = True, seconds: float = 120, **environment: str) -> str:
        """What a command prints, standard error too; an assertion with it when the command fails."""
        settings = [word for key, value in environment.items() for word in ("--env", f"{key}={value}")]
        got = subprocess.run(
            [str(SCRIPT), "run", self.name, *settings, "--", *words],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", timeout=seconds,
        )
        require(not check or got.returncode == 0, f"{' '.join(words)} ended with {got.returncode}:\n{got.stdout[-4000:]}")
        return got.stdout

    def apt(self, *words: str) -> str:
        return self.run("apt-get", "-y", "-q", "-o", "Dpkg::Use-Pty=0", *words, seconds=300)

    def shown(self, unit: str, what: str) -> str:
        """A property of a unit as systemd shows it."""
        return self.run("systemctl", "show", "--value", "--property", what, unit).strip()

    def add_people(self, *names: str) -> None:
        # With numbers that no account of this host is likely to have: processes are seen from outside too.
        for number, name in enumerate(names, 42001):
            self.run("useradd", "--uid", str(number), "--create-home", "--shell", "/bin/bash", name)
        self.run("sh", "-c", "".join(f"echo '{name}:{PASSWORD}' | chpasswd; " for name in names))

    def processes(self, pattern: str) -> list[str]:
        """Numbers, as the machine itself counts, of the processes whose command line matches."""
        return self.run("pgrep", "-f", pattern, check=False).split()

    def file(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def log(self, lines: int = 40) -> str:
        return self.run("journalctl", "-u", "orrery", "--no-pager", "-n", str(lines), "-o", "cat", check=False)

    @contextmanager
    def network(self):
        """Within it this process, and what it starts, is in the machine's network: 127.0.0.1 is the machine's."""
        leader = int((self.root.parent / "leader").read_text().split()[0])
        with open("/proc/self/ns/net") as own, open(f"/proc/{leader}/ns/net") as theirs:
            enter(theirs.fileno())
            try:
                yield
            finally:
                enter(own.fileno())


def enter(namespace: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def script(*words: str, seconds: float = 1200) -> str:
    got = subprocess.run([str(SCRIPT), *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=seconds)
    require(got.returncode == 0, f"container.sh {' '.join(words)} ended with {got.returncode}:\n{got.stdout}{got.stderr}")
    return got.stdout


def cache() -> Path:
    """Where scripts/container.sh keeps what is made once."""
    return Path(os.environ.get("ORRERY_CACHE", Path.home() / ".cache" / "orrery")) / "container"


def sources_of_a_debug_build() -> list[str]:
    """A debug build reads its pages from the checkout it was built in; a release build has them in itself."""
    if os.environ.get("ORRERY_PROFILE", "debug") != "debug":
        return []
    return [str(places.CHECKOUT / part) for part in ("templates", "web", "crates/hub")]


def package(folder: Path, version: str) -> Path:
    """A Debian package of the programs as they were built last."""
    profile = os.environ.get("ORRERY_PROFILE", "debug")
    words = ["--profile", "dev" if profile == "debug" else profile, "--no-build", "--version", version, "--output", str(folder)]
    made = subprocess.run([str(places.CHECKOUT / "scripts" / "make-deb.sh"), *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, timeout=1500)
    require(made.returncode == 0, f"make-deb.sh ended with {made.returncode}")
    return Path(made.stdout.strip().splitlines()[-1])


def all_changed(output: str) -> dict[str, int]:
    """The sum that ansible-playbook prints for localhost."""
    line = next((line for line in output.splitlines() if line.startswith("localhost") and "changed=" in line), "")
    require(line, f"no sum in\n{output[-3000:]}")
    return {key: int(value) for key, value in (word.split("=") for word in line.split() if "=" in word)}


__all__ = ["HERE", "PASSWORD", "Machine", "all_changed", "cache", "package", "places", "require", "same", "script", "tell", "wait_until"]
