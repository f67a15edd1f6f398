#!/bin/bash
# A clean Debian 12 with systemd as its PID 1, without Docker: for tests that install things. Needs root.
#
#   scripts/container.sh create NAME                 make the root folder of a new container
#   scripts/container.sh start NAME [OPTION…]        boot it, and wait until systemd has started everything
#   scripts/container.sh run NAME [--user U] [--env K=V]… [--] COMMAND…   run a command in it, as root by default
#   scripts/container.sh enter NAME [--] COMMAND…    run a command of this host in the container's network alone
#   scripts/container.sh path NAME                   print its root folder; files may be put there directly
#   scripts/container.sh stop NAME                   halt it
#   scripts/container.sh remove NAME                 halt it and delete its files
#   scripts/container.sh base                        only make the tarball that `create` unpacks
#
# OPTIONS of start:
#   --bind FOLDER[:INSIDE]       show a folder of this host in it, writable
#   --bind-ro FOLDER[:INSIDE]    the same, read-only
#   --network private|host|none  private (default): interfaces and ports of its own, and a way out by slirp4netns
#
# So, to try something under systemd:
#   scripts/container.sh create try && scripts/container.sh start try --bind-ro "$PWD"
#   scripts/container.sh run try -- systemd-run --pipe --wait -p MemoryMax=64M "$PWD/target/debug/orrery" --version
#   scripts/container.sh remove try
#
# A container has mounts, processes, host name, IPC, cgroups and (unless told otherwise) network of its own; nothing
# of this host is changed but for folders of its name in the cgroup hierarchies while it runs. All cgroup controllers
# of this host, v1 or v2, are there and writable, below the container's own folder. It is no border against
# evil programs: root in it is root.
#
# apt, pip and npm in it work as on this host: the host's settings, certificates and environment are copied.
# The tarball is kept in $ORRERY_CACHE (~/.cache/orrery), containers in $ORRERY_CONTAINERS (/var/tmp/orrery-containers).
set -euo pipefail

SELF=$(readlink -f "${BASH_SOURCE[0]}")
SUITE=bookworm
PACKAGES=systemd,systemd-sysv,dbus,libpam-systemd,ca-certificates,python3-venv,python3-pip,iproute2,procps,curl,sudo,openssl,less
# Counted up when what the tarball holds changes.
EDITION=1
CACHE=${ORRERY_CACHE:-${HOME:-/root}/.cache/orrery}
PLACES=${ORRERY_CONTAINERS:-/var/tmp/orrery-containers}
TARBALL=$CACHE/container/debian-$SUITE-$EDITION.tar.zst

fail() {
    echo "container.sh: $*" >&2
    exit 1
}

main() {
    local command=${1:-help}
    [ $# = 0 ] || shift
    case $command in
    base) need_root && make_base ;;
    create | start | run | enter | path | stop | remove)
        need_root
        [ $# -ge 1 ] || fail "$command needs a container's name"
        [[ $1 =~ ^[a-z][a-z0-9-]{0,40}$ ]] || fail "a name is of a-z, 0-9 and -: $1"
        NAME=$1 PLACE=$PLACES/$1
        shift
        "container_$command" "$@"
        ;;
    stage-*) "${command/-/_}" "$@" ;;
    *)
        sed -n '2,/^set -/{/^set -/!s/^# \{0,1\}//p}' "$SELF"
        [ "$command" = help ] || exit 2
        ;;
    esac
}

need_root() {
    [ "$(id -u)" = 0 ] || fail "this needs root"
}

# --- the tarball ----------------------------------------------------------------------------------------------------

