"""Where configurable-http-proxy 5.3.0 does something else, what, and why we do not.

The one list: a difference that is not in it fails, and so does one that is in it but is gone.
docs/proxy-differences.md shows it to users.
"""

from suite import Difference, Reason

REASONS: list[Reason] = []

DIFFERENCES = {name: Difference(reason, chp) for reason in REASONS for name, chp in reason.cases.items()}
