#!/bin/bash
# Installs from Debian what the tests start: Chromium, PostgreSQL, MariaDB, wrk, iproute2, sudo. Says what is missing when it may not.
set -euo pipefail
cd "$(dirname "$0")/.."

present() {
    command -v "$1" >/dev/null || compgen -G "/usr/sbin/$1" >/dev/null || compgen -G "/usr/lib/postgresql/*/bin/$1" >/dev/null
}

missing=()
present chromium || missing+=(chromium)
present initdb || missing+=(postgresql)
present mariadbd || missing+=(mariadb-server)
present wrk || missing+=(wrk)
{ present ip && present ss; } || missing+=(iproute2)
present sudo || missing+=(sudo)
{ present pebble && present pebble-challtestsrv; } || missing+=(pebble)
python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
[ ${#missing[@]} = 0 ] && exit 0
echo "installing ${missing[*]}"
scripts/apt-install.sh "${missing[@]}"
