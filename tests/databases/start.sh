#!/bin/sh
# Starts a throw-away PostgreSQL and a throw-away MariaDB on free loopback ports and prints the
# `export` lines that tell the tests where they are:
#
#     eval "$(tests/databases/start.sh)"
#     cargo test -p orrery-store
#     tests/databases/stop.sh
#
# Everything lives in one temporary folder, named by ORRERY_TEST_DATABASES_DIR, which stop.sh removes.
# Needs the Debian packages postgresql and mariadb-server. Run as root, the servers run as the
# packages' users postgres and mysql; otherwise as the caller.
set -eu

say() { echo "$*" >&2; }

find_program() {
    for candidate in "$(command -v "$1" 2>/dev/null || true)" /usr/lib/postgresql/*/bin/"$1" \
        /usr/sbin/"$1" /usr/local/sbin/"$1"; do
        if [ -n "$candidate" ] && [ -x "$candidate" ]; then
            readlink -f "$candidate"
            return
        fi
    done
    say "$1 is missing: apt-get install $2"
    exit 1
}

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# Becomes a command, as the given user when we are root and as ourselves otherwise. In the background
# this makes the job's process id the server's own, and leaves no shell that holds our output open.
become() {
    user=$1
    shift
    if [ "$(id -u)" = 0 ]; then
        exec setpriv --reuid="$user" --regid="$(id -g "$user")" --clear-groups "$@"
    fi
    exec "$@"
}

# Waits until a command succeeds or the server has ended.
await() {
    pid=$1
    shift
    tries=0
    until "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        if [ $tries -ge 300 ] || ! kill -0 "$pid" 2>/dev/null; then
            return 1
        fi
        sleep 0.1
    done
}

initdb=$(find_program initdb postgresql)
postgres=$(find_program postgres postgresql)
mariadbd=$(find_program mariadbd mariadb-server)
mariadb_install=$(find_program mariadb-install-db mariadb-server)

dir=$(mktemp -d "${TMPDIR:-/tmp}/orrery-databases.XXXXXX")
chmod 755 "$dir"
# A start that fails half-way leaves nothing behind.
trap 'ORRERY_TEST_DATABASES_DIR="$dir" "$(dirname "$0")/stop.sh" >&2 || true' EXIT
trap 'exit 1' INT TERM
mkdir "$dir/postgres" "$dir/mysql"
if [ "$(id -u)" = 0 ]; then
    chown postgres "$dir/postgres"
    chown mysql "$dir/mysql"
fi
password=$(python3 -c 'import secrets; print(secrets.token_hex(16))')

# --- PostgreSQL
umask 077
printf '%s\n' "$password" >"$dir/postgres/password"
umask 022
[ "$(id -u)" != 0 ] || chown postgres "$dir/postgres/password"
(become postgres "$initdb" -D "$dir/postgres/data" -U orrery --pwfile="$dir/postgres/password" \
    -A scram-sha-256 -E UTF8 --locale=C.UTF-8 --no-sync) >"$dir/postgres/initdb.log" 2>&1 || {
    cat "$dir/postgres/initdb.log" >&2
    exit 1
}
attempt=1
while :; do
    port=$(free_port)
    become postgres "$postgres" -D "$dir/postgres/data" -p "$port" -c listen_addresses=127.0.0.1 \
        -c unix_socket_directories="$dir/postgres" -c fsync=off -c synchronous_commit=off \
        -c full_page_writes=off -c max_connections=300 -c shared_buffers=32MB \
        >"$dir/postgres/server.log" 2>&1 </dev/null &
    echo $! >"$dir/postgres.pid"
    await $! "$(dirname "$postgres")/pg_isready" -q -h 127.0.0.1 -p "$port" && break
    # Somebody took the port in between.
    attempt=$((attempt + 1))
    if [ $attempt -gt 3 ]; then
        tail -20 "$dir/postgres/server.log" >&2
        exit 1
    fi
done
postgres_url="postgresql://orrery:$password@127.0.0.1:$port/postgres"

# --- MariaDB
(become mysql "$mariadb_install" --no-defaults --datadir="$dir/mysql/data" --skip-test-db \
    --auth-root-authentication-method=normal) >"$dir/mysql/install.log" 2>&1 || {
    cat "$dir/mysql/install.log" >&2
    exit 1
}
umask 077
cat >"$dir/mysql/init.sql" <<SQL
ALTER USER root@localhost IDENTIFIED BY '$password';
CREATE USER IF NOT EXISTS orrery@127.0.0.1 IDENTIFIED BY '$password';
GRANT ALL ON *.* TO orrery@127.0.0.1;
CREATE DATABASE IF NOT EXISTS orrery CHARACTER SET utf8mb4;
SQL
umask 022
[ "$(id -u)" != 0 ] || chown mysql "$dir/mysql/init.sql"
attempt=1
while :; do
    port=$(free_port)
    become mysql "$mariadbd" --no-defaults --datadir="$dir/mysql/data" --port="$port" \
        --bind-address=127.0.0.1 --socket="$dir/mysql/socket" --pid-file="$dir/mysql/pid" \
        --init-file="$dir/mysql/init.sql" --skip-name-resolve --character-set-server=utf8mb4 \
        --innodb-flush-log-at-trx-commit=0 --innodb-buffer-pool-size=64M --skip-log-bin \
        --max-connections=300 >"$dir/mysql/server.log" 2>&1 </dev/null &
    echo $! >"$dir/mysql.pid"
    await $! python3 -c "import socket; socket.create_connection(('127.0.0.1', $port), 1)" && break
    attempt=$((attempt + 1))
    if [ $attempt -gt 3 ]; then
        tail -20 "$dir/mysql/server.log" >&2
        exit 1
    fi
done
mysql_url="mysql://orrery:$password@127.0.0.1:$port/orrery"

trap - EXIT
echo "export ORRERY_TEST_DATABASES_DIR='$dir'"
echo "export ORRERY_TEST_POSTGRES_URL='$postgres_url'"
echo "export ORRERY_TEST_MYSQL_URL='$mysql_url'"
