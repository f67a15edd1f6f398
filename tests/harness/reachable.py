"""Makes the programs under test reachable for other system users.

A virtual environment or a build below a folder that only root may enter (`/root`) cannot be run by the
people whose servers a hub starts. Nothing on the machine is changed for that: the test runs again in a
mount namespace of its own, in which such a folder is covered by one that everybody may enter and that
holds the same entries.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

MARK = "ORRERY_REACHABLE"


def ensure() -> None:
    """Run the calling program again in a namespace of its own, unless everything is reachable already."""
    from . import places  # not when this file is the program that mounts

    if os.geteuid() != 0:
        sys.exit("this test makes system users and runs servers as them: run it as root")
    closed = closed_folders([Path(sys.prefix), Path(sys.base_prefix), places.orrery_binary(), places.node_modules(), places.CHECKOUT])
    if not closed:
        return
    if os.environ.get(MARK):
        sys.exit(f"{closed[0]} cannot be made reachable for other users")
    os.environ[MARK] = "1"
    # An environment may be linked to; the links stay as they are.
    os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", sys.executable, __file__, *map(str, closed), "--", sys.executable, *sys.argv])


def closed_folders(paths: list[Path]) -> list[Path]:
    """The folders above `paths` that others may not enter, outer ones first."""
    ways = {way for path in paths for way in (path.absolute(), path.resolve())}
    above = {folder for way in ways for folder in way.parents if folder.exists()}
    return sorted((folder for folder in above if not folder.stat().st_mode & 0o001), key=lambda folder: len(folder.parts))


def open_up(folder: Path) -> None:
    """Cover `folder` by one with the same entries that everybody may enter."""
    kept = Path(tempfile.mkdtemp(prefix="orrery-reachable-"))
    mount("--rbind", folder, kept)
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", folder)
    for entry in kept.iterdir():
        here = folder / entry.name
        if entry.is_symlink():
            here.symlink_to(os.readlink(entry))
        elif entry.is_dir():
            here.mkdir()
            mount("--rbind", entry, here)
        elif entry.is_file():
            here.touch()
            mount("--bind", entry, here)
    subprocess.run(["umount", "--lazy", str(kept)], check=True)
    kept.rmdir()


def mount(*words) -> None:
    subprocess.run(["mount", *map(str, words)], check=True)


if __name__ == "__main__":
    border = sys.argv.index("--")
    for name in sys.argv[1:border]:
        open_up(Path(name))
    os.execv(sys.argv[border + 1], sys.argv[border + 1:])
