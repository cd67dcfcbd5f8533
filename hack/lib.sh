# shellcheck shell=bash
# Functions that the scripts in this folder share. Sourced, never run.
#
# Every script that changes something registers how to undo it with `on_exit` first, so that an interrupted run
# leaves nothing behind either.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck disable=SC2034 # read by the scripts that source this file
BIN=$ROOT/target/bin
# Downloads and unpacked packages of other Debian releases; safe to delete at any time.
CACHE=${DAVIT_CACHE:-$ROOT/target/debian}

say() { printf '==> %s\n' "$*"; }
warn() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() {
    warn "$*"
    exit 1
}

need_root() { [ "$(id -u)" = 0 ] || die "run as root (containers, mounts and cgroups are made)"; }

# --- undo -----------------------------------------------------------------------------------------------------

_undo=()

# on_exit WORD...: run this command when the script ends, last registered first.
on_exit() {
    # Quoted here so that the words survive the eval in run_undo.
    _undo=("$(printf '%q ' "$@")" "${_undo[@]+"${_undo[@]}"}")
    trap run_undo EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
}

run_undo() {
    local rc=$? command
    # A second signal (timeout sends one to the script and one to its group) would leave the rest undone.
    trap '' INT TERM
    trap - EXIT
    for command in "${_undo[@]+"${_undo[@]}"}"; do eval "$command" || true; done
    exit "$rc"
}

# wait_for SECONDS WORD...: try a command until it succeeds; false when the time is over.
wait_for() {
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$end" ] || return 1
        sleep 0.05
    done
}

# --- packages -------------------------------------------------------------------------------------------------

# need_packages COMMAND=PACKAGE...: install the packages whose command (or absolute path) is missing.
need_packages() {
    local pair missing=()
    for pair in "$@"; do
        command -v "${pair%%=*}" >/dev/null 2>&1 || [ -e "${pair%%=*}" ] || missing+=("${pair#*=}")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null || die "missing: ${missing[*]} (install them; this script only knows apt-get)"
    [ "$(id -u)" = 0 ] || die "missing packages: run  apt-get install ${missing[*]}"
    say "installing ${missing[*]}"
    local log
    log=$(mktemp)
    if ! { apt_get update && apt_get install "${missing[@]}"; } >"$log" 2>&1; then
        tail -n 15 "$log" >&2
        rm -f "$log"
        die "apt-get could not install ${missing[*]}: is a package mirror reachable?"
    fi
    rm -f "$log"
}

# RUNLEVEL=1: without systemd, a package's daemon does not start because a script here wants its program.
apt_get() {
    DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get -q -y -o APT::Install-Recommends=false \
        -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300 "$@"
}

# The Debian mirror that this machine's own apt uses.
debian_mirror() {
    # shellcheck disable=SC2016 # apt's own variable
    apt-get indextargets --format '$(REPO_URI)' 'Identifier: Packages' 'Origin: Debian' 2>/dev/null |
        sort | uniq -c | sort -rn | awk 'NR==1 {print $2}'
}

MIN_RUST=1.85

# version_ge A B: whether dotted version A is at least B.
version_ge() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n1)" = "$2" ]; }

rust_is_new_enough() {
    command -v cargo >/dev/null && command -v rustc >/dev/null &&
        version_ge "$(rustc --version 2>/dev/null | awk '{print $2}')" "$MIN_RUST"
}

# Put a Rust toolchain of at least MIN_RUST on PATH: the one that is there, else Debian's.
ensure_rust() {
    rust_is_new_enough && return
    PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
    rust_is_new_enough && return
    local candidate
    candidate=$(apt-cache policy rustc 2>/dev/null | awk '/Candidate:/ {print $2}')
    if [ -n "$candidate" ] && version_ge "${candidate%%[+~-]*}" "$MIN_RUST"; then
        PATH=/usr/bin:$PATH
        need_packages no-rust=rustc no-cargo=cargo
        rust_is_new_enough && return
    fi
    rust_from_newer_debian && return
    die "no Rust toolchain of at least $MIN_RUST: install one (Debian 13's rustc and cargo, or rustup) and run this again"
}

# This release's own rustc is too old: unpack the one of Debian 13 beside it. Nothing of the system is replaced.
rust_from_newer_debian() {
    command -v apt-get >/dev/null || return 1
    local tree
    say "this Debian has no Rust of at least $MIN_RUST: unpacking the one of Debian 13 under $CACHE"
    tree=$("$ROOT/hack/debian-tree" --name rust trixie rustc cargo) || return 1
    # Only these programs: the tree's compiler and linker would build against its newer libc.
    need_packages cc=gcc /usr/include/stdio.h=libc6-dev
    mkdir -p "$CACHE/rust-bin"
    ln -sf "$tree"/bin/{cargo,rustc,rustdoc} "$CACHE/rust-bin/"
    PATH=$CACHE/rust-bin:$PATH
    rust_is_new_enough
}

