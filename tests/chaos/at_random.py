"""Users start and stop their servers as fast as they can, while the hub, and now and then the proxy, is killed."""

import random
import signal
import threading
import time

from harness.steps import Steps, require

from .site_under_test import Site

USERS = [f"user{number}" for number in range(6)]


class Crowd:
    """Each user starts and stops; a round is a server that was seen running and was then seen stopped."""

    def __init__(self, site: Site):
        self.site = site
        self.rounds = 0
        self.trouble: list[str] = []
        #: A hub that was asked to end may refuse what comes until it has ended.
        self.is_ending = False
        self._ran = {user: False for user in site.users}
        self._lock = threading.Lock()
        self._on = threading.Event()

    def work(self, disaster) -> None:
        """Let everybody work while `disaster()` happens; come back when all have noticed."""
        self._on.set()
        people = [threading.Thread(target=self._day, args=(user,)) for user in self.site.users]
        for person in people:
            person.start()
        disaster()
        self._on.clear()
        for person in people:
            person.join()

    def _day(self, user: str) -> None:
        while self._on.is_set():
            try:
                if not self._step(user):
                    return
            except OSError:
                return
            except Exception as error:
                self.trouble.append(f"{user}: {type(error).__name__}: {error}")
                return

    def _step(self, user: str) -> bool:
        status, model = self.site.call("GET", f"/users/{user}")
        if status in (502, 503):  # the proxy, in place of the hub that is away
            return False
        require(status == 200, f"GET of the user: {status} {model}")
        if model["pending"]:
            time.sleep(0.005)
            return True
        runs = model["server"] is not None
        with self._lock:
            if runs:
                self._ran[user] = True
            elif self._ran[user]:
                self._ran[user] = False
                self.rounds += 1
        answer = self.site.ask("DELETE" if runs else "POST", user)
        if answer == 503 and self.is_ending:
            return False
        require(answer in (201, 202, 204, 400, None), f"{'stop' if runs else 'start'}: {answer}")
        return answer is not None


def tell(steps: Steps, rounds: int, seed: int, spawner: str = "simple", users: list[str] | None = None) -> None:
    dice = random.Random(seed)
    with Site("random", users or USERS, spawner=spawner) as site:
        crowd = Crowd(site)
        deaths = {"hub": 0, "proxy": 0, "polite": 0}
        with steps.step(f"{rounds} rounds of start and stop while the hub is killed at random (seed {seed})"):
            site.start()
            try:
                while crowd.rounds < rounds:
                    disaster(site, crowd, dice, deaths)
                site.all_run()
                site.census()
                site.all_stop()
                site.census()
            except Exception as error:
                raise AssertionError(f"after {crowd.rounds} rounds and {deaths}: {error}\n{site.log_tail()}") from error
        print(f"      {crowd.rounds} rounds; deaths: {deaths['hub']} of the hub, {deaths['polite']} by SIGTERM, {deaths['proxy']} of the proxy")
        with steps.step("nothing strange was answered meanwhile"):
            require(not crowd.trouble, "; ".join(crowd.trouble[:10]))


def disaster(site: Site, crowd: Crowd, dice: random.Random, deaths: dict) -> None:
    kind = dice.choices(["hub", "polite", "proxy", "both"], [6, 1, 2, 1])[0]
    pause = dice.uniform(0.02, 0.6)

    def strike() -> None:
        time.sleep(pause)
        if kind in ("proxy", "both"):
            site.kill_proxy()
            deaths["proxy"] += 1
        if kind in ("hub", "both"):
            site.kill()
            deaths["hub"] += 1
        if kind == "polite":
            crowd.is_ending = True
            site.kill(signal.SIGTERM)
            deaths["polite"] += 1

    crowd.work(strike)
    crowd.is_ending = False
    if kind != "proxy":
        site.start()
    site.census()
