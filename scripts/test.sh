#!/bin/bash
# The tests, all of them or the parts named: rust story hosts twin tls acme proxy openapi bad-input advisories sessions events escalation browser system-users limits database-story outage chaos proxy-hub forgotten-tabs proxy-process proxy-leaks install. Each has a limit of time.
set -uo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/steps.sh
. scripts/steps.sh
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
export ORRERY_VENV=${ORRERY_VENV:-$PWD/.venv}
export ORRERY_NODE_MODULES=${ORRERY_NODE_MODULES:-$PWD/tests/node_modules}
export ORRERY_PROFILE=debug
unset CONFIGPROXY_AUTH_TOKEN
parts=${*:-rust story hosts twin tls acme proxy openapi bad-input advisories sessions events escalation browser system-users limits database-story outage chaos proxy-hub forgotten-tabs proxy-process proxy-leaks install}
python=$ORRERY_VENV/bin/python

wanted() { [[ " $parts " == *" $1 "* ]]; }

# Writes the counts of a Rust runner's output, nextest's or libtest's.
count_rust() {
    awk '
        /Summary \[/ { for (i = 1; i < NF; i++) { if ($(i + 1) ~ /^passed/) p += $i; if ($(i + 1) ~ /^(failed|timed)/) f += $i } }
        /^test result:/ { for (i = 1; i < NF; i++) { if ($(i + 1) ~ /^passed/) p += $i; if ($(i + 1) ~ /^failed/) f += $i } }
        END { if (p + f) printf "rust: %d passed, %d failed\n", p, f }' "$1" >>"$ORRERY_COUNTS"
}

rust_tests() {
    local log code=0
    log=$(mktemp)
    if cargo nextest --version >/dev/null 2>&1; then
        # A test that hangs is ended by nextest's own limit of .config/nextest.toml.
        cargo nextest run --workspace --all-targets --locked --no-fail-fast --color never 2>&1 | tee "$log" | grep -vE '^ +(PASS|START)'
        code=${PIPESTATUS[0]}
    else
        cargo test --workspace --all-targets --locked --no-fail-fast 2>&1 | tee "$log"
        code=${PIPESTATUS[0]}
    fi
    count_rust "$log"
    # Examples in documentation, which nextest does not run.
    cargo test --workspace --doc --locked --quiet 2>&1 | tee "$log" | tail -n 20
    [ "${PIPESTATUS[0]}" = 0 ] || code=1
    count_rust "$log"
    rm -f "$log"
    return "$code"
}
export -f rust_tests count_rust

if [ -z "${1:-}" ]; then
    step "what the tests need from Debian" 1200 scripts/install-test-deps.sh
    step "the virtual environment" 900 scripts/make-venv.sh
    step "packages from npm" 400 scripts/make-node-modules.sh
    step "the pages" 500 scripts/build-web.sh
fi
step "the program and its tests build" 1500 cargo build --workspace --all-targets --locked --quiet

if wanted rust; then
    databases=$(mktemp)
    if timeout 120 tests/databases/start.sh >"$databases" </dev/null; then
        # shellcheck disable=SC1090
        . "$databases"
        trap 'tests/databases/stop.sh "$ORRERY_TEST_DATABASES_DIR"' EXIT
    else
        echo "databases: 0 passed, 1 failed" >>"$ORRERY_COUNTS"
        failures=$((failures + 1))
    fi
    rm -f "$databases"
    export ORRERY_PYTHON=$python ORRERY_TEST_UPSTREAM_PYTHON=$python
    counted "rust tests" 1200 bash -c rust_tests
fi
wanted story && counted "story" 420 "$python" tests/story/story.py --hub both
wanted hosts && counted "hosts" 420 "$python" tests/hosts/run.py --hub both
wanted twin && counted "twin" 600 "$python" tests/twin/run.py
wanted tls && counted "tls" 420 "$python" tests/tls/run.py
wanted acme && counted "acme" 180 "$python" tests/acme/run.py
wanted proxy && counted "proxy conformance" 420 "$python" tests/proxy/run.py
wanted openapi && counted "openapi" 560 "$python" tests/openapi/run.py
wanted bad-input && counted "bad input" 420 "$python" tests/bad_input/run.py --hub both
wanted advisories && counted "advisories" 300 "$python" tests/advisories/run.py
wanted sessions && counted "sessions" 240 "$python" tests/sessions/run.py
wanted events && counted "events" 120 "$python" tests/events/run.py
wanted escalation && counted "escalation" 240 "$python" tests/escalation/run.py
wanted browser && counted "browser" 600 "$python" tests/browser/run.py --hub orrery
wanted proxy-hub && counted "JupyterHub with our proxy" 420 "$python" tests/proxy_hub/run.py
wanted system-users && counted "system users" 420 "$python" tests/system_users/run.py --hub orrery
wanted system-users && counted "unprivileged hub" 240 "$python" tests/system_users/unprivileged.py
wanted limits && counted "limits" 240 "$python" tests/limits/run.py
wanted database-story && counted "database story" 420 "$python" tests/databases_story/run.py
wanted outage && counted "outage" 420 "$python" tests/outage/run.py
wanted chaos && counted "chaos" 900 "$python" tests/chaos/run.py
wanted chaos && counted "chaos with system users" 400 "$python" tests/chaos/run.py faults random --spawner local --rounds 3 --random-rounds 60
wanted forgotten-tabs && counted "forgotten tabs" 240 "$python" tests/forgotten_tabs/run.py
wanted proxy-process && counted "proxy process" 240 "$python" tests/proxy_process/run.py
wanted proxy-leaks && counted "proxy leaks" 300 "$python" tests/proxy_leaks/run.py
# On a clean Debian of its own, see scripts/container.sh.
wanted install && counted "install" 900 "$python" tests/install/run.py

echo "== all counts"
cat "$ORRERY_COUNTS"
sum
exit $((failures > 0))
