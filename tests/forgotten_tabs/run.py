#!/usr/bin/env python3
"""Forgotten tabs: people's servers have stopped, and their tabs go on asking for them through our proxy.

    python tests/forgotten_tabs/run.py [--hub upstream|orrery|both] [--tabs 2000] [--people 40] [--seconds 12]

The hub may be asked about each server, not by each tab; every tab must get the very answer that the hub gives;
nobody may get it who would not get it from the hub; and a server that has come up is there at once.
"""

import argparse
import asyncio
import json
import random
import re
import resource
import sys
import time
from collections import Counter
from pathlib import Path
from urllib.parse import quote

import requests

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import places  # noqa: E402
from harness.client import Person  # noqa: E402
from harness.hub import Hub  # noqa: E402
from harness.steps import Steps, exit_with, require, same, wait_until  # noqa: E402

#: What JupyterLab asks for again and again. The last is a websocket.
PATHS = ("api/kernels?1795312000", "api/sessions?1795312001", "api/terminals?1795312002", "api/kernels/6f1b/channels?session_id=1")
WEBSOCKET = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
#: Each tab asks once in so many seconds. JupyterLab asks every 10 to 30 seconds.
PAUSE = 4
#: Seconds for which our proxy repeats an answer: less than usual, so that answers are renewed while the test looks.
LIFETIME = 8
#: A quarter of it before the end one tab asks the hub anew.
RENEWED = LIFETIME * 3 / 4
#: Until each tab has asked a few times, so that all is known of all servers.
WARM_UP = 2 * PAUSE
#: The threads of our proxy, each of which has a cache of its own.
THREADS = 2


