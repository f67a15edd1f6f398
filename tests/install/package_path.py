"""The Debian package's life on a clean machine, with people at work on it."""

import hashlib
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import requests

from harness.client import Person, run_cell
from machine import PASSWORD, Machine, cache, require, same, tell, wait_until

CONFIG = "/etc/jupyterhub/jupyterhub_config.py"
ORIGIN = "http://127.0.0.1:8000"
# What an administrator adds after the installation.
OURS = """
c.Authenticator.allowed_users = {"ada", "bob"}
c.Authenticator.admin_users = {"ada"}
c.JupyterHub.allow_named_servers = True
"""


def tell_story(steps, folder: Path, shots: Path) -> None:
    with Machine("package", f"{folder}:/packages") as machine:
        story = Story(machine, steps)
        browser = lambda: tell("story.mjs", 300, "package", SimpleNamespace(origin=ORIGIN), shots / "package", steps)  # noqa: E731
        for part in (story.install, browser, story.upgrade, story.stop_and_start, story.boot_again, story.remove, story.purge):
            if part == story.boot_again:
                machine.halt()
                machine.boot()
            with machine.network():
                part()
            # Each part builds on the one before.
            if steps.failed:
                break
        if steps.failed:
            print("-- the end of the hub's log\n" + machine.log())


