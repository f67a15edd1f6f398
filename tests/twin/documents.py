"""docs/api-differences.md: the table between its two marks is written from `differences.py`."""

from harness.places import CHECKOUT
from suite import Reason

PAGE = CHECKOUT / "docs" / "api-differences.md"
BEGIN, END = "<!-- begin: written by tests/twin/run.py --write-docs -->\n", "<!-- end -->\n"


def table(reasons: list[Reason]) -> str:
    text = ""
    for area in dict.fromkeys(reason.area for reason in reasons):
        text += f"\n### {area}\n\n| JupyterHub 6.1.1 | Orrery | |\n| --- | --- | --- |\n"
        for reason in reasons:
            if reason.area == area:
                text += f"| {reason.upstream} | {reason.ours} | {reason.kind} |\n"
    return text + "\n"


def parts() -> tuple[str, str, str]:
    before, _, rest = PAGE.read_text().partition(BEGIN)
    middle, _, after = rest.partition(END)
    return before, middle, after


def fresh(reasons: list[Reason]) -> bool:
    return PAGE.exists() and parts()[1] == table(reasons)


def write(reasons: list[Reason]) -> None:
    before, _, after = parts()
    PAGE.write_text(before + BEGIN + table(reasons) + END + after)