class Tab:
    """One tab: a connection that asks in turn for what a tab asks for, and follows redirects as browsers do."""

    def __init__(self, site: "Site", person: Person, number: int):
        self.site, self.person, self.number = site, person, number
        self.answers = Counter()
        self.wrong: list[str] = []

    async def live(self, end: float) -> None:
        await asyncio.sleep(random.random() * PAUSE)
        turn = self.number
        reader, writer = await asyncio.open_connection("127.0.0.1", self.site.hub.port)
        while time.monotonic() < end:
            path = f"/user/{quote(self.person.name)}/{PATHS[turn % len(PATHS)]}"
            is_websocket = "channels" in path
            async with asyncio.timeout(30):
                status, headers, body = await self.ask(reader, writer, path, is_websocket)
                if not is_websocket and status == 302:
                    self.answers["redirected"] += 1
                    status, headers, body = await self.ask(reader, writer, headers["location"])
            self.answers[status] += 1
            expected = (302, 424) if is_websocket else (424,)
            if status not in expected or (status == 424 and not self.site.is_right(self.person.name, path, body)):
                self.wrong.append(f"{path}: {status} {body[:200]!r}")
            if headers.get("connection", "").lower() == "close" or is_websocket:
                writer.close()
                reader, writer = await asyncio.open_connection("127.0.0.1", self.site.hub.port)
            turn += 1
            await asyncio.sleep(PAUSE)
        writer.close()

    async def ask(self, reader, writer, path: str, is_websocket: bool = False):
        head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.site.hub.port}\r\nAccept: */*\r\nCookie: {self.site.cookies(self.person, path)}\r\n"
        writer.write((head + (WEBSOCKET if is_websocket else "") + "\r\n").encode())
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)}
        require("transfer-encoding" not in headers, f"{path}: an answer of unknown length")
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        return int(lines[0].split()[1]), headers, body


class Site:
    """A hub with our proxy, and people who are logged in."""

    def __init__(self, kind: str, people: int):
        config = 'c.JupyterHub.authenticator_class = "dummy"\nc.Authenticator.allow_all = True\nc.JupyterHub.authenticate_prometheus = False\n'
        command = [str(places.orrery_binary()), "proxy", "--threads", str(THREADS), "--edge-cache", str(LIFETIME)]
        config += f"c.ConfigurableHTTPProxy.command = {command!r}\n"
        self.kind, self.hub = kind, Hub(kind, config)
        self.names = [f"tab{number}" for number in range(people - 1)] + ["a@b c"]
        self._cookies: dict[tuple[str, str], str] = {}

    def sign_in(self) -> None:
        self.people = [Person(self.hub.origin, name, "x") for name in self.names]
        for person in self.people:
            same(person.sign_in().status_code, 302, "status of the login")

    def cookies(self, person: Person, path: str) -> str:
        """What a browser sends: the hub's cookies to the hub's paths alone."""
        part = "/hub/" if path.startswith("/hub/") else "/user/"
        if (person.name, part) not in self._cookies:
            self._cookies[person.name, part] = person.cookie_header(part + "x")
        return self._cookies[person.name, part]

    def is_right(self, name: str, path: str, body: bytes) -> bool:
        """Whether a body says what the hub says about this path."""
        if self.kind == "upstream":
            # JupyterHub does not escape the name here.
            said = f"{path.partition('?')[0]}. Restart the server at {self.hub.origin}/hub/spawn/{name}"
        else:
            said = f"/user/{quote(name, safe='@')}/. Restart the server at /hub/home"
        return json.loads(body)["message"] == f"JupyterHub server no longer running at {said}"

    def asked(self) -> int:
        """How many requests the hub has answered, by its own count."""
        text = requests.get(self.hub.hub_origin + "/hub/metrics", timeout=10).text
        found = re.findall(r"^jupyterhub_request_duration_seconds_count(\{.*\}) (\S+)$", text, re.M)
        return int(sum(float(count) for labels, count in found if "etrics" not in labels))

    async def poll(self, tabs: int, seconds: float) -> tuple[list[Tab], int, int]:
        """Open these tabs and let them ask; gives what the hub was asked until each had asked, and then."""
        opened = [Tab(self, self.people[number % len(self.people)], number // len(self.people)) for number in range(tabs)]
        begin, before = time.monotonic(), self.asked()
        living = [asyncio.create_task(tab.live(begin + WARM_UP + seconds)) for tab in opened]
        await asyncio.sleep(WARM_UP)
        for tab in opened:
            tab.answers.clear()
        warm = await asyncio.to_thread(self.asked)
        await asyncio.gather(*living)
        return opened, warm - before, self.asked() - warm

    def get(self, path: str, cookies: str = "", accept: str = "*/*", origin: str | None = None) -> requests.Response:
        headers = {"Cookie": cookies, "Accept": accept, "Host": f"127.0.0.1:{self.hub.port}"}
        return requests.get((origin or self.hub.origin) + path, headers=headers, allow_redirects=False, timeout=20)


