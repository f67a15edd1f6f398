# Sourced by check.sh and test.sh: named steps, each with a limit of time, counted into $ORRERY_COUNTS.
# shellcheck shell=bash

export ORRERY_COUNTS=${ORRERY_COUNTS:-$(mktemp)}
failures=0

# step NAME SECONDS COMMAND…: a step that passes or fails as a whole.
step() {
    local name=$1 seconds=$2 begun=$SECONDS
    shift 2
    echo "== $name"
    if timeout --foreground "$seconds" "$@" </dev/null; then
        echo "PASS  $name  ($((SECONDS - begun)) s)"
        echo "$name: 1 passed, 0 failed" >>"$ORRERY_COUNTS"
    else
        echo "FAIL  $name  (exit code $?, $((SECONDS - begun)) s)"
        echo "$name: 0 passed, 1 failed" >>"$ORRERY_COUNTS"
        failures=$((failures + 1))
    fi
}

# counted NAME SECONDS COMMAND…: a runner that writes its own line to $ORRERY_COUNTS; if it could not, that is a failure.
counted() {
    local name=$1 seconds=$2 before after code=0
    shift 2
    before=$(wc -l <"$ORRERY_COUNTS")
    timeout --foreground "$seconds" "$@" </dev/null || code=$?
    after=$(wc -l <"$ORRERY_COUNTS")
    if [ $code != 0 ]; then
        failures=$((failures + 1))
        echo "FAIL  $name  (exit code $code)"
        [ "$after" != "$before" ] || echo "$name: 0 passed, 1 failed" >>"$ORRERY_COUNTS"
    fi
}

# The sum of all lines, as the closing line.
sum() {
    awk '{ for (i = 1; i < NF; i++) { if ($(i + 1) ~ /^passed/) p += $i; if ($(i + 1) ~ /^failed/) f += $i } }
         END { printf "%d passed, %d failed\n", p, f }' "$ORRERY_COUNTS"
}
