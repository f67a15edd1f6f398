"""Differences of servers, activity, tokens, shares and OAuth: a part of the one list in `differences.py`."""

from suite import ANY, Reason

BETTER, STRICTER, CHOICE, SAFER = "wrong there", "too lenient there", "our choice", "a hole there"
REASONS: list[Reason] = []


def because(area: str, upstream: str, ours: str, kind: str, cases: dict[str, dict]) -> None:
    REASONS.append(Reason(area, upstream, ours, kind, cases))


FAILS = {"status": (500, 400), "body.status": (500, 400), "body.message": ANY}

because(
    "Errors",
    "500 to bodies of requests about servers, tokens and shares that are of another type than expected, or that name what there is not",
    "400, with what is wrong",
    BETTER,
    {
        "share: POST /shares/ada/one [[]1] as admin": FAILS,
        "share: PATCH /shares/ada/one [[]1] as admin": FAILS,
    },
)
