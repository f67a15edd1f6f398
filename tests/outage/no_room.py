"""The disk under a SQLite database, and under the hub's own log, is full."""

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

from chaos.site_under_test import SMALL_SERVER
from harness.hub import Hub
from harness.steps import Steps, require, same

from . import crowd
from .refusals import Keeper, changes_are_refused, does_not_start, reading_works, start_server, works_again

SIZE = "12m"
ROUNDS = 3
COMMAND = [sys.executable, "-I", "-S", str(SMALL_SERVER)]


@contextlib.contextmanager
def small_disk():
    require(os.geteuid() == 0, "a small file system can only be made by root")
    folder = Path(tempfile.mkdtemp(prefix="orrery-disk-"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=0755", "orrery-test", folder], check=True)
    try:
        yield folder
    finally:
        # Lazily: what is still open there ends with its process.
        subprocess.run(["umount", "-l", folder], check=False)
        shutil.rmtree(folder, ignore_errors=True)


def fill(folder: Path) -> Path:
    ballast = folder / "ballast"
    with open(ballast, "ab", buffering=0) as file:
        with contextlib.suppress(OSError):
            while True:
                file.write(b"\0" * 65536)
        with contextlib.suppress(OSError):
            while True:
                file.write(b"\0" * 512)
    return ballast


def tell(steps: Steps) -> None:
    with steps.step("a full disk: its tests run"), small_disk() as disk:
        on_disk(steps, disk)


def on_disk(steps: Steps, disk: Path) -> None:
    database = disk / "hub.sqlite"
    with Hub("orrery", crowd.config(f"sqlite:///{database}", COMMAND)) as hub:
        # The log is on the full disk too.
        hub.log_path = disk / "hub.log"
        with steps.step("a full disk: a hub without a database does not start, and says why"):
            ballast = fill(disk)
            does_not_start(hub, str(database), "disk is full")
            ballast.unlink()
            for left in disk.glob("hub.sqlite*"):
                left.unlink()
        hub.start().wait_ready()
        start_server(hub, "ada")
        same(crowd.call(hub.origin, "POST", "/users/bob").status_code, 201, "making bob")
        keeper = Keeper(hub)
        for round_number in range(1, ROUNDS + 1):
            with steps.step(f"a full disk, time {round_number}: changes are refused with 507 and a sentence, the rest works"):
                for _ in range(5):
                    same(keeper.make().status_code, 201, "a user before the disk is full")
                ballast = fill(disk)
                # What fits into blocks that are there may still succeed.
                while (answer := keeper.make()).status_code in (201, 409):
                    require(len(keeper.made) < 3000, "the disk never fills")
                    if len(keeper.made) % 50 == 0:
                        fill(disk)
                same(answer.status_code, 507, f"a user on a full disk: {answer.text[:200]}")
                fill(disk)
                changes_are_refused(hub, 507, "full")
                reading_works(hub)
                keeper.check()
            with steps.step(f"a full disk, time {round_number}: with room, all works again and nothing is lost"):
                ballast.unlink()
                works_again(keeper)
        with steps.step("a full disk: it is said once each time"):
            said = [line for line in hub.log_text().splitlines() if "nothing can be written;" in line]
            require(len(said) <= ROUNDS, f"said {len(said)} times")
        with steps.step("a full disk: the database is whole"):
            with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
                same(connection.execute("PRAGMA integrity_check").fetchall(), [("ok",)], "integrity")
