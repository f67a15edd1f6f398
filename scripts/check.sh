#!/bin/bash
# What can be judged without starting anything: formatting, lints, documentation, dependencies, generated pages.
set -uo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/steps.sh
. scripts/steps.sh

step "formatting" 120 cargo fmt --all --check
step "lints" 1500 cargo clippy --workspace --all-targets --locked --quiet -- -D warnings
step "documentation" 900 env RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked --quiet
step "licences and banned crates" 120 python3 scripts/check-dependencies.py
if command -v cargo-deny >/dev/null; then
    # Advisories need the network; what they say changes without a commit, so they are no part of this.
    step "cargo deny" 300 cargo deny --locked check bans licenses sources
fi
# The flags are those of `make test`, so that nothing is built twice.
step "the program builds" 1500 cargo build --workspace --all-targets --locked --quiet
step "generated pages are fresh" 60 "$CARGO_TARGET_DIR/debug/orrery" docs --check
step "scripts parse" 30 bash -c 'for script in scripts/*.sh tests/databases/*.sh .ci/run; do bash -n "$script" || exit 1; done; python3 -m compileall -q scripts tests bench python'
sum
exit $((failures > 0))
