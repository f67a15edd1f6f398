#!/bin/bash
# Installs Debian packages when this user may; exit code 1 and a sentence when not.
set -euo pipefail
as_root=()
if [ "$(id -u)" != 0 ]; then
    if sudo -n true 2>/dev/null; then
        as_root=(sudo -n)
    else
        echo "not root and no sudo without a password: run \`apt-get install $*\` yourself" >&2
        exit 1
    fi
fi
command -v apt-get >/dev/null || { echo "no apt-get here: install $* yourself" >&2; exit 1; }
export DEBIAN_FRONTEND=noninteractive
if ! timeout 600 "${as_root[@]}" apt-get install -y -qq --no-install-recommends "$@" </dev/null >/dev/null 2>&1; then
    timeout 300 "${as_root[@]}" apt-get update -qq </dev/null
    timeout 900 "${as_root[@]}" apt-get install -y -qq --no-install-recommends "$@" </dev/null >/dev/null
fi
