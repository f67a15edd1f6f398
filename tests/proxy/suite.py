"""Cases: what is done to a proxy, and what is to be seen then.

A case is one function, run against both proxies. What it returns is compared with
what is expected of a proxy that does it right. Ours has to do it right; the original
may do something else only where `differences.py` lists the case, with what it does
instead and why we do not.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Case:
    name: str
    run: Callable
    expect: object
    #: The options of the proxy that the case shares with others; None: it starts its own.
    options: tuple | None
    #: The case looks at what other cases change as well: it runs when they are done.
    alone: bool = False
    #: Whether the shared proxy has the echo server as its default target.
    default: bool = True
    variables: tuple = ()


@dataclass
class Difference:
    """What the original does in a case, instead of what is expected."""

    reason: "Reason"
    chp: object


@dataclass
class Reason:
    """Why the two differ: a row of docs/proxy-differences.md."""

    area: str
    chp: str
    ours: str
    #: Better: the original is wrong. Stricter: the original is too lenient. Other: a choice.
    kind: str = "better"
    cases: dict[str, object] = field(default_factory=dict)


CASES: dict[str, Case] = {}


def case(name: str, expect, *, options: tuple | list = (), alone: bool = False, default: bool = True, **variables):
    """A case for `run(proxy)`, on a proxy shared by all cases of the same options."""

    def add(run: Callable) -> Callable:
        register(Case(name, run, expect, tuple(options), alone, default, tuple(sorted(variables.items()))))
        return run

    return add


def own(name: str, expect):
    """A case for `run(site)`, which starts its proxies itself."""

    def add(run: Callable) -> Callable:
        register(Case(name, run, expect, None))
        return run

    return add


def register(new: Case) -> None:
    assert new.name not in CASES, f"two cases are called {new.name!r}"
    CASES[new.name] = new


class OneOf:
    """An expectation that holds for each of several values."""

    def __init__(self, *values):
        self.values = [normal(value) for value in values]

    def __repr__(self) -> str:
        return " or ".join(map(repr, self.values))


def normal(value):
    """A value as JSON has it: tuples are lists, keys are texts."""
    return json.loads(json.dumps(value, default=lambda other: sorted(other) if isinstance(other, set) else str(other)))


def matches(got, expected) -> bool:
    if isinstance(expected, OneOf):
        return normal(got) in expected.values
    return normal(got) == normal(expected)


def judge(kind: str, case: Case, got, difference: Difference | None) -> str:
    """What is wrong with `got`, or nothing."""
    right = matches(got, case.expect)
    if kind == "orrery" or difference is None:
        if right:
            return ""
        unlisted = "" if kind == "orrery" else " (no listed difference)"
        return f"expected {short(case.expect)}\n     got {short(got)}{unlisted}"
    if right:
        return "the listed difference is gone: it does what is expected; take the case from differences.py"
    if not matches(got, difference.chp):
        return f"listed as {short(difference.chp)}\n     got {short(got)}"
    return ""


def short(value) -> str:
    if isinstance(value, OneOf):
        return repr(value)
    text = repr(normal(value))
    return text if len(text) < 800 else text[:800] + "…"
