"""Where the programs under test are.

The Python that runs the tests is the one of the virtual environment with the
reference JupyterHub in it; Node modules and the Orrery binary are named by
environment variables and have defaults inside the checkout.
"""

import os
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


def venv_bin() -> Path:
    return Path(sys.prefix) / "bin"


def node_modules() -> Path:
    return Path(os.environ.get("ORRERY_NODE_MODULES", CHECKOUT / "tests" / "node_modules"))


def orrery_binary() -> Path:
    if named := os.environ.get("ORRERY_BIN"):
        return Path(named)
    target = Path(os.environ.get("CARGO_TARGET_DIR", CHECKOUT / "target"))
    return target / os.environ.get("ORRERY_PROFILE", "debug") / "orrery"


def search_path() -> str:
    """The PATH a hub is started with: the venv first, then the Node programs."""
    return os.pathsep.join([str(venv_bin()), str(node_modules() / ".bin"), os.environ.get("PATH", os.defpath)])