make_base() {
    local missing=()
    command -v zstd >/dev/null || missing+=(zstd)
    command -v slirp4netns >/dev/null || missing+=(slirp4netns)
    [ -s "$TARBALL" ] || command -v debootstrap >/dev/null || missing+=(debootstrap)
    [ ${#missing[@]} = 0 ] || "$(dirname "$SELF")/apt-install.sh" "${missing[@]}"
    [ ! -s "$TARBALL" ] || return 0
    mkdir -p "$(dirname "$TARBALL")"
    local work
    work=$(mktemp -d "$PLACES/.base-XXXXXX")
    echo "making a Debian $SUITE for containers (once; kept in $CACHE/container)"
    local mirror
    mirror=$(host_mirror)
    # In namespaces of its own, so that no mount of debootstrap's is left behind.
    timeout 900 unshare --mount --pid --fork --mount-proc --propagation private \
        debootstrap --variant=minbase --include="$PACKAGES" "$SUITE" "$work/root" ${mirror:+"$mirror"} \
        >"$work/log" 2>&1 </dev/null || {
        tail -n 20 "$work/log" >&2
        fail "debootstrap failed; its log is $work/log"
    }
    rm -rf "$work"/root/var/cache/apt/archives/*.deb "$work"/root/var/lib/apt/lists/*
    tar -C "$work/root" --numeric-owner --xattrs -cf - . | zstd -q -3 -T0 >"$TARBALL.$$"
    mv "$TARBALL.$$" "$TARBALL"
    rm -rf --one-file-system "$work"
}

# Where this host gets this suite from, if it is a Debian that says so; else debootstrap knows.
host_mirror() {
    apt-get indextargets --format '$(CODENAME) $(REPO_URI)' "Created-By: Packages" 2>/dev/null |
        awk -v suite="$SUITE" '$1 == suite { print $2; exit }' || true
}

# --- create ---------------------------------------------------------------------------------------------------------

container_create() {
    [ ! -e "$PLACE" ] || fail "$NAME is there already; remove it first"
    make_base
    mkdir -p "$PLACE/root"
    chmod 755 "$PLACES" "$PLACE"
    zstd -dcq "$TARBALL" | tar -C "$PLACE/root" --numeric-owner --xattrs -xpf -
    local root=$PLACE/root
    echo "$NAME" >"$root/etc/hostname"
    printf '127.0.0.1 localhost %s\n::1 localhost\n' "$NAME" >"$root/etc/hosts"
    : >"$root/etc/machine-id"
    # What a container must leave alone, and what only makes it slow.
    local unit
    for unit in systemd-udevd.service systemd-networkd.service systemd-resolved.service systemd-timesyncd.service \
        systemd-firstboot.service apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer fstrim.timer \
        getty.target console-getty.service dev-hugepages.mount sys-kernel-debug.mount sys-kernel-tracing.mount; do
        ln -sf /dev/null "$root/etc/systemd/system/$unit"
    done
    ln -sf /lib/systemd/system/multi-user.target "$root/etc/systemd/system/default.target"
    copy_settings "$root"
}

# The host's ways to its package registries.
copy_settings() {
    local root=$1 path
    if grep -q "^VERSION_CODENAME=$SUITE\$" /etc/os-release; then
        rm -f "$root/etc/apt/sources.list"
        for path in sources.list sources.list.d auth.conf auth.conf.d preferences.d trusted.gpg trusted.gpg.d keyrings; do
            [ ! -e "/etc/apt/$path" ] || cp -a "/etc/apt/$path" "$root/etc/apt/"
        done
        cp -a /usr/share/keyrings/. "$root/usr/share/keyrings/"
    fi
    # Settings only, no hooks of programs that are not in the container.
    apt-config dump 2>/dev/null | grep -E '^(Acquire::(Check|http|https|Retries|Languages|ForceIPv4)|APT::Install-)' >"$root/etc/apt/apt.conf.d/90host" || true
    echo 'DPkg::Options { "--force-unsafe-io"; };' >"$root/etc/apt/apt.conf.d/91quick"
    mkdir -p "$root/usr/local/share/ca-certificates" "$root/root/.config"
    cp -aL /usr/local/share/ca-certificates/. "$root/usr/local/share/ca-certificates/" 2>/dev/null || true
    [ ! -e /etc/ssl/certs/ca-certificates.crt ] || cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
    for path in /etc/pip.conf /etc/npmrc; do
        [ ! -e "$path" ] || cp -L "$path" "$root$path"
    done
    for path in .npmrc .netrc .pip .config/pip; do
        [ ! -e "${HOME:-/root}/$path" ] || cp -aL "${HOME:-/root}/$path" "$root/root/$path"
    done
    cp -L /etc/resolv.conf "$root/etc/resolv.conf"
}

# The host's environment as far as it is about registries and certificates; paths that the container lacks left out.
host_environment() {
    local name value
    while IFS='=' read -r -d '' name value; do
        [[ $name =~ ^(PIP_|UV_|npm_config_|NPM_CONFIG_|SSL_CERT_|NODE_EXTRA_CA_CERTS$|.*_CA_BUNDLE$|.*_(proxy|PROXY)$) ]] || continue
        [[ $value != /* || -e $PLACE/root$value ]] || continue
        printf '%s=%s\0' "$name" "$value"
    done < <(env -0)
}

# --- start ----------------------------------------------------------------------------------------------------------

container_start() {
    [ -d "$PLACE/root" ] || fail "there is no $NAME; create it first"
    leader >/dev/null && fail "$NAME runs already"
    local network=private
    : >"$PLACE/binds"
    while [ $# -gt 0 ]; do
        case $1 in
        --bind | --bind-ro)
            [ -e "${2%%:*}" ] || fail "there is no ${2%%:*} to bind"
            echo "$1 ${2%%:*} ${2#*:}" >>"$PLACE/binds"
            shift 2
            ;;
        --network) network=$2 && shift 2 ;;
        *) fail "start does not know $1" ;;
        esac
    done
    rm -f "$PLACE/leader" "$PLACE/leader.new" "$PLACE/ended"
    # Not this command's child for long: it lives until `stop`.
    setsid -f "$SELF" stage-supervise "$NAME" "$network" >"$PLACE/log" 2>&1 </dev/null
    local deadline=$((SECONDS + 60)) state=
    until state=$(leader >/dev/null && container_run systemctl is-system-running 2>/dev/null) || [ "$state" = degraded ]; do
        if [ $SECONDS -gt $deadline ] || { [ -e "$PLACE/ended" ] && ! leader >/dev/null; }; then
            cat "$PLACE/log" >&2
            fail "$NAME did not start (state: ${state:-none})"
        fi
        sleep 0.2
    done
    [ "$state" != degraded ] || container_run systemctl --failed --no-legend --plain >&2
}

# Runs the container in the background, with its way out beside it.
stage_supervise() {
    NAME=$1 PLACE=$PLACES/$1
    local network=$2 namespaces=(--mount --uts --ipc --pid --cgroup) slirp=
    [ "$network" = host ] || namespaces+=(--net)
    join_cgroups
    unshare "${namespaces[@]}" --fork --propagation private --kill-child "$SELF" stage-init "$NAME" "$network" &
    local child=$! waited=0
    leave_cgroups
    until leader >/dev/null || ! kill -0 "$child" 2>/dev/null || [ $((waited += 1)) -gt 200 ]; do sleep 0.05; done
    if [ "$network" = private ] && leader >/dev/null; then
        slirp4netns --configure --mtu=1500 --disable-host-loopback "$(leader)" tap0 >"$PLACE/slirp.log" 2>&1 &
        slirp=$!
    fi
    wait "$child" || true
    [ -z "$slirp" ] || kill "$slirp" 2>/dev/null || true
    wait
    remove_cgroups
    touch "$PLACE/ended"
}

# The first process of the container: builds its view of the world, then becomes systemd.
stage_init() {
    NAME=$1 PLACE=$PLACES/$1
    local network=$2 root=$PLACE/root pid rest option source target node
    # This host's /proc is still there, so these are the numbers that others see.
    read -r pid rest </proc/self/stat
    echo "$pid $(start_time "$pid")" >"$PLACE/leader.new"

    mount --bind "$root" "$root"
    mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
    # Settings of the kernel that are everybody's stay as they are; those of the network are the container's own.
    mount --bind "$root/proc/sys" "$root/proc/sys"
    [ "$network" = host ] || mount --bind "$root/proc/sys/net" "$root/proc/sys/net"
    mount -o remount,bind,ro "$root/proc/sys"
    [ ! -e "$root/proc/sysrq-trigger" ] || mount --bind /dev/null "$root/proc/sysrq-trigger"
    mount -t tmpfs -o nosuid,mode=755 tmpfs "$root/dev"
    for node in null zero full random urandom tty net/tun fuse; do
        [ -e "/dev/$node" ] || continue
        mkdir -p "$(dirname "$root/dev/$node")"
        touch "$root/dev/$node"
        mount --bind "/dev/$node" "$root/dev/$node"
    done
    mkdir -p "$root/dev/pts" "$root/dev/shm"
    mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$root/dev/pts"
    ln -s pts/ptmx "$root/dev/ptmx"
    ln -s /proc/self/fd "$root/dev/fd"
    ln -s /proc/self/fd/0 "$root/dev/stdin"
    ln -s /proc/self/fd/1 "$root/dev/stdout"
    ln -s /proc/self/fd/2 "$root/dev/stderr"
    mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs "$root/dev/shm"
    mount -t tmpfs -o nosuid,nodev,mode=755 tmpfs "$root/run"
    mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs "$root/tmp"
    if [ "$network" = host ]; then
        mount --rbind /sys "$root/sys"
        umount -l "$root/sys/fs/cgroup" 2>/dev/null || true
    else
        mount -t sysfs -o nosuid,nodev,noexec sysfs "$root/sys"
    fi
    mount_cgroups "$root/sys/fs/cgroup"
    mount -o remount,bind,ro "$root/sys"
    while read -r option source target; do
        if [ -d "$source" ]; then
            mkdir -p "$root$target"
        else
            mkdir -p "$(dirname "$root$target")"
            touch "$root$target"
        fi
        mount --rbind "$source" "$root$target"
        [ "$option" = --bind ] || mount -o remount,bind,ro "$root$target"
    done <"$PLACE/binds"
    hostname "$NAME" 2>/dev/null || echo "$NAME" >/proc/sys/kernel/hostname
    # Now the world may know: enough is mounted to enter.
    mv "$PLACE/leader.new" "$PLACE/leader"

    cd "$root"
    mkdir -p .old
    pivot_root . .old
    exec /usr/sbin/chroot . /bin/sh -c 'umount -l /.old && rmdir /.old; exec "$@"' sh \
        env -i container=other PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 \
        setpriv --bounding-set=-sys_module,-sys_time,-sys_boot,-syslog \
        /lib/systemd/systemd --log-target=console --show-status=no --log-level=warning
}

# --- cgroups: a folder of the container's name in each hierarchy, which is the root that the container sees ----------

# v1 controllers that are mounted somewhere, "name=systemd" if there are any, and "unified".
hierarchies() {
    local id names path any=
    while IFS=: read -r id names path; do
        case $names in
        "") continue ;;
        name=systemd) any=$names ;;
        name=*) continue ;;
        *) echo "$names" && any=${any:-yes} ;;
        esac
    done </proc/self/cgroup
    [ -z "$any" ] || echo name=systemd
    echo unified
}

mount_hierarchy() {
    if [ "$1" = unified ]; then
        mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 "$2"
    else
        mount -t cgroup -o "nosuid,nodev,noexec,$1" cgroup "$2"
    fi
}

# Runs a function in each hierarchy's own folder of this process, mounted where only this process sees it.
in_each_hierarchy() {
    local work hierarchy path
    for hierarchy in $(hierarchies); do
        work=$PLACE/cgroup/$hierarchy
        mkdir -p "$work"
        if ! mountpoint -q "$work"; then mount_hierarchy "$hierarchy" "$work" || continue; fi
        path=$(awk -F: -v h="$hierarchy" '(h == "unified" ? $2 == "" : $2 == h) { sub(/^[^:]*:[^:]*:/, ""); print; exit }' "$PLACE/cgroup.before")
        "$1" "$work${path%/}" "$hierarchy"
    done
}

join_cgroups() {
    # In a mount namespace of the supervisor's own from here on.
    [ "${ORRERY_CONTAINER_STAGE:-}" = 2 ] || ORRERY_CONTAINER_STAGE=2 exec unshare --mount --propagation private "$SELF" stage-supervise "$NAME" "$network"
    cp /proc/self/cgroup "$PLACE/cgroup.before"
    join() {
        mkdir -p "$1/orrery-$NAME"
        if [ "$2" = cpuset ]; then
            cat "$1/cpuset.cpus" >"$1/orrery-$NAME/cpuset.cpus"
            cat "$1/cpuset.mems" >"$1/orrery-$NAME/cpuset.mems"
        fi
        echo $$ >"$1/orrery-$NAME/cgroup.procs"
    }
    in_each_hierarchy join
}

leave_cgroups() {
    leave() { echo $$ >"$1/cgroup.procs" || true; }
    # The child must have been made, within its own cgroup namespace, before this process goes.
    local waited=0
    until leader >/dev/null || ! kill -0 "$child" 2>/dev/null || [ $((waited += 1)) -gt 200 ]; do sleep 0.05; done
    in_each_hierarchy leave
}

remove_cgroups() {
    drop() { find "$1/orrery-$NAME" -depth -type d -exec rmdir {} + 2>/dev/null || true; }
    in_each_hierarchy drop
}

mount_cgroups() {
    local hierarchy
    if [ "$(hierarchies)" = unified ]; then
        mount_hierarchy unified "$1"
        return
    fi
    mount -t tmpfs -o nosuid,nodev,noexec,mode=755 tmpfs "$1"
    for hierarchy in $(hierarchies); do
        mkdir "$1/${hierarchy#name=}"
        mount_hierarchy "$hierarchy" "$1/${hierarchy#name=}" || rmdir "$1/${hierarchy#name=}"
    done
}

# --- run ------------------------------------------------------------------------------------------------------------

# The number of the container's first process as this host sees it, if it runs.
leader() {
    local pid begun
    [ -e "$PLACE/leader" ] || return 1
    read -r pid begun <"$PLACE/leader"
    [ "$(start_time "$pid")" = "$begun" ] || return 1
    echo "$pid"
}

start_time() {
    local stat
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    stat=${stat##*) }
    # shellcheck disable=SC2086
    set -- $stat
    echo "${20}"
}

container_run() {
    local pid user=root variables=()
    pid=$(leader) || fail "$NAME does not run"
    while [ $# -gt 0 ]; do
        case $1 in
        --user) user=$2 && shift 2 ;;
        --env) variables+=("$2") && shift 2 ;;
        --) shift && break ;;
        -*) fail "run does not know $1" ;;
        *) break ;;
        esac
    done
    [ $# -ge 1 ] || fail "run needs a command"
    local -a environment
    mapfile -d '' environment < <(host_environment)
    local as=()
    [ "$user" = root ] || as=(setpriv --reuid="$user" --regid="$user" --init-groups)
    local home
    home=$(awk -F: -v user="$user" '$1 == user { print $6 }' "$PLACE/root/etc/passwd")
    # Into the container's cgroups first, so that its systemd and its limits see this process.
    exec_in_cgroups "$pid" nsenter --target "$pid" --mount --uts --ipc --net --pid --cgroup \
        env -i "${environment[@]}" HOME="${home:-/}" USER="$user" LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive TERM=dumb \
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "${variables[@]}" \
        "${as[@]}" "$@"
}

# A subshell whose process goes into the container's folders and then becomes the command.
exec_in_cgroups() {
    local pid=$1
    shift
    # The container's own first process has them mounted in its view, which /proc shows.
    (
        for procs in /proc/"$pid"/root/sys/fs/cgroup/cgroup.procs /proc/"$pid"/root/sys/fs/cgroup/*/cgroup.procs; do
            [ ! -e "$procs" ] || echo "$BASHPID" >"$procs" 2>/dev/null || true
        done
        exec "$@"
    )
}

container_enter() {
    local pid
    pid=$(leader) || fail "$NAME does not run"
    [ "${1:-}" != -- ] || shift
    exec nsenter --target "$pid" --net "$@"
}

container_path() {
    [ -d "$PLACE/root" ] || fail "there is no $NAME"
    echo "$PLACE/root"
}

# --- stop -----------------------------------------------------------------------------------------------------------

container_stop() {
    local pid deadline=$((SECONDS + 30)) last=$((SECONDS + 90))
    if pid=$(leader); then
        # SIGRTMIN+3 asks systemd to halt. With the first process all others of its namespace end.
        kill -s RTMIN+3 "$pid" 2>/dev/null || true
        while leader >/dev/null; do
            if [ $SECONDS -gt $deadline ]; then
                kill -KILL "$pid" 2>/dev/null || true
                deadline=$((SECONDS + 30))
            fi
            [ $SECONDS -le $last ] || fail "$NAME does not end"
            wake_runs "$pid"
            sleep 0.1
        done
    fi
    deadline=$((SECONDS + 10))
    until [ ! -e "$PLACE/log" ] || [ -e "$PLACE/ended" ] || [ $SECONDS -gt $deadline ]; do sleep 0.1; done
}

# systemd stops all of its processes before it ends them. nsenter, which waits outside for one of `run`, then stops
# as well; it must go on, for the container lasts until its last process was waited for.
wake_runs() {
    local pid
    for pid in $(pgrep -x nsenter); do
        if tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -q "^nsenter --target $1 "; then
            kill -CONT "$pid" 2>/dev/null || true
        fi
    done
}

container_remove() {
    [ -e "$PLACE" ] || return 0
    container_stop
    # Deleting a hundred thousand files may take its time; nobody needs to wait for it.
    local gone
    gone=$(mktemp -d "$PLACES/.gone-XXXXXX")
    mv "$PLACE" "$gone/"
    setsid -f nice rm -rf --one-file-system "$gone" </dev/null >/dev/null 2>&1
}

mkdir -p "$PLACES"
main "$@"
