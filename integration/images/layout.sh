# Makes OCI layouts under integration/cache; sourced by the scripts beside it.
# shellcheck shell=bash
set -euo pipefail

images=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=$(dirname "$images")/cache
work=

# target NAME: ends the script where the cache has NAME; else makes $work, which goes away at exit.
target() {
    [ ! -e "$cache/$1" ] || exit 0
    [ "$(id -u)" = 0 ] || { echo "images/$1: needs root: it unpacks a root filesystem" >&2; exit 1; }
    mkdir -p "$cache"
    # Two may want it at once: the second waits, and finds it.
    exec {lock}>"$cache/.$1.lock"
    flock "$lock"
    [ ! -e "$cache/$1" ] || exit 0
    echo "making the image $1" >&2
    work=$(mktemp -d "$cache/.$1.XXXXXX")
    trap 'rm -rf --one-file-system "$work"' EXIT
}

# publish FILE NAME: the finished FILE of $work appears in the cache at once or not at all.
publish() {
    mv --no-target-directory "$work/$1" "$cache/$2"
}

# empty_layout DIR: a layout with the image `latest` of no layers.
empty_layout() {
    umoci init --layout "$1"
    umoci new --image "$1:latest"
}

# add_tar LAYOUT TAR: appends TAR, byte for byte, as the topmost layer.
add_tar() {
    umoci raw add-layer --image "$1:latest" "$2"
}

# sh_in_root DIR COMMAND: runs COMMAND with a private /proc; no service is started from it.
sh_in_root() {
    cp --dereference /etc/resolv.conf "$1/etc/resolv.conf"
    printf '#!/bin/sh\nexit 101\n' >"$1/usr/sbin/policy-rc.d"
    chmod 0755 "$1/usr/sbin/policy-rc.d"
    # shellcheck disable=SC2016  # $0 and $1 are the inner shell's.
    unshare --mount --pid --fork sh -euc '
        mount -t proc proc "$0/proc"
        exec chroot "$0" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive sh -euc "$1"
    ' "$1" "$2" >/dev/null
    rm -f "$1/usr/sbin/policy-rc.d" "$1/etc/resolv.conf" "$1/etc/hostname"
}

# add_packages LAYOUT PACKAGE…: appends one layer: Debian packages, installed in the image itself.
add_packages() {
    local layout=$1
    shift
    umoci unpack --image "$layout:latest" "$work/bundle"
    sh_in_root "$work/bundle/rootfs" "
        apt-get update -qq
        apt-get install -y -qq --no-install-recommends -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-unsafe-io $*
        apt-get clean
        find /var/lib/apt/lists /var/cache/apt /var/cache/debconf /var/log -type f -delete"
    umoci repack --image "$layout:latest" "$work/bundle"
    umoci gc --layout "$layout"
    rm -rf --one-file-system "$work/bundle"
}

# on_base LAYOUT: starts LAYOUT from the common Debian layer.
on_base() {
    "$images/base"
    cp -a "$cache/base" "$1"
}

# with_zstd NAME: publishes the layout NAME of $work, and NAME-zstd, the same image compressed by zstd.
with_zstd() {
    skopeo copy --quiet --dest-compress-format zstd "oci:$work/$1:latest" "oci:$work/$1-zstd:latest"
    publish "$1-zstd" "$1-zstd"
    publish "$1" "$1"
}
