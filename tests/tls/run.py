#!/usr/bin/env python3
"""TLS everywhere: the proxy's options, and whole sites with `ssl_key`, `ssl_cert` and `internal_ssl`.

    python tests/tls/run.py [--only proxies|sites|system-user]

Each check of `proxies` holds for configurable-http-proxy 5.3.0 and for ours; what only ours does is
told apart. The sites are JupyterHub 6.1.1 and Orrery with either proxy, one after the other on the
same folder, so that each opens the certificates that the other has made. Needs root, for an account whose
server gets its key.
"""

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
sys.path.insert(0, str(HERE))
import proxies  # noqa: E402
import sites  # noqa: E402
import system_user  # noqa: E402
from harness import reachable  # noqa: E402
from harness.steps import exit_with  # noqa: E402

PARTS = {"proxies": proxies.tell, "sites": sites.tell, "system-user": system_user.tell}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=PARTS)
    options = parser.parse_args()
    if options.only in (None, "system-user"):
        reachable.ensure()
    code = 0
    for part in [options.only] if options.only else PARTS:
        code = max(code, PARTS[part]())
    exit_with(code)


if __name__ == "__main__":
    main()
