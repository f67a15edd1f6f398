"""A database that can only be read for a while, as a replica that is promoted late or a server under maintenance."""

import sys

from chaos.site_under_test import SMALL_SERVER
from harness.databases import Servers
from harness.hub import Hub
from harness.steps import Steps, require, same

from . import crowd, no_room
from .refusals import Keeper, changes_are_refused, does_not_start, reading_works, start_server, works_again

COMMAND = [sys.executable, "-I", "-S", str(SMALL_SERVER)]


def tell(steps: Steps, servers: Servers) -> None:
    for kind in ("postgres", "mysql"):
        while_it_runs(steps, servers, kind)
    with steps.step("a read-only SQLite file: the hub does not start, and says why"), Hub("orrery") as hub:
        database = hub.folder / "jupyterhub.sqlite"
        database.touch(mode=0o444)
        does_not_start(hub, database.name, "read-only")
    with steps.step("a read-only file system: the hub does not start, and says why"), no_room.small_disk() as disk:
        database = disk / "hub.sqlite"
        with Hub("orrery", crowd.config(f"sqlite:///{database}", COMMAND)) as hub:
            no_room.subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
            does_not_start(hub, str(database), "Read-only file system")


def set_read_only(servers: Servers, kind: str, is_read_only: bool) -> None:
    if kind == "postgres":
        value = "on" if is_read_only else "off"
        servers.execute(
            kind,
            "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
            f"ALTER SYSTEM SET default_transaction_read_only = {value}",
            "SELECT pg_reload_conf()",
        )
    else:
        servers.execute(kind, f"SET GLOBAL read_only = {int(is_read_only)}")


def while_it_runs(steps: Steps, servers: Servers, kind: str) -> None:
    name, url = servers.new_database(kind)
    if kind == "mysql":
        # Administrators may write all the same; a hub's user is none.
        servers.as_root("CREATE USER IF NOT EXISTS hub@127.0.0.1 IDENTIFIED BY 'a-password'", f"GRANT ALL ON {name}.* TO hub@127.0.0.1")
        scheme, _, rest = url.partition("://")
        url = f"{scheme}://hub:a-password@{rest.partition('@')[2]}"
    with Hub("orrery", crowd.config(url, COMMAND)) as hub:
        hub.start().wait_ready()
        start_server(hub, "ada")
        same(crowd.call(hub.origin, "POST", "/users/bob").status_code, 201, "making bob")
        keeper = Keeper(hub)
        same(keeper.make().status_code, 201, "a user")
        try:
            with steps.step(f"a read-only {kind}: changes are refused with 503 and a sentence, the rest works"):
                set_read_only(servers, kind, True)
                changes_are_refused(hub, 503, "only be read")
                reading_works(hub)
            with steps.step(f"a read-only {kind}: another hub does not start, and says why"):
                with Hub("orrery", crowd.config(url, COMMAND)) as another:
                    does_not_start(another, "read")
        finally:
            set_read_only(servers, kind, False)
        with steps.step(f"a read-only {kind}: once it takes writes, all works again and nothing is lost"):
            works_again(keeper)
            said = [line for line in hub.log_text().splitlines() if "nothing can be written;" in line]
            require(len(said) == 1, f"said {len(said)} times")
