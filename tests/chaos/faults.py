"""The hub dies at each step of a start and of a stop: each point many times, for another of several users each time."""

import os
import random
import signal
from concurrent.futures import ThreadPoolExecutor

from harness.steps import Steps, require, wait_until

from .site_under_test import SOON, Site

USERS = ["ada", "bob", "cleo"]
#: How often all ask until the hub has come by a point.
ATTEMPTS = 10
#: The points of a start, in their order, and for how many of the users' starts each is passed at least.
START = {
    "start-asked": 3,
    "start-written": 3,
    "start-committed": 3,
    "start-called": 1,
    "start-begins": 3,
    "process-soon": 3,
    "process-made": 3,
    "start-returned": 3,
    "start-address-kept": 3,
    "start-answered": 3,
    "start-routed": 3,
    "start-ready": 3,
}
STOP = {
    "stop-asked": 3,
    "stop-written": 3,
    "stop-committed": 3,
    "stop-unrouted": 3,
    "process-signalled": 3,
    "process-gone": 3,
    "stop-returned": 3,
    "end-written": 3,
    "end-committed": 3,
}


def tell(steps: Steps, rounds: int, spawner: str = "simple", users: list[str] | None = None, only: str = "") -> None:
    """`rounds` deaths at each point; every start of a round is followed by its stop."""
    plays = {f"at {point}": lambda site, number, point=point: at_a_start(site, point, number) for point in START}
    plays |= {f"at {point}": lambda site, number, point=point: at_a_stop(site, point, number) for point in STOP}
    plays |= {what.__doc__: what for what in (failed_start, noticed_death, next_life, new_proxy)}
    plays |= {what.__doc__: what for what in (proxy_gone_at_a_stop, proxy_gone_at_a_start)}
    with Site("faults", users or USERS, spawner=spawner) as site:
        with steps.step("the site of the fault points starts"):
            site.start()
            site.all_run()
            site.all_stop()
            site.census()
        if steps.failed:
            print(site.log_tail())
            return
        for name, play in plays.items():
            if only in name:
                # What takes seconds of waiting is done less often; it is no race.
                times = rounds if play not in (proxy_gone_at_a_stop, proxy_gone_at_a_start) else min(rounds, 2)
                with steps.step(f"{times} times kill -9 {name if name.startswith('of') else f'of the hub {name}'}"):
                    each(site, times, play)


def each(site: Site, rounds: int, play) -> None:
    for number in range(rounds):
        try:
            play(site, number)
        except Exception as error:
            recover(site)
            raise AssertionError(f"round {number}: {error}\n{site.log_tail()}") from error


def recover(site: Site) -> None:
    """After a failed round: whatever can be done so that the next point is judged by itself."""
    site.disarm()
    if site.hub.poll() is None:
        site.kill()
    for pids in site.processes().values():
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
    site.start()
    site.settle()


def at_a_start(site: Site, point: str, number: int) -> None:
    site.all_stop()
    site.arm(point, 1 + number % min(START[point], len(site.users)))
    next_life_after(site, "POST")
    site.all_run()
    site.census()


def at_a_stop(site: Site, point: str, number: int) -> None:
    site.all_run()
    site.arm(point, 1 + number % min(STOP[point], len(site.users)))
    next_life_after(site, "DELETE")
    site.all_stop()
    site.census()


def next_life_after(site: Site, method: str) -> None:
    for _ in range(ATTEMPTS):
        answers = site.all_ask(method)
        # Whoever was answered was answered before the death, or the hub passed the point too seldom: nobody had to
        # wait for his turn, for instance.
        if None in answers or wait_until_dead(site):
            break
        site.all_stop() if method == "POST" else site.all_run()
    else:
        raise AssertionError(f"the hub lives on after {answers}; is it a build with the feature fault-points?")
    site.died()
    site.disarm()
    site.start()
    site.census()


def wait_until_dead(site: Site) -> bool:
    try:
        return wait_until(lambda: site.hub.poll() is not None, "the hub's death", 1, pause=0.005)
    except AssertionError:
        return False


def failed_start(site: Site, number: int) -> None:
    """while it cleans up after a start that failed"""
    site.all_stop()
    for user in site.users:
        (site.homes[user] / "exits").touch()
    site.arm(["start-failed", "end-written", "end-committed"][number % 3], 1 + number % 2)
    next_life_after(site, "POST")
    for user in site.users:
        (site.homes[user] / "exits").unlink()
    site.all_run()
    site.census()


def noticed_death(site: Site, number: int) -> None:
    """when it has noticed that a server died"""
    site.all_run()
    site.arm(["death-noticed", "end-written", "end-committed"][number % 3], 1 + number % 2)
    for row in site.rows():
        os.kill(row.state["pid"], signal.SIGKILL)
    for _ in range(ATTEMPTS):
        # The spawner may need a moment to hear of it.
        if None in site.all_ask("POST") or wait_until_dead(site):
            break
    site.died()
    site.disarm()
    site.start()
    # At once, and not only at the next regular look.
    dead = lambda: [row.user for row in site.rows() if row.run and row.mark not in site.processes()]
    wait_until(lambda: not dead(), f"the end of servers that died while there was no hub ({dead()})", 10, pause=0.02)
    site.all_run()
    site.census()


def next_life(site: Site, number: int) -> None:
    """while it takes over what its last life left"""
    dice = random.Random(number)
    site.all_run() if number % 2 else site.all_stop()
    site.arm("process-signalled" if number % 2 else dice.choice(["process-made", "start-returned", "start-address-kept"]), 1)
    site.all_ask("DELETE" if number % 2 else "POST")
    site.died()
    site.arm(["taken-over", "resumed"][number // 2 % 2], 1)
    site.begin()
    site.died()
    site.disarm()
    site.start()
    site.census()


def new_proxy(site: Site, number: int) -> None:
    """while it starts a proxy"""
    site.all_run()
    site.kill()
    site.kill_proxy()
    site.arm(["proxy-made", "proxy-noted"][number % 2], 1)
    site.begin()
    site.died()
    site.disarm()
    site.start()
    site.census()


def proxy_gone_at_a_stop(site: Site, number: int) -> None:
    """of the proxy just before a stop that takes longer than its restart"""
    site.all_stop()
    slow(site, "lingers", True)
    site.all_run()
    site.kill_proxy()
    site.all_stop()
    slow(site, "lingers", False)
    site.census()


def proxy_gone_at_a_start(site: Site, number: int) -> None:
    """of the proxy while servers start"""
    site.all_stop()
    with ThreadPoolExecutor(1) as other:
        asked = other.submit(site.all_ask, "POST")
        wait_until(lambda: site.query("SELECT 1 FROM orrery_runs WHERE phase = 'starting'"), "a start", pause=0.001)
        site.kill_proxy()
        answers = asked.result()
    require(all(answer in (201, 202) for answer in answers), f"starts: {answers}")
    site.all_run()
    site.census()


def slow(site: Site, how: str, is_wanted: bool) -> None:
    for user in site.users:
        file = site.homes[user] / how
        file.touch() if is_wanted else file.unlink()
