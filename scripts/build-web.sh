#!/bin/bash
# Builds web/ with Vite. The hub also serves the sources as they are, so an old Node is a remark, not an end.
set -euo pipefail
cd "$(dirname "$0")/../web"

if ! node -e 'process.exit(parseInt(process.versions.node) >= 18 ? 0 : 1)' 2>/dev/null; then
    echo "Vite needs Node 18 or newer; the pages will use the unbuilt sources of web/src" >&2
    exit 0
fi
# No package needs its install script, and what is not run can do no harm.
if ! cmp -s package-lock.json node_modules/.made-from; then
    timeout 300 npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
    cp package-lock.json node_modules/.made-from
fi
# Nothing to do when nothing is newer than what was built.
if [ -d dist ] && [ -z "$(find src public vite.config.js package-lock.json -newer dist/.built 2>/dev/null | head -1)" ] && [ -e dist/.built ]; then
    exit 0
fi
timeout 120 npx vite build --logLevel warn
touch dist/.built
