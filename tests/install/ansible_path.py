"""deploy/ansible on a clean machine, against localhost as a newcomer would run it; everything twice."""

import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

from machine import Machine, all_changed, places, require, same, script, tell

ORIGIN = "http://127.0.0.1:8000"
FOLDER = "/root/orrery/deploy/ansible"
WRITTEN = ("inventory.ini", "ansible.cfg", "jupyterhub_config.py")


def tell_story(steps, folder: Path, shots: Path) -> None:
    with Machine("ansible", f"{folder}:/packages") as machine, machine.network():
        prepare(machine, steps)
        config = machine.file(f"{FOLDER}/jupyterhub_config.py")
        with steps.step("`make install_jupyterhub` without a package says what to do"):
            said = make(machine, "install_jupyterhub", check=False)
            require("make deb" in said, said[-2000:])
        with steps.step("`make install_jupyterhub` installs the hub, JupyterLab and the service"):
            with config.open("a") as file:
                file.write('c.Authenticator.allowed_users = {"ada", "bob"}\nc.JupyterHub.allow_named_servers = True\n')
            require(all_changed(install(machine))["changed"] > 3, "nothing was changed")
            same(machine.shown("orrery", "ActiveState"), "active", "state")
        if not steps.failed:
            twice(machine, steps, lambda: install(machine), "install_jupyterhub")
            machine.add_people("ada", "bob")
            tell("story.mjs", 300, "ansible", SimpleNamespace(origin=ORIGIN), shots / "ansible", steps)
            changes(machine, steps, config)
            tell_docker(machine, steps, folder)
        if steps.failed:
            print("-- the end of the hub's log\n" + machine.log())


def prepare(machine: Machine, steps) -> None:
    with steps.step("`make config` writes the three files"):
        machine.apt("update")
        # What `git clone` and a newcomer's machine have; everything else is Ansible's to install.
        machine.apt("install", "--no-install-recommends", "make", "python3-venv")
        skip = shutil.ignore_patterns(".venv", ".ansible", *WRITTEN)
        shutil.copytree(places.CHECKOUT / "deploy", machine.file("/root/orrery/deploy"), symlinks=True, ignore=skip)
        # The defaults are named as the files are, so they were left out too.
        shutil.copytree(places.CHECKOUT / "deploy/ansible/defaults", machine.file(f"{FOLDER}/defaults"), dirs_exist_ok=True)
        shutil.copy(places.CHECKOUT / "deploy/debian/jupyterhub_config.py", machine.file("/root/orrery/deploy/debian/"))
        make(machine, "config")
        for name in WRITTEN:
            require(machine.file(f"{FOLDER}/{name}").exists(), f"no {name}")
    with steps.step("and never over what somebody has edited"):
        path = machine.file(f"{FOLDER}/inventory.ini")
        path.write_text(path.read_text() + "# edited\n")
        # Older than its default, which is no reason.
        machine.run("touch", "-d", "2001-01-01", f"{FOLDER}/inventory.ini")
        same(make(machine, "config").strip(), "", "what it says")
        require(path.read_text().endswith("# edited\n"), "the inventory was written anew")


def make(machine: Machine, *words: str, check: bool = True) -> str:
    return machine.run("make", "-C", FOLDER, "--no-print-directory", *words, check=check, seconds=420)


def install(machine: Machine, *words: str) -> str:
    return make(machine, "install_jupyterhub", "DEB=/packages/orrery_0.1.0-1_amd64.deb", *words)


def twice(machine: Machine, steps, again, name: str) -> None:
    with steps.step(f"`make {name}` a second time changes nothing"):
        hub = machine.shown("orrery", "MainPID")
        output = again()
        sums = all_changed(output)
        same((sums["changed"], sums["failed"], sums["unreachable"]), (0, 0, 0), f"the sum of\n{output[-2000:]}\n")
        same(machine.shown("orrery", "MainPID"), hub, "the hub's number")


def changes(machine: Machine, steps, config: Path) -> None:
    with steps.step("a changed configuration starts the hub anew, and changes nothing else"):
        hub = machine.shown("orrery", "MainPID")
        with config.open("a") as file:
            file.write("# changed\n")
        # The file, its check and the restart, of which the check is no change.
        same(all_changed(install(machine))["changed"], 2, "changes")
        require(machine.shown("orrery", "MainPID") != hub, "the old hub still runs")
    with steps.step("a broken configuration is refused while the hub goes on"):
        hub, good = machine.shown("orrery", "MainPID"), config.read_text()
        config.write_text(good + "c.JupyterHub.prot = 1\n")
        said = make(machine, "install_jupyterhub", "DEB=/packages/orrery_0.1.0-1_amd64.deb", check=False)
        config.write_text(good)
        require(all_changed(said)["failed"] == 1, said[-2000:])
        same(machine.shown("orrery", "MainPID"), hub, "the hub's number")
    with steps.step("a newer package is installed by the same command"):
        make(machine, "install_jupyterhub", "DEB=/packages/orrery_0.1.0-2_amd64.deb")
        same(machine.run("dpkg-query", "-W", "-f", "${Version}", "orrery"), "0.1.0-2", "version")


def tell_docker(machine: Machine, steps, folder: Path) -> None:
    with steps.step("`make docker` installs the engine and builds the image"):
        # In the place of the one from Docker's registry: a Debian that knows this host's ways to packages.
        base = debian(folder)
        machine.apt("install", "--no-install-recommends", "docker.io")
        shutil.copy(base, machine.file("/root/base.tar"))
        machine.run("docker", "import", "/root/base.tar", "debian:bookworm-slim")
        machine.apt("remove", "docker.io")  # the image stays
        require(all_changed(docker(machine))["changed"] > 3, "nothing was changed")
        same(machine.shown("docker", "ActiveState"), "active", "state of the engine")
    if steps.failed:
        print("-- the end of the engine's log\n" + machine.run("journalctl", "-u", "docker", "--no-pager", "-n", "30", "-o", "cat", check=False))
        return
    with steps.step("`make docker` a second time changes nothing"):
        built = machine.run("docker", "images", "--quiet", "orrery/singleuser")
        sums = all_changed(docker(machine))
        same((sums["changed"], sums["failed"]), (0, 0), "the sum")
        same(machine.run("docker", "images", "--quiet", "orrery/singleuser"), built, "the image")
    with steps.step("the image has the single-user server, and an ordinary user runs it"):
        said = machine.run("docker", "run", "--rm", "orrery/singleuser", "sh", "-c", "id -un; jupyterhub-singleuser --version; jupyter lab --version")
        user, server, _lab = said.split()[-3:]
        same((user, server), ("jovyan", "6.1.1"), "what the image says")
    with steps.step("a changed Dockerfile is built again"):
        with machine.file("/root/orrery/deploy/docker/singleuser/Dockerfile").open("a") as file:
            file.write("LABEL changed=yes\n")
        same(all_changed(docker(machine))["changed"], 2, "changes")


def docker(machine: Machine) -> str:
    return make(machine, "docker")


def debian(folder: Path) -> Path:
    """The root folder of a clean machine as one file."""
    machine = Machine("base")
    script("create", machine.name)
    try:
        root = script("path", machine.name).strip()
        subprocess.run(["tar", "-C", root, "--numeric-owner", "-cf", str(folder / "base.tar"), "."], check=True, timeout=120)
    finally:
        script("remove", machine.name)
    return folder / "base.tar"