# debian_tree_for_tests SUITE: the packages that the tests want of a release (integration/src/setup.rs,
# tests/tests/coverage_table.rs, tests/src/criu.rs), so that all share a tree.
debian_tree_for_tests() {
    case $1 in
    # The JSON schema of config.json.
    specs) "$ROOT/hack/debian-tree" --name specs sid golang-github-opencontainers-specs-dev ;;
    bookworm) "$ROOT/hack/debian-tree" bookworm containerd runc crun docker.io podman ;;
    podman-sid)
        "$ROOT/hack/debian-tree" --name podman-sid sid podman crun runc conmon netavark catatonit buildah
        ;;
    docker-sid) "$ROOT/hack/debian-tree" --name docker-sid sid docker.io docker-cli ;;
    criu-sid) "$ROOT/hack/debian-tree" --name criu-sid sid criu ;;
    cni) "$ROOT/hack/debian-tree" --name cni bookworm containernetworking-plugins ;;
    *) "$ROOT/hack/debian-tree" "$1" containerd runc crun ;;
    esac
}

# --- cgroups --------------------------------------------------------------------------------------------------

# On cgroup v1 a runtime may put a container below its caller's own cgroup. Where this shell sits in a memory
# cgroup of somebody else (a CI job's, say), limits and leftovers would be mixed up with theirs: move to our own.
own_memory_cgroup() {
    local v1=/sys/fs/cgroup/memory mine
    [ -e "$v1/cgroup.procs" ] && [ "$(id -u)" = 0 ] || return 0
    grep -q ':memory:/$' /proc/self/cgroup && return 0
    mine=$v1/davit-$BASHPID
    mkdir "$mine"
    on_exit leave_memory_cgroup "$mine"
    echo "$BASHPID" >"$mine/cgroup.procs"
}

leave_memory_cgroup() {
    local p
    # Whatever still sits there (this shell included) moves to the root, or the directory could not go.
    while read -r p; do echo "$p" >/sys/fs/cgroup/memory/cgroup.procs; done <"$1/cgroup.procs" 2>/dev/null
    find "$1" -mindepth 1 -depth -type d -exec rmdir {} + 2>/dev/null
    rmdir "$1"
}

# --- containers -----------------------------------------------------------------------------------------------

# An interpreter in the program's headers means dynamic linking.
busybox_is_static() { ! grep -q -a -m1 -E '/ld-(linux|musl)[^ ]*\.so' "$(command -v busybox)"; }

# busybox_rootfs DIR: a root file system of one static busybox with all its applets as links.
busybox_rootfs() {
    mkdir -p "$1"/{bin,dev,etc,home,proc,root,sys,tmp,usr,var,run}
    chmod 1777 "$1/tmp"
    cp "$(command -v busybox)" "$1/bin/busybox"
    local applet
    # Links relative to /bin, so that the tree may be moved.
    busybox --list | while read -r applet; do
        if [ "$applet" != busybox ]; then ln -sf busybox "$1/bin/$applet"; fi
    done
    printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >"$1/etc/passwd"
    printf 'root:x:0:\nnogroup:x:65534:\n' >"$1/etc/group"
}

# --- a private containerd -------------------------------------------------------------------------------------

# containerd_start DIR NAMESPACE: start containerd with its root, state and socket below DIR, so that a containerd of
# the system is not touched. Sets CTR to the client's command line, in that containerd namespace.
containerd_start() {
    local dir=$1 namespace=$2
    mkdir -p "$dir"
    cat >"$dir/config.toml" <<CONFIG
version = 2
root = "$dir/root"
state = "$dir/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.aufs",
    "io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing",
    "io.containerd.nri.v1.nri"]
[grpc]
address = "$dir/containerd.sock"
CONFIG
    PATH=$BIN:$PATH containerd --config "$dir/config.toml" >"$dir/log" 2>&1 &
    CONTAINERD_PID=$!
    on_exit containerd_stop "$CONTAINERD_PID" "$dir" "$namespace"
    # shellcheck disable=SC2034 # the caller's
    CTR=(ctr --address "$dir/containerd.sock" --namespace "$namespace")
    wait_for 30 ctr --address "$dir/containerd.sock" version || {
        cat "$dir/log" >&2
        die "containerd did not come up"
    }
}

containerd_stop() {
    if kill "$1" 2>/dev/null; then wait_for 10 not_running "$1" || kill -9 "$1"; fi
    # Snapshots of containers that were not removed would keep the directory busy.
    local mount
    awk -v d="$2/" 'index($5, d) == 1 {print $5}' /proc/self/mountinfo | sort -r |
        while read -r mount; do umount -l "$mount" 2>/dev/null; done
    # containerd's clients put cgroups below one that is named after the namespace, which nobody removes.
    find /sys/fs/cgroup -depth -type d -name "$3" -exec rmdir {} + 2>/dev/null || true
}

not_running() { ! kill -0 "$1" 2>/dev/null; }