def tell(steps: Steps, kind: str, given) -> None:
    site = Site(kind, given.people)
    with site.hub as hub:
        hub.start()
        hub.wait_ready()
        site.sign_in()
        ada, bob = site.people[0], site.people[1]
        base = f"/user/{ada.name}/"
        own = site.cookies(ada, base)

        with steps.step(f"{kind}: {given.tabs} tabs of {given.people} stopped servers cost the hub a few requests"):
            tabs, first, asked = asyncio.run(site.poll(given.tabs, given.seconds))
            answers = sum((tab.answers for tab in tabs), Counter())
            wrong = [line for tab in tabs for line in tab.wrong]
            polls = sum(count for status, count in answers.items() if status != "redirected")
            print(f"      {polls} polls, {dict(answers)}; the hub answered {asked} requests, and {first} at first", flush=True)
            require(not wrong, f"{len(wrong)} wrong answers: {wrong[:3]}")
            require(polls >= given.tabs * given.seconds / PAUSE / 2, f"only {polls} polls were made")
            # Each of the caches may ask for each server once in its time, of JupyterHub in two steps.
            times = 1 + int(given.seconds / RENEWED)
            most = given.people * THREADS * times * (2 if kind == "upstream" else 1)
            require(asked <= most, f"the hub answered {asked} requests, {most} would be enough")
            require(asked > 0, "nothing was renewed")

        with steps.step(f"{kind}: the answer is the hub's own"):
            # The tabs have left it there; if it has just grown too old, the hub is asked anew.
            path = base + "api/contents/a%20b's.ipynb?type=notebook"
            direct_path = path if kind == "orrery" else "/hub" + path
            direct = site.get(direct_path, site.cookies(ada, direct_path), origin=hub.hub_origin)
            same(direct.status_code, 424, "status of the hub's answer")

            def repeated():
                before = site.asked()
                answer = site.get(path, own)
                if answer.status_code == 302:
                    site.get(answer.headers["Location"], site.cookies(ada, "/hub/x"))
                return [answer] if answer.status_code == 424 and site.asked() == before else None

            [answer] = wait_until(repeated, "an answer that the hub was not asked for", 10)
            same(answer.content, direct.content, "body")

            def lasting(headers):
                passing = ("date", "connection", "keep-alive", "transfer-encoding")
                return {name.lower(): value for name, value in headers.items() if name.lower() not in passing}

            same(lasting(answer.headers), lasting(direct.headers), "headers")

        with steps.step(f"{kind}: strangers, other people and navigations are the hub's matter"):
            page = site.get(base + "api/kernels", own, "text/html,application/xhtml+xml,*/*;q=0.8")
            same((page.status_code, page.headers.get("Location")), (302, f"/hub{base}api/kernels"), "a navigation")
            same(site.get(base + "lab", own).headers.get("Location"), f"/hub{base}lab", "a page")
            for cookies in ("", site.cookies(bob, base)):
                seen = [site.get(f"/user/{name}/api/kernels", cookies) for name in (ada.name, "nobody-of-this-name")]
                # Whose server it is, and whether there is such a person, is not told.
                told = [(answer.status_code, answer.text.replace("nobody-of-this-name", ada.name)) for answer in seen]
                same(told[0], told[1], "what is told of a name that nobody has")
                if kind == "upstream":
                    same(told[0][0], 302, "status")

        with steps.step(f"{kind}: a server that has come up is there at once, and gone when it has stopped"):
            same(site.get(base + "api/status", own).status_code in (302, 424), True, "no server yet")
            started = ada.call("POST", f"/hub/api/users/{ada.name}/server")
            require(started.status_code in (201, 202), f"starting: {started.status_code} {started.text[:300]}")
            events = ada.progress()
            require(events and events[-1].get("ready"), f"progress: {events[-1:]}")
            status = site.get(base + "api/status", own)
            require(status.status_code not in (302, 424), f"after the start: {status.status_code} {status.text[:300]}")
            # Of the others nothing has changed.
            same(site.get(f"/user/{bob.name}/api/status", site.cookies(bob, "/user/x")).status_code in (302, 424), True, "bob's server")
            stopped = ada.call("DELETE", f"/hub/api/users/{ada.name}/server")
            require(stopped.status_code in (202, 204), f"stopping: {stopped.status_code} {stopped.text[:300]}")

            def is_gone():
                answer = site.get(base + "api/status", own)
                if answer.status_code == 302:
                    answer = site.get(answer.headers["Location"], site.cookies(ada, "/hub/x"))
                return answer.status_code == 424

            wait_until(is_gone, "424 after the stop", 20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hub", choices=["upstream", "orrery", "both"], default="both")
    parser.add_argument("--tabs", type=int, default=2000)
    parser.add_argument("--people", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=12)
    given = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    steps = Steps("forgotten tabs")
    for kind in ("upstream", "orrery") if given.hub == "both" else (given.hub,):
        tell(steps, kind, given)
    exit_with(steps.finish())


if __name__ == "__main__":
    main()
