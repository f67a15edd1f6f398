"""A database server is restarted again and again while a crowd uses the hub."""

import sys
import time

from chaos.site_under_test import SMALL_SERVER
from harness.databases import Servers
from harness.hub import Hub
from harness.steps import Steps, require

from .crowd import Crowd, call, config

#: How long after the database's return the hub must be back.
BACK = 2.0
#: How long the database is away each time, and there again before the next time.
AWAY, THERE = 0.6, 1.5
#: A refusal that takes longer than this is no refusal at once: a request waits that long at most for
#: a look at a database that may be there.
REFUSED = 5.0
COMMAND = [sys.executable, "-I", "-S", str(SMALL_SERVER)]


def tell(steps: Steps, servers: Servers, kind: str, rounds: int) -> None:
    name, url = servers.new_database(kind)
    with Hub("orrery", config(url, COMMAND)) as hub:
        hub.start().wait_ready()
        pid = hub.process.pid
        slowest = 0.0
        with steps.step(f"{kind}: {rounds} restarts under load lose nothing and are no error"):
            with Crowd(hub.origin, ["ada", "bob", "eve"]) as crowd:
                time.sleep(2)
                for _ in range(rounds):
                    with crowd.outage():
                        servers.stop(kind)
                        time.sleep(AWAY)
                        there = servers.start(kind)
                        slowest = max(slowest, back_after(hub, there))
                    time.sleep(THERE)
            crowd.check()
            print(f"      {dict(crowd.statuses)}; {len(crowd.tokens)} tokens, {len(crowd.users)} users, {crowd.logins} logins; back after {slowest:.2f} s at most, refused within {crowd.slowest_refusal:.2f} s", flush=True)
            require(crowd.statuses[503] >= rounds, f"the database was never missed: {crowd.statuses}")
            require(crowd.slowest_refusal <= REFUSED, f"a refusal took {crowd.slowest_refusal:.2f} s")
        with steps.step(f"{kind}: the hub is back within {BACK:.0f} s each time, without a restart of its own"):
            require(0 < slowest <= BACK, f"it took {slowest:.2f} s")
            require(hub.process.poll() is None and hub.process.pid == pid, "the hub ended")
        with steps.step(f"{kind}: an outage is said once, not with every request"):
            said_once(hub, rounds)


def back_after(hub: Hub, there: float) -> float:
    """Seconds from the database's return to the hub's."""
    while True:
        begun = time.monotonic()
        if call(hub.origin, "GET", "/users/ada").status_code == 200:
            return begun - there
        require(begun - there < 20, f"the hub is not back:\n{hub.log_tail()}")
        time.sleep(0.02)


def said_once(hub: Hub, rounds: int) -> None:
    lines = hub.log_text().splitlines()
    away = [line for line in lines if "the database is away;" in line]
    back = [line for line in lines if "the database answers again" in line]
    require(rounds <= len(away) <= 2 * rounds, f"said {len(away)} times that it is away")
    require(rounds <= len(back) <= 2 * rounds, f"said {len(back)} times that it is back")
    loud = [line for line in lines if (" WARN " in line or " ERROR " in line) and line not in away]
    require(len(loud) <= 6 * rounds, f"{len(loud)} other warnings:\n" + "\n".join(loud[:20]))