class Story:
    def __init__(self, machine: Machine, steps):
        self.machine, self.steps, self.step = machine, steps, steps.step
        self.ada = Person(ORIGIN, "ada", PASSWORD)
        self.token = ""

    def install(self) -> None:
        machine = self.machine
        with self.step("the package installs"):
            machine.apt("update")
            machine.apt("install", "--no-install-recommends", "/packages/orrery_0.1.0-1_amd64.deb")
        with self.step("the service has started by itself, under both its names"):
            for name in ("orrery", "jupyterhub"):
                same(machine.shown(name, "ActiveState"), "active", f"state of {name}")
                same(machine.shown(name, "Id"), "orrery.service", f"what {name} means")
            same(machine.run("systemctl", "is-enabled", "orrery").strip(), "enabled", "at boot")
        with self.step("the login page comes from the public port"):
            same(self.ada.page("/hub/login").status_code, 200, "status")
        with self.step("configuration and state are root's alone"):
            same(self.facts(CONFIG), "640 root root", CONFIG)
            same(self.facts("/srv/jupyterhub"), "700 root root", "/srv/jupyterhub")
            for name in ("jupyterhub.sqlite", "jupyterhub_cookie_secret"):
                require(machine.file(f"/srv/jupyterhub/{name}").exists(), f"no {name}")
            require("jupyterhub_config.py" in machine.run("dpkg-query", "-W", "-f", "${Conffiles}", "orrery"), "not a conffile")
        with self.step("the programs run under all their names"):
            for name in ("/usr/bin/orrery", "/usr/lib/orrery/bin/jupyterhub", "/usr/lib/orrery/bin/configurable-http-proxy"):
                machine.run(name, "--version")
        with self.step("nobody comes in before the administrator says who"):
            machine.add_people("ada", "bob")
            require(self.ada.sign_in().status_code in (401, 403), "ada was let in")
        with self.step("JupyterLab installs where the documentation says"):
            self.as_documented("python3 -m venv /opt/jupyterhub", "/opt/jupyterhub/bin/pip install jupyterhub==6.1.1 jupyterlab==4.6.6")
        with self.step("a changed configuration is taken over by a restart"):
            with machine.file(CONFIG).open("a") as file:
                file.write(OURS)
            machine.run("systemctl", "restart", "orrery")
            self.comes_in()

    def as_documented(self, *lines: str) -> None:
        """Commands that docs/install.md names in these words; what they made is kept for the next time."""
        text = Path(__file__).parents[2].joinpath("docs", "install.md").read_text()
        for line in lines:
            require(line in text, f"docs/install.md does not say: {line}")
        kept = cache() / f"jupyterlab-{hashlib.sha256(' '.join(lines).encode()).hexdigest()[:16]}.tar.zst"
        folder = str(self.machine.root / "opt")
        if kept.exists():
            subprocess.run(["tar", "-C", folder, "--zstd", "-xpf", str(kept)], check=True, timeout=120)
            return
        for line in lines:
            self.machine.run(*line.split(), seconds=420)
        new = kept.with_suffix(".new")
        subprocess.run(["tar", "-C", folder, "--numeric-owner", "--zstd", "-cf", str(new), "jupyterhub"], check=True, timeout=120)
        new.rename(kept)

    def comes_in(self) -> None:
        """A login through the proxy; the hub may be starting."""
        person = Person(ORIGIN, "ada", PASSWORD)
        wait_until(lambda: answers(person, "/hub/login") == 200, "the login page")
        same(person.sign_in().status_code, 302, "status of the login")

    def upgrade(self) -> None:
        machine = self.machine
        with self.step("ada works: a server with a kernel, and a token"):
            same(self.ada.sign_in().status_code, 302, "status of the login")
            self.ada.page("/hub/spawn/ada")
            wait_until(lambda: answers(self.ada, "/user/ada/api/status") == 200, "the server", 60)
            require("42" in run_cell(self.ada, "/user/ada/", "kept = 42; print(kept)"), "the cell printed something else")
            made = self.ada.call("POST", "/hub/api/users/ada/tokens", {"note": "kept"})
            same(made.status_code, 201, "status of making a token")
            self.token = made.json()["token"]
        before, config = self.lives(), machine.file(CONFIG).read_text()
        with self.step("a new version installs while she works"):
            machine.apt("install", "/packages/orrery_0.1.0-2_amd64.deb")
            same(machine.run("dpkg-query", "-W", "-f", "${Version}", "orrery"), "0.1.0-2", "version")
            same(machine.shown("orrery", "ActiveState"), "active", "state")
        with self.step("it is a new hub, with the same configuration and the same state"):
            require(machine.shown("orrery", "MainPID") != before["hub"], "the old hub still runs")
            same(machine.file(CONFIG).read_text(), config, CONFIG)
            self.token_works()
        with self.step("her server and her kernel are the same ones, and the way to them never closed"):
            self.same_lives(before)
            same(answers(self.ada, "/user/ada/api/status"), 200, "status of the server")
        with self.step("`systemctl reload` keeps the hub"):
            hub = machine.shown("orrery", "MainPID")
            machine.run("systemctl", "reload", "orrery")
            self.comes_in()
            same(machine.shown("orrery", "MainPID"), hub, "the hub's number")
        with self.step("a hub that is killed comes back by itself, and nothing else is touched"):
            hub = machine.shown("orrery", "MainPID")
            require(hub != "0", "no hub runs")
            machine.run("kill", "-KILL", hub)
            wait_until(lambda: machine.shown("orrery", "MainPID") not in (hub, "0"), "a new hub", 30)
            wait_until(lambda: machine.shown("orrery", "ActiveState") == "active", "the service", 60)
            self.token_works()
            self.same_lives(before)

    def stop_and_start(self) -> None:
        machine = self.machine
        with self.step("with cleanup_servers and cleanup_proxy on, `systemctl stop` leaves no process"):
            with machine.file(CONFIG).open("a") as file:
                file.write("c.JupyterHub.cleanup_servers = c.JupyterHub.cleanup_proxy = True\n")
            machine.run("systemctl", "restart", "orrery")
            machine.run("systemctl", "stop", "orrery")
            same(machine.shown("orrery", "Result"), "success", "result of the stop")
            self.nothing_runs()
        with self.step("a broken configuration is given up after a few attempts, with a sentence in the log"):
            text = machine.file(CONFIG).read_text()
            machine.file(CONFIG).write_text(text + "c.JupyterHub.prot = 1\n")
            machine.run("systemctl", "start", "orrery", check=False)
            wait_until(lambda: machine.shown("orrery", "ActiveState") == "failed", "the end of the attempts", 60)
            require("prot" in machine.log(), machine.log())
            machine.file(CONFIG).write_text(text.replace("cleanup_proxy = True", "cleanup_proxy = False"))
            machine.run("systemctl", "reset-failed", "orrery")

    def boot_again(self) -> None:
        with self.step("after a reboot the hub is there by itself, with its state"):
            wait_until(lambda: self.machine.shown("orrery", "ActiveState") == "active", "the service", 60)
            self.token_works()
            self.comes_in()

    def remove(self) -> None:
        machine = self.machine
        with self.step("`apt remove` ends hub, proxy and servers, and keeps configuration and state"):
            ada = Person(ORIGIN, "ada", PASSWORD)
            ada.sign_in()
            ada.page("/hub/spawn/ada")
            wait_until(lambda: reaches(ada, "/user/ada/lab"), "the server", 60)
            machine.apt("remove", "orrery")
            self.nothing_runs()
            # Debian masks the unit of a package whose configuration is still there.
            require(machine.shown("orrery", "LoadState") in ("not-found", "masked"), "the unit is still there")
            for path in (CONFIG, "/srv/jupyterhub/jupyterhub.sqlite"):
                require(machine.file(path).exists(), f"{path} is gone")
        with self.step("installed again, it goes on where it was"):
            machine.apt("install", "--no-install-recommends", "/packages/orrery_0.1.0-2_amd64.deb")
            same(machine.shown("orrery", "ActiveState"), "active", "state")
            self.token_works()

    def purge(self) -> None:
        machine = self.machine
        with self.step("`apt purge` leaves nothing"):
            machine.apt("purge", "orrery")
            self.nothing_runs()
            left = machine.run("find", "/", "-xdev", "(", "-path", "/proc", "-o", "-path", "/packages", "-o", "-path", "/opt/jupyterhub", ")", "-prune",
                               "-o", "(", "-iname", "*orrery*", "-o", "-iname", "*jupyterhub*", ")", "-print").split()
            left = [path for path in left if not re.match(r"/(var/lib/dpkg|var/log|var/cache|home|root)/", path)]
            own_checkout = str(Path(__file__).parents[2])
            same([path for path in left if not path.startswith(own_checkout)], [], "what is left")
        with self.step("a service that the administrator already had under the name jupyterhub is left alone"):
            own = machine.file("/etc/systemd/system/jupyterhub.service")
            own.write_text("[Service]\nExecStart=/bin/sleep 1000\n")
            machine.run("systemctl", "daemon-reload")
            machine.apt("install", "--no-install-recommends", "/packages/orrery_0.1.0-2_amd64.deb")
            same(machine.shown("orrery", "ActiveState"), "active", "state of orrery")
            machine.apt("purge", "orrery")
            require(own.is_file() and not own.is_symlink() and "sleep" in own.read_text(), "the file was changed")

    def facts(self, path: str) -> str:
        return self.machine.run("stat", "-c", "%a %U %G", path).strip()

    def lives(self) -> dict[str, object]:
        """The processes that an upgrade must not touch, and the hub."""
        return {
            "hub": self.machine.shown("orrery", "MainPID"),
            "proxy": self.machine.processes("orrery proxy|configurable-http-proxy"),
            "server": self.machine.processes("jupyterhub-singleuser"),
            "kernel": self.machine.processes("ipykernel_launcher"),
        }

    def same_lives(self, before: dict[str, object]) -> None:
        now = self.lives()
        for part in ("proxy", "server", "kernel"):
            require(before[part], f"no {part} was running")
            same(now[part], before[part], f"numbers of the {part}")

    def token_works(self) -> None:
        def asked() -> int:
            try:
                headers = {"Authorization": f"token {self.token}"}
                return requests.get(f"{ORIGIN}/hub/api/user", headers=headers, timeout=10).status_code
            except requests.RequestException:
                return 0

        wait_until(lambda: asked() == 200, "an answer to the token", 60)

    def nothing_runs(self) -> None:
        def running() -> list[str]:
            found = self.machine.run("ps", "-eo", "pid,user,args", "--no-headers")
            return [line for line in found.splitlines() if re.search(r"orrery|jupyter|ipykernel", line) and "systemd-cgls" not in line]

        try:
            wait_until(lambda: not running(), "the end of all processes", 15)
        except AssertionError:
            raise AssertionError("still running:\n" + "\n".join(running())) from None


def answers(person: Person, path: str) -> int:
    try:
        return person.page(path).status_code
    except requests.RequestException:
        return 0


def reaches(person: Person, path: str) -> bool:
    """Whether a navigation ends on the server's own page, through its login if need be."""
    try:
        answer = person.page(path)
    except requests.RequestException:
        return False
    return answer.status_code == 200 and answer.url.startswith(ORIGIN + path)
