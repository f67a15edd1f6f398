#!/bin/bash
# Makes the Debian package with cargo-deb and prints its path. Options:
#   --profile release|dev   which build to pack (release); a dev build is not stripped down to size, and quick to make
#   --no-build              take the programs as they stand
#   --version VERSION       another version than Cargo's
#   --output FOLDER         where to put it (target/debian)
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
tools=${ORRERY_CACHE:-${HOME:-/root}/.cache/orrery}/tools
# The version is a fixed one: what it writes into a package is looked at by the tests.
cargo_deb_version=3.8.0
profile=release build=yes version=() output=$CARGO_TARGET_DIR/debian
while [ $# -gt 0 ]; do
    case $1 in
    --profile) profile=$2 && shift 2 ;;
    --no-build) build=no && shift ;;
    --version) version=(--deb-version "$2") && shift 2 ;;
    --output) output=$2 && shift 2 ;;
    *) echo "make-deb.sh does not know $1" >&2 && exit 2 ;;
    esac
done
folder=$CARGO_TARGET_DIR/$([ "$profile" = dev ] && echo debug || echo "$profile")

if [ "$("$tools/bin/cargo-deb" deb --version 2>/dev/null || true)" != "cargo-deb $cargo_deb_version" ]; then
    echo "installing cargo-deb $cargo_deb_version into $tools" >&2
    timeout 1500 cargo install cargo-deb --version "$cargo_deb_version" --locked --quiet --root "$tools" --target-dir "$CARGO_TARGET_DIR/tools" >&2
fi
if [ "$build" = yes ]; then
    scripts/build-web.sh >&2
    cargo build --profile "$profile" --locked -p orrery -p orrery-session >&2
fi
mkdir -p "$folder/completions" "$output"
"$folder/orrery" completions bash >"$folder/completions/orrery.bash"
fast=()
[ "$profile" = release ] || fast=(--fast)
PATH=$tools/bin:$PATH timeout 600 cargo deb --quiet -p orrery --no-build --profile "$profile" --output "$output/" "${fast[@]}" "${version[@]}"
