#!/usr/bin/env bash
# Makes the root of another Debian, once: target/roots/NAME, with systemd and the downloaded packages of what tests
# install. Needs root, and the mirror that apt uses here.
#
#     tests/root.sh NAME
#
# bullseye, bookworm, trixie  the Debian of this name
# SUITE-front                 a copy of that, with HAProxy, keepalived, and what their tests need
# trixie-rpm                  a copy of that, with what tests Red Hat's packages; rpm would also install Perl
# arm64                       Debian 12 for that processor, with its kernel
# selinux                     Debian 13 with its kernel and the tools of SELinux
set -euo pipefail

cd "$(dirname "$0")/.."
# shellcheck source=tests/packages.sh
. tests/packages.sh

name=${1:?names a root}
suite=${name%-*}
packages=(systemd systemd-sysv netbase curl iproute2 procps)
# What is downloaded and not installed.
later=(xinetd)
case $name in
*-front) packages=(haproxy keepalived xinetd socat iputils-arping) later=() ;;
*-rpm) packages=(rpm dnf createrepo-c) later+=(firewalld) ;;
arm64) suite=bookworm later=(linux-image-arm64) ;;
selinux)
    suite=trixie
    packages+=(udev kmod login selinux-utils policycoreutils auditd haproxy keepalived rpm busybox-static)
    later=(linux-image-amd64)
    ;;
esac
root=$PWD/target/roots/$name
mkdir -p target/roots
exec 9>"$root.lock"
flock 9
# What makes another root changes this.
recipe="mmdebstrap: ${packages[*]}, ${later[*]}"
if [ "$(cat "$root/complete" 2>/dev/null)" = "$recipe" ]; then exit; fi

inside() { DEBIAN_FRONTEND=noninteractive chroot "$root" "$@"; }
install() { inside apt-get install --yes --quiet --no-install-recommends "$@"; }

# shellcheck disable=SC2016 # apt's variable
mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep -v security | sed 1q)

# mmdebstrap takes half the time that debootstrap takes, because apt fetches all packages at once and dpkg need not
# wait for the disk. /bin is a link to /usr/bin on Debian 11, too, as its installer makes it.
bootstrap() {
    local options=(--variant=minbase --setup-hook=/usr/share/mmdebstrap/hooks/merged-usr/setup00.sh
        --dpkgopt=force-unsafe-io '--aptopt=Acquire::Languages "none"' --skip=cleanup/apt/lists)
    provide mmdebstrap:mmdebstrap
    if [ "$name" = arm64 ]; then
        options+=(--architectures=arm64)
        runs_arm64
    fi
    local IFS=,
    rm -rf "$root" &&
        mmdebstrap "${options[@]}" --include="${packages[*]}" "$suite" "$root" "deb $mirror $suite main" &&
        rm "$root/etc/dpkg/dpkg.cfg.d/99mmdebstrap" &&
        # Perl looks through each package for questions. Nobody is there to answer them.
        rm "$root/etc/apt/apt.conf.d/70debconf"
}

# qemu runs another processor's programs, which configure the packages.
runs_arm64() {
    [ "$(dpkg --print-architecture)" != arm64 ] || return 0
    provide qemu-aarch64-static:qemu-user-static update-binfmts:binfmt-support arch-test:arch-test
    local binfmt=/proc/sys/fs/binfmt_misc
    mountpoint --quiet $binfmt || mount -t binfmt_misc binfmt_misc $binfmt
    [ -e $binfmt/qemu-aarch64 ] || update-binfmts --enable qemu-aarch64
}

# Installs the packages in a copy of the suite's root.
copy() {
    rm -rf "$root" &&
        mkdir "$root" &&
        cp -a "${root%-*}/." "$root" &&
        rm "$root/complete" &&
        # No daemon starts in a root that is not booted (Debian policy, section 9.3.3.1).
        printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d" &&
        chmod 755 "$root/usr/sbin/policy-rc.d" &&
        # The suite's list is not whole, and apt would keep it.
        rm -rf "$root"/var/lib/apt/lists/* &&
        inside apt-get update --quiet &&
        install "${packages[@]}" &&
        rm "$root/usr/sbin/policy-rc.d"
}

# The packages that are installed or downloaded.
names() {
    inside dpkg --get-selections | cut --fields 1 | sed 's/:.*//' &&
        basename --multiple "$root"/var/cache/apt/archives/*.deb | sed 's/_.*//'
}

# Downloads what tests install. Nothing else stays in apt's lists: apt takes half a second to read them all, in each of
# the hundred times that a test calls it.
prepare() {
    local list names
    inside apt-get clean &&
        install --download-only "${later[@]}" &&
        names=$(names) &&
        for list in "$root"/var/lib/apt/lists/*_Packages; do
            awk 'NR == FNR { keep[$1]; next } /^Package: / { is_kept = $2 in keep } is_kept' - "$list" <<<"$names" >"$root/list" &&
                mv "$root/list" "$list"
        done &&
        inside apt-cache gencaches
}

how=bootstrap
if [[ $name = *-* ]]; then
    tests/root.sh "$suite"
    how=copy
fi

# The mirror may be busy for a moment.
for pause in 10 30 0; do
    if made=$({ "$how" && prepare; } 2>&1); then break; fi
    [ "$pause" -ne 0 ] || fail "no root $name could be made from $mirror: $(tail -n 3 <<<"$made")"
    sleep "$pause"
done
echo "$recipe" >"$root/complete"
