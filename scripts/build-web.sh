#!/bin/bash
# Builds web/ with Vite. The hub also serves the sources as they are, so an old Node is a remark, not an end.
set -euo pipefail
cd "$(dirname "$0")/../web"

if ! node -e 'const [a, b] = process.versions.node.split(".").map(Number); process.exit(a > 22 || (a === 22 && b >= 12) || (a === 20 && b >= 19) ? 0 : 1)' 2>/dev/null; then
    echo "Vite needs Node 20.19 or 22.12; the pages will use the unbuilt sources of web/src" >&2
    exit 0
fi
if ! cmp -s package-lock.json node_modules/.made-from; then
    # npm ci refuses a lock file without the optional packages of other platforms, which some npm write so;
    # the versions are exact in package.json, and neither file is changed by this.
    if ! timeout 300 npm ci --no-audit --no-fund --loglevel=error >/dev/null 2>&1; then
        timeout 300 npm install --no-save --no-package-lock --no-audit --no-fund --loglevel=error
    fi
    cp package-lock.json node_modules/.made-from
fi
# Nothing to do when nothing is newer than what was built.
if [ -d dist ] && [ -z "$(find src public vite.config.js package-lock.json -newer dist/.built 2>/dev/null | head -1)" ] && [ -e dist/.built ]; then
    exit 0
fi
timeout 120 npx vite build --logLevel warn
touch dist/.built
