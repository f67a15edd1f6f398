"""Cases: requests that are sent to both hubs, and what is compared of the answers.

A case says nothing of what is right: JupyterHub's answer is. `table` makes a case of each request
for each requester; `story` makes one case of several requests in a row.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class Request:
    """One request. `line` is `METHOD path`, the path below `/hub/api`; `METHOD =path` for one that is not."""

    line: str
    #: Sent as JSON; `raw` is sent as it is.
    body: object = None
    raw: bytes | None = None
    #: Added to those of the requester; None takes one away.
    headers: dict | None = None
    #: Keys of the answer's JSON that are not compared, where the hubs cannot say the same.
    ignore: tuple = ()
    #: What a case is called by, when the line alone does not tell.
    label: str = ""
    #: Repeat until the answer is not 202 and no server in it is pending, and compare the last one.
    settled: bool = False

    @property
    def method(self) -> str:
        return self.line.split(" ", 1)[0]

    @property
    def path(self) -> str:
        path = self.line.split(" ", 1)[1]
        return path[1:] if path.startswith("=") else "/hub/api" + path

    @property
    def title(self) -> str:
        if self.label:
            return f"{self.line} ({self.label})"
        if self.raw is not None:
            return f"{self.line} {self.raw[:60]!r}"
        return self.line if self.body is None else f"{self.line} {json.dumps(self.body)[:120]}"

    @property
    def changes(self) -> bool:
        return self.method not in ("GET", "HEAD", "OPTIONS")


def R(line: str, body: object = None, **options) -> Request:
    return Request(line, body, **options)


@dataclass
class Case:
    name: str
    #: Who sends what, in order.
    requests: list[tuple[str, Request]] = field(default_factory=list)
    #: What follows, unless both hubs refused and changed nothing.
    then: list[tuple[str, Request]] = field(default_factory=list)
    #: Instead of requests: asks one hub by itself, and gives the parts of the outcome.
    script: Callable[["object"], dict] | None = None


@dataclass
class Reason:
    """Why the two differ: a row of docs/api-differences.md."""

    area: str
    upstream: str
    ours: str
    kind: str
    #: Pattern of case names → what differs in each of them: part → (upstream's, ours), or ANY.
    cases: dict[str, dict] = field(default_factory=dict)


CASES: dict[str, Case] = {}

#: Stands for any value in a listed difference.
ANY = "(any)"


def table(name: str, requesters: Iterable[str] | str, *requests: Request | str, then: Iterable[Request | str] = ()) -> None:
    """Each request by each requester. After it, unless it was refused and changed nothing, the admin sends
    what `then` says: to see, and to put back."""
    who = requesters.split() if isinstance(requesters, str) else list(requesters)
    after = [("admin", as_request(request)) for request in then]
    for request in map(as_request, requests):
        for requester in who:
            add(Case(f"{name}: {request.title} as {requester}", [(requester, request)], after))


def story(name: str, *requests: tuple[str, Request | str]) -> None:
    """Several requests in a row, as one case: `("ada", "GET /user")`, …"""
    add(Case(name, [(requester, as_request(request)) for requester, request in requests]))


def script(name: str, *arguments):
    """Makes a case of a function, which is given the `Wire` to one hub and gives what is compared."""

    def decorate(function):
        add(Case(name, script=lambda wire: function(wire, *arguments)))
        return function

    return decorate


def as_request(request: Request | str) -> Request:
    return Request(request) if isinstance(request, str) else request


def add(case: Case) -> None:
    assert case.name not in CASES, f"two cases are called {case.name!r}"
    CASES[case.name] = case


def differing(upstream: dict, ours: dict) -> dict[str, tuple]:
    """The parts in which two outcomes differ, each with both values."""
    parts = sorted(set(upstream) | set(ours))
    return {part: (upstream.get(part), ours.get(part)) for part in parts if upstream.get(part) != ours.get(part)}


def listed(reasons: list[Reason], name: str) -> dict[str, tuple]:
    """What is listed to differ in a case."""
    found: dict[str, tuple] = {}
    for reason in reasons:
        for pattern, parts in reason.cases.items():
            if matches(name, pattern):
                found |= parts
    return found


def matches(text: str, pattern: str) -> bool:
    # Names have brackets, which are no wildcards here.
    return fnmatchcase(text, pattern.replace("[", "[[]"))


def judge(different: dict[str, tuple], expected: dict[str, tuple]) -> str:
    """What is wrong with the differences of a case, or nothing. Parts may be listed as patterns, too."""
    lines = []
    seen = set()
    for part, (upstream, ours) in different.items():
        listed_as = part if part in expected else next((pattern for pattern in expected if matches(part, pattern)), None)
        if listed_as is None:
            lines.append(f"{part}\n  upstream {short(upstream)}\n  ours     {short(ours)}")
            continue
        seen.add(listed_as)
        pair = expected[listed_as]
        for who, got, wanted in zip(("upstream", "ours"), (upstream, ours), (ANY, ANY) if pair == ANY else pair):
            if wanted != ANY and got != wanted:
                lines.append(f"{part}: {who} is listed with {short(wanted)}, but is {short(got)}")
    lines += [f"{part}: the listed difference is gone; take it from differences.py" for part in expected if part not in seen]
    return "\n".join(lines)


def refused_badly(upstream: dict, ours: dict) -> str:
    """What is wrong with our refusals of what JupyterHub does, whatever else is listed to differ: a refusal says why,
    and changes nothing."""
    lines = []
    for part, status in ours.items():
        before, _, kind = part.rpartition("status")
        theirs = upstream.get(part)
        if kind or before and not before.endswith(": ") or not isinstance(status, int) or not isinstance(theirs, int) or not theirs < 400 <= status:
            continue
        if change := ours.get(f"{before}change of the database"):
            lines.append(f"{part} is {status}, but ours changes the database: {short(change)}")
        whole = ours.get(f"{before}body")
        body = whole if isinstance(whole, dict) else {key: ours.get(f"{before}body.{key}") for key in ("status", "message", "error")}
        if not body.get("error") and not (body.get("status") == status and body.get("message")):
            lines.append(f"{part} is {status}, but ours does not say why")
    return "\n".join(lines)


def short(value) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    # A lone surrogate cannot be printed.
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) < 900 else text[:900] + "…"
