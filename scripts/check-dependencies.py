#!/usr/bin/env python3
"""Hold the dependencies that are really built against the licences and bans of deny.toml.

`cargo deny` does this and more; this needs nothing but Cargo and Python, so it runs everywhere.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    allowed, banned = rules((ROOT / "deny.toml").read_text())
    packages = built()
    problems = []
    for name, version, licence in sorted(packages):
        if name in banned:
            problems.append(f"{name} {version} is banned: {banned[name]}")
        if not licence:
            problems.append(f"{name} {version} names no licence")
        elif not permitted(licence, allowed):
            problems.append(f"{name} {version} is under {licence}")
    for problem in problems:
        print(problem)
    print(f"{len(packages)} packages looked at, {len(problems)} problems")
    return 1 if problems else 0


def rules(text: str) -> tuple[set[str], dict[str, str]]:
    """The licences allowed and the crates banned with their reasons; read by pattern, because tomllib is young."""
    licences = re.search(r"^\[licenses\].*?^allow = \[(.*?)^\]", text, re.MULTILINE | re.DOTALL).group(1)
    bans = re.search(r"^\[bans\].*?^deny = \[(.*?)^\]", text, re.MULTILINE | re.DOTALL).group(1)
    allowed = set(re.findall(r'"([^"]+)"', licences))
    banned = dict(re.findall(r'crate = "([^"]+)", reason = "([^"]+)"', bans))
    if not allowed or not banned:
        raise SystemExit("deny.toml has no licences or no bans")
    return allowed, banned


def built() -> set[tuple[str, str, str]]:
    """Name, version and licence of what is built; the lock file and `cargo metadata` also name what no feature asks for."""
    tree = subprocess.run(
        ["cargo", "tree", "--workspace", "--locked", "--all-features", "--edges", "normal,build,dev", "--prefix", "none", "--format", "{p}|{l}"],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True,
    ).stdout
    packages = set()
    for line in tree.splitlines():
        if "|" in line:
            package, licence = line.removesuffix(" (*)").split("|", 1)
            name, version = package.split()[:2]
            packages.add((name, version, licence.strip()))
    return packages


def permitted(expression: str, allowed: set[str]) -> bool:
    """Evaluate an SPDX expression; the old `MIT/Apache-2.0` means OR."""
    words = re.findall(r"\(|\)|[^\s()]+", re.sub(r"\s*/\s*", " OR ", expression))

    def alternatives(at: int) -> tuple[bool, int]:
        good, at = conjunction(at)
        while at < len(words) and words[at] == "OR":
            other, at = conjunction(at + 1)
            good = good or other
        return good, at

    def conjunction(at: int) -> tuple[bool, int]:
        good, at = single(at)
        while at < len(words) and words[at] == "AND":
            other, at = single(at + 1)
            good = good and other
        return good, at

    def single(at: int) -> tuple[bool, int]:
        if words[at] == "(":
            good, at = alternatives(at + 1)
            return good, at + 1
        name, at = words[at], at + 1
        if at + 1 < len(words) and words[at] == "WITH":
            name, at = f"{name} WITH {words[at + 1]}", at + 2
        return name in allowed, at

    return alternatives(0)[0]


if __name__ == "__main__":
    sys.exit(main())
