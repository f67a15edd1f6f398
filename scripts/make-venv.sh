#!/bin/bash
# Makes the virtual environment with the real jupyterhub and jupyterlab; again when the requirements change.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${ORRERY_VENV:-$PWD/.venv}
requirements=tests/requirements.txt
stamp=$venv/.made-from

cmp -s "$requirements" "$stamp" && exit 0
echo "making $venv with $(grep -E '^jupyter' "$requirements" | tr '\n' ' ')"
if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
    echo "python3 is too old or missing: Python 3.10 or newer is needed" >&2
    exit 1
fi
if [ ! -x "$venv/bin/pip" ]; then
    # Debian keeps what a virtual environment needs in a package of its own.
    if ! python3 -c 'import ensurepip' 2>/dev/null; then
        scripts/apt-install.sh python3-venv || {
            echo "python3 cannot make virtual environments: install python3-venv" >&2
            exit 1
        }
    fi
    timeout 120 python3 -m venv "$venv"
fi
timeout 600 "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$requirements"
cp "$requirements" "$stamp"
