#!/bin/bash
# Runs the fuzz targets of fuzz/, all or those named: scripts/fuzz.sh SECONDS [TARGET…]. Needs a
# nightly compiler (rustup toolchain install nightly) and cargo-fuzz (cargo install cargo-fuzz).
# FUZZ_JOBS of them run at a time, 2 unless it is set. What is found is left in fuzz/artifacts/; put it into
# fuzz/seeds/ with the mend, so that the tests replay it from then on.
set -uo pipefail
cd "$(dirname "$0")/.."
seconds=${1:?how many seconds each target runs}
shift
targets=("$@")
if [ "${#targets[@]}" = 0 ]; then
    mapfile -t targets < <(basename -s .rs fuzz/fuzz_targets/*.rs)
fi
cargo +nightly fuzz build || exit 1

run() {
    mkdir -p "fuzz/corpus/$1"
    cargo +nightly fuzz run "$1" "fuzz/corpus/$1" "fuzz/seeds/$1" -- \
        -max_total_time="$seconds" -max_len=4096 -timeout=10 -rss_limit_mb=1024 -print_final_stats=1 \
        >"fuzz/target/$1.log" 2>&1
    local code=$?
    local done
    done=$(awk '/number_of_executed_units/ { print $2 }' "fuzz/target/$1.log")
    if [ "$code" = 0 ]; then
        echo "$1: ${done:-?} runs, nothing found"
    else
        echo "$1: FAILED after ${done:-?} runs; see fuzz/target/$1.log"
        tail -n 30 "fuzz/target/$1.log"
    fi
    return "$code"
}
export -f run
export seconds
mkdir -p fuzz/target
printf '%s\n' "${targets[@]}" | xargs -P "${FUZZ_JOBS:-2}" -I{} bash -c 'run {}'
