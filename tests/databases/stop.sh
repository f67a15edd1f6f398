#!/bin/sh
# Ends what start.sh started, by process id, and removes its folder. The folder is the first argument
# or ORRERY_TEST_DATABASES_DIR.
set -eu

dir=${1:-${ORRERY_TEST_DATABASES_DIR:-}}
case "$dir" in
*/orrery-databases.??????) ;;
*)
    echo "usage: stop.sh FOLDER, the ORRERY_TEST_DATABASES_DIR that start.sh printed" >&2
    exit 2
    ;;
esac

for name in postgres mysql; do
    [ -f "$dir/$name.pid" ] || continue
    pid=$(cat "$dir/$name.pid")
    # The id may belong to somebody else by now: only a process that works in our folder is ours.
    if ! tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF "$dir/"; then
        continue
    fi
    # PostgreSQL's fast shutdown; MariaDB ends the same way on it or on TERM.
    if [ "$name" = postgres ]; then kill -INT "$pid"; else kill -TERM "$pid"; fi
    tries=0
    while kill -0 "$pid" 2>/dev/null; do
        tries=$((tries + 1))
        if [ $tries -eq 150 ]; then kill -KILL "$pid"; fi
        if [ $tries -ge 200 ]; then break; fi
        sleep 0.1
    done
done
rm -rf "$dir"
