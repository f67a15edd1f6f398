"""Real users of the system, made for a test and removed after it."""

import os
import pwd
import secrets
import signal
import subprocess
import time
from pathlib import Path


class SystemUsers:
    """`with SystemUsers("ada", "bob") as users:`; `users["ada"]` is the account's entry in passwd.

    The accounts get names of their own, so that nobody's real account is touched.
    """

    def __init__(self, *names: str, password: str):
        tag = secrets.token_hex(2)
        self.names = {name: f"orrery-{name}-{tag}" for name in names}
        self.group = f"orrery-class-{tag}"
        self.password = password

    def __enter__(self) -> "SystemUsers":
        run("groupadd", self.group)
        for name in self.names.values():
            run("useradd", "--create-home", "--shell", "/bin/bash", "--groups", self.group, name)
        lines = "".join(f"{name}:{self.password}\n" for name in self.names.values())
        subprocess.run(["chpasswd"], input=lines, text=True, check=True)
        return self

    def __exit__(self, *_exception) -> None:
        for name in self.names.values():
            self._end_processes(name)
            subprocess.run(["userdel", "--remove", name], check=False, stderr=subprocess.DEVNULL)
        subprocess.run(["groupdel", self.group], check=False)

    def __getitem__(self, name: str) -> pwd.struct_passwd:
        return pwd.getpwnam(self.names[name])

    def _end_processes(self, name: str) -> None:
        """Whatever a failed test left running; the account was made here, so all of it is ours."""
        for _ in range(50):
            left = processes_of(pwd.getpwnam(name).pw_uid)
            if not left:
                return
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            time.sleep(0.1)


def run(*words: str) -> None:
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL, capture_output=True, text=True)


def processes_of(uid: int) -> list[int]:
    """The live processes of a user."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            status = (entry / "status").read_text()
        except OSError:
            continue
        fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        if int(fields["Uid"].split()[0]) == uid and not fields["State"].strip().startswith("Z"):
            found.append(int(entry.name))
    return found
