#!/usr/bin/env python3
"""The browser story with PAM and real system users, and what their servers may see of the hub.

    python tests/system_users/run.py --hub upstream|orrery|both

Needs root: two accounts with names of their own are made, and removed again.
"""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "browser")]
from harness import places, reachable  # noqa: E402
from harness.client import Person, ask_terminal  # noqa: E402
from harness.hub import KINDS, Hub  # noqa: E402
from harness.steps import Steps, exit_with, require, same, wait_until  # noqa: E402
from harness.system_users import SystemUsers, processes_of, run as command  # noqa: E402
from run import PASSWORD, tell  # noqa: E402

# No spawner and no authenticator is chosen: PAM and local processes are the defaults.
CONFIG = """
c.Authenticator.allow_all = True
c.JupyterHub.allow_named_servers = True
c.Spawner.default_url = "/lab"
c.Spawner.notebook_dir = "~/work of {username}"
"""
PLANTED = "a-secret-of-the-hubs-environment"
CRYPT_KEY = "cafe" * 16


def run(kind: str, shots: Path) -> int:
    print(f"== system users: {kind}", flush=True)
    steps = Steps(f"system users {kind}")
    with SystemUsers("ada", "bob", password=PASSWORD) as users, Hub(kind, CONFIG, simple=False) as hub:
        # As upstream needs it: the folder that servers are told to use must be there.
        for name in users.names:
            folder = Path(users[name].pw_dir, f"work of {users[name].pw_name}")
            folder.mkdir()
            os.chown(folder, users[name].pw_uid, users[name].pw_gid)
        with steps.step("the hub starts"):
            hub.start(PLANTED_SECRET=PLANTED, JUPYTERHUB_CRYPT_KEY=CRYPT_KEY).wait_ready()
        if not steps.failed:
            story(kind, hub, users, shots, steps)
            refusals(hub, users, steps)
        if steps.failed:
            print("-- the end of the hub's log\n" + hub.log_tail(40))
    return steps.finish()


def story(kind: str, hub: Hub, users: SystemUsers, shots: Path, steps: Steps) -> None:
    people = ",".join(users.names.values())
    tell("story.mjs", 300, kind, hub, shots / f"{kind}-system-users", steps, ORRERY_PEOPLE=people)
    for name in ("ada", "bob"):
        person = Person(hub.origin, users[name].pw_name, PASSWORD)
        with steps.step(f"{name}: the server runs"):
            require(person.sign_in().status_code == 302, "the login was refused")
            person.page(f"/hub/spawn/{person.name}")
            wait_until(lambda: person.page(f"/user/{person.name}/api/status").status_code == 200, "the server", 60)
        if steps.failed:
            return
        with steps.step(f"{name}: files and processes belong to the account"):
            ownership(users, name)
        with steps.step(f"{name}: a terminal shows the account, its groups, home and shell"):
            terminal(person, users, name)
        with steps.step(f"{name}: the server holds nothing of the hub's"):
            looks_through(hub, users, name)
    with steps.step("bob's account may not look into the hub, nor into ada's server"):
        pids = [hub.process.pid, *processes_of(users["ada"].pw_uid)]
        places_to_look = [f"/proc/{pid}/{part}" for pid in pids for part in ("environ", "fd", "mem", "maps")]
        places_to_look += [str(hub.folder / name) for name in ("jupyterhub.sqlite", "jupyterhub_cookie_secret")]
        for place in places_to_look:
            seen = as_user(users["bob"].pw_name, f"cat {place} 2>/dev/null | head -c 20; ls {place}/ 2>/dev/null | head")
            same(seen, "", f"what bob sees in {place}")
    with steps.step("no secret stands in any command line"):
        secrets = secrets_of(users)
        for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                text = cmdline.read_text(errors="replace")
            except OSError:
                continue
            for secret in secrets:
                require(secret not in text, f"{cmdline}: {text[:300]}")
    with steps.step("a stopped server leaves no process of its user behind"):
        person = Person(hub.origin, users["bob"].pw_name, PASSWORD)
        person.sign_in()
        person.page("/hub/home")
        stopped = person.call("DELETE", f"/hub/api/users/{person.name}/server")
        require(stopped.status_code in (202, 204), f"{stopped.status_code} {stopped.text[:300]}")
        wait_until(lambda: not processes_of(users["bob"].pw_uid), "the end of bob's processes", 30)


def ownership(users: SystemUsers, name: str) -> None:
    account = users[name]
    for pid in processes_of(account.pw_uid):
        status = Path(f"/proc/{pid}/status").read_text()
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        same(set(fields["Uid"].split()), {str(account.pw_uid)}, "user ids of the server")
        same(set(fields["Gid"].split()), {str(account.pw_gid)}, "group ids of the server")
        groups = sorted(set(os.getgrouplist(account.pw_name, account.pw_gid)))
        same(sorted({int(group) for group in fields["Groups"].split()} | {account.pw_gid}), groups, "groups of the server")
        same(int(fields["CapEff"], 16), 0, "capabilities")
        same(int(fields["CapInh"], 16), 0, "capabilities handed on")
    work = Path(account.pw_dir, f"work of {account.pw_name}")
    notebooks = list(work.glob("Untitled*.ipynb"))
    require(notebooks, f"the notebook of the story is not in {work}")
    for file in [*notebooks, *Path(account.pw_dir).rglob("*")]:
        same((file.lstat().st_uid, file.lstat().st_gid), (account.pw_uid, account.pw_gid), f"owner of {file}")


