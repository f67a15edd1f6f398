#!/bin/bash
# Installs configurable-http-proxy and playwright-core for the tests; again when the lock file changes.
set -euo pipefail
cd "$(dirname "$0")/.."
modules=${ORRERY_NODE_MODULES:-$PWD/tests/node_modules}
stamp=$modules/.made-from

cmp -s tests/package-lock.json "$stamp" && exit 0
folder=$(dirname "$modules")
mkdir -p "$folder"
[ "$folder" -ef tests ] || cp tests/package.json tests/package-lock.json "$folder/"
(cd "$folder" && timeout 300 npm ci --ignore-scripts --no-audit --no-fund --loglevel=error)
cp tests/package-lock.json "$stamp"
