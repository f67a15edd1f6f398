#!/usr/bin/env python3
"""A hub that is an ordinary user, set up as docs/unprivileged-hub.md says: by sudo.

    python tests/system_users/unprivileged.py

Needs root, to make the accounts and the rule for sudo; both are removed again. Our hub alone: JupyterHub
has no helper of its own.
"""

import os
import pwd
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]
from harness import places, reachable  # noqa: E402
from harness.client import Person, ask_terminal  # noqa: E402
from harness.hub import Hub, command, environment  # noqa: E402
from harness.steps import Steps, exit_with, require, same, wait_until  # noqa: E402
from harness.system_users import SystemUsers, processes_of  # noqa: E402

PASSWORD = "a password for a while"
PLANTED = "a-secret-of-the-hubs-environment"


def helper() -> Path:
    return places.orrery_binary().with_name("orrery-session")


class OrdinaryHub(Hub):
    """A hub that runs as `account`, in a folder that belongs to it."""

    def __init__(self, account: pwd.struct_passwd):
        self.account = account
        super().__init__("orrery", self.config(), simple=False)
        for place in (self.folder, self.config_path):
            os.chown(place, account.pw_uid, account.pw_gid)

    def config(self) -> str:
        return f"""
c.Authenticator.allow_all = True
c.JupyterHub.session_helper = ["sudo", "-n", {str(helper())!r}]
c.PAMAuthenticator.open_sessions = True
"""

    def start(self, *arguments: str, **extra_environment: str) -> "OrdinaryHub":
        with open(self.log_path, "ab") as log:
            self.started_at = time.monotonic()
            self.process = subprocess.Popen(
                [*command(self.kind), "-f", str(self.config_path), *arguments],
                cwd=self.folder,
                env=environment(HOME=self.account.pw_dir, **extra_environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=self.account.pw_uid,
                group=self.account.pw_gid,
                extra_groups=[],
            )
        self.roots.append(self.process.pid)
        return self


class Rule:
    """Lets an account run the helper by sudo, and nothing else."""

    def __init__(self, account: str):
        self.file = Path("/etc/sudoers.d", account)
        self.file.write_text(f'{account} ALL=(root) NOPASSWD: {helper()} ""\n')
        self.file.chmod(0o440)

    def __enter__(self) -> "Rule":
        return self

    def __exit__(self, *_exception) -> None:
        self.file.unlink(missing_ok=True)


def run() -> int:
    print("== a hub that is not root", flush=True)
    steps = Steps("unprivileged hub")
    with SystemUsers("hub", "ada", password=PASSWORD) as users:
        with OrdinaryHub(users["hub"]) as hub, steps.step("without the rule it says what to do, and ends"):
            same(hub.start().wait_exit(), 1, "exit code")
            for text in ("sudo: ", "c.JupyterHub.session_helper", "docs/unprivileged-hub.md"):
                require(text in hub.log_text(), f"{text!r} is not in:\n{hub.log_tail()}")
        with Rule(users["hub"].pw_name), OrdinaryHub(users["hub"]) as hub:
            with steps.step("the hub starts as an ordinary user"):
                hub.start(PLANTED_SECRET=PLANTED).wait_ready()
                same(Path(f"/proc/{hub.process.pid}").stat().st_uid, users["hub"].pw_uid, "the hub's user")
            if not steps.failed:
                story(hub, users, steps)
            if steps.failed:
                print("-- the end of the hub's log\n" + hub.log_tail(40))
    return steps.finish()


def story(hub: OrdinaryHub, users: SystemUsers, steps: Steps) -> None:
    ada = users["ada"]
    person = Person(hub.origin, ada.pw_name, PASSWORD)
    with steps.step("PAM lets the right password in, and no other"):
        same(Person(hub.origin, ada.pw_name, "wrong").sign_in().status_code, 403, "status of a wrong password")
        same(person.sign_in().status_code, 302, "status of the right one")
    with steps.step("the server runs as its owner"):
        person.page(f"/hub/spawn/{person.name}")
        answers = lambda: person.page(f"/user/{person.name}/lab") and person.page(f"/user/{person.name}/api/status").status_code == 200  # noqa: E731
        wait_until(answers, "the server", 60, pause=1)
        require(processes_of(ada.pw_uid), "no process of the owner's")
        line = 'echo "[$(id -un)|$HOME|end]"'
        shown = ask_terminal(person, f"/user/{person.name}/", line, "|end]\r")
        require(f"[{ada.pw_name}|{ada.pw_dir}|end]" in shown, f"the terminal showed {shown!r}")
    if steps.failed:
        return
    with steps.step("the server has nothing of the hub's, of sudo's or of the helper's"):
        for pid in processes_of(ada.pw_uid):
            text = Path(f"/proc/{pid}/environ").read_bytes()
            for word in (PLANTED, "PLANTED_SECRET", "SUDO_", "CONFIGPROXY_AUTH_TOKEN"):
                require(word.encode() not in text, f"{word} stands in the environment of {pid}")
    with steps.step("a hub that was killed finds the server again"):
        before = set(processes_of(ada.pw_uid))
        hub.process.kill()
        hub.process.wait(10)
        hub.start().wait_ready()
        same(person.page(f"/user/{person.name}/api/status").status_code, 200, "status of the server")
        require(before <= set(processes_of(ada.pw_uid)), "a process of the owner's is gone")
    with steps.step("the next hub stops it, and nothing is left"):
        person.page("/hub/home")
        stopped = person.call("DELETE", f"/hub/api/users/{person.name}/server")
        require(stopped.status_code in (202, 204), f"{stopped.status_code} {stopped.text[:300]}")
        wait_until(lambda: not processes_of(ada.pw_uid), "the end of the owner's processes", 45)
        state = f"/hub/api/users/{person.name}"
        wait_until(lambda: not person.call("GET", state).json().get("pending"), "the end of the stop", 30)


def main() -> None:
    reachable.ensure()
    exit_with(run())


if __name__ == "__main__":
    main()