def terminal(person: Person, users: SystemUsers, name: str) -> None:
    account = users[name]
    line = 'echo "[$(id -un)|$(id -Gn)|$HOME|$USER|$SHELL|$(umask)|end]"'
    shown = ask_terminal(person, f"/user/{person.name}/", line, "|end]\r")
    answers = re.findall(r"\[([^$\[\]]*)\|end\]", shown)
    require(answers, f"the terminal showed {shown!r}")
    user, groups, home, named, shell, _umask = answers[-1].split("|")
    same((user, home, named, shell), (account.pw_name, account.pw_dir, account.pw_name, account.pw_shell), "account")
    require(users.group in groups.split(), f"groups {groups}")


def looks_through(hub: Hub, users: SystemUsers, name: str) -> None:
    hub_sockets = sockets_of(hub.process.pid)
    secret_file = (hub.folder / "jupyterhub_cookie_secret").read_text().strip()
    # Where the server's own words go; with upstream that is where the hub's go.
    account = users[name].pw_name
    own_logs = [hub.log_path] if hub.kind == "upstream" else [*hub.folder.rglob(f"{account}.log"), *hub.folder.rglob(f"{account}+*.log")]
    own_logs = list(map(str, own_logs))
    for pid in processes_of(users[name].pw_uid):
        environment = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
        for secret in (PLANTED, CRYPT_KEY, secret_file, PASSWORD, "CONFIGPROXY_AUTH_TOKEN", "PLANTED_SECRET"):
            require(secret not in environment, f"{secret} stands in the environment of {pid}")
        held = descriptors(pid)
        require(not hub_sockets & set(held.values()), f"{pid} holds a socket of the hub")
        hubs_own = [target for target in held.values() if target.startswith(str(hub.folder)) and target not in own_logs]
        same(hubs_own, [], f"the hub's files open in {pid}")


def descriptors(pid: int) -> dict[str, str]:
    held = {}
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            held[entry.name] = os.readlink(entry)
        except FileNotFoundError:
            pass
    return held


def sockets_of(pid: int) -> set[str]:
    return {target for target in descriptors(pid).values() if target.startswith("socket:")}


def secrets_of(users: SystemUsers) -> list[str]:
    """The password, the keys, and the tokens that running servers have in their environments."""
    found = [PASSWORD, PLANTED, CRYPT_KEY]
    for name in users.names:
        for pid in processes_of(users[name].pw_uid):
            environment = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
            found += [value for value in re.findall(r"(?:^|\0)(?:JUPYTERHUB|JPY)_API_TOKEN=([^\0]+)", environment)]
    require(len(found) > 3, "no server had a token")
    return found


def as_user(name: str, script: str) -> str:
    got = subprocess.run(["runuser", "-u", name, "--", "/bin/sh", "-c", script], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return got.stdout


def refusals(hub: Hub, users: SystemUsers, steps: Steps) -> None:
    """Who must not come in, by password or by account; each is undone before the next."""
    bob = users["bob"].pw_name

    def attempt(name: str = bob, password: str = PASSWORD) -> int:
        """The answer to a login; one that only says to wait is tried again."""
        person = Person(hub.origin, name, password)
        return wait_until(lambda: status if (status := person.sign_in().status_code) != 429 else None, "an answer", 90, pause=1)

    with steps.step("the right password is taken"):
        same(attempt(), 302, "status")
    cases = [
        ("a locked password", ["usermod", "--lock", bob], ["usermod", "--unlock", bob]),
        ("an expired account", ["chage", "--expiredate", "2001-01-01", bob], ["chage", "--expiredate", "-1", bob]),
        ("a password that must be changed", ["chage", "--lastday", "0", bob], ["chage", "--lastday", "2026-01-01", bob]),
        ("a password long expired", ["chage", "--lastday", "2001-01-01", "--maxdays", "30", "--inactive", "1", bob],
         ["chage", "--lastday", "2026-01-01", "--maxdays", "99999", "--inactive", "-1", bob]),
    ]
    for what, before, after in cases:
        with steps.step(f"{what} is refused"):
            command(*before)
            try:
                require(attempt() in (401, 403), "it was let in")
            finally:
                command(*after)
    with steps.step("a wrong password, an empty one and an unknown name are refused"):
        for name, password in ((bob, "wrong"), (bob, ""), ("orrery-nobody-here", PASSWORD), ("root\0", "x"), ("", "x")):
            status = attempt(name, password)
            require(status in (400, 401, 403), f"{name!r} with {password!r} got {status}")
    with steps.step("and the right one is taken still"):
        same(attempt(), 302, "status")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hub", choices=[*KINDS, "both"], default="both")
    parser.add_argument("--shots", type=Path, default=places.CHECKOUT / "target" / "screenshots")
    options = parser.parse_args()
    reachable.ensure()
    kinds = KINDS if options.hub == "both" else [options.hub]
    exit_with(max(run(kind, options.shots) for kind in kinds))


if __name__ == "__main__":
    main()
