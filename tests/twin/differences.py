"""Where JupyterHub 6.1.1 answers something else, what, and why we do not.

The one list: a difference that is not in it fails, and so does one that is in it but is gone. Each reason
is a row of docs/api-differences.md. `cases` maps patterns of case names to what differs in them: part →
(upstream's value, ours), or `ANY` for values that say nothing. Every case of a pattern must differ so.
"""

from suite import ANY, Reason  # noqa: F401

REASONS: list[Reason] = []


def because(area: str, upstream: str, ours: str, kind: str, cases: dict[str, dict]) -> None:
    REASONS.append(Reason(area, upstream, ours, kind, cases))


BETTER, STRICTER, CHOICE, SAFER = "wrong there", "too lenient there", "our choice", "a hole there"

#: Parts that differ in many cases, wherever one of the pairs is seen: part → pairs of upstream's and ours.
EVERYWHERE: dict[str, list[tuple]] = {
    "header x-content-type-options": [(None, "nosniff")],
    "header allow": [(None, ANY)],
    "body.message": [(None, words) for words in ("Bad Request", "Forbidden", "Not Found", "Method Not Allowed")],
}
because(
    "Headers",
    "No `X-Content-Type-Options`",
    "`X-Content-Type-Options: nosniff`, so that no browser takes data for a page",
    SAFER,
    {},
)
because(
    "Errors",
    "`\"message\": null` in errors of which there is nothing more to say",
    "The words of the status, as JupyterHub has with older releases of Tornado",
    BETTER,
    {},
)
because(
    "Headers",
    "No `Allow` in answers of 405 and to `OPTIONS`",
    "`Allow`, as RFC 9110 (15.5.6) wants it",
    BETTER,
    {},
)
because(
    "Methods",
    "405 to `HEAD`",
    "As `GET`, without a body",
    BETTER,
    {"*: HEAD /user as *": {"status": (405, ANY)}, "*: HEAD /users* as *": {"status": (405, ANY)}},
)
