#!/usr/bin/env bash
# Makes the root of another Debian, once: target/roots/SUITE, with systemd and the downloaded packages
# of what tests install. For the suite arm64, it is Debian 12 for that processor, with its kernel; for the suite
# selinux, it is Debian 13 with its kernel and the tools of SELinux. SUITE-front is a copy of SUITE with HAProxy,
# keepalived, and what their tests need. Needs root, and the mirror that apt uses here.
#
#     tests/root.sh SUITE[-front]
set -euo pipefail

cd "$(dirname "$0")/.."
# shellcheck source=tests/packages.sh
. tests/packages.sh

suite=${1:?names a suite}
packages=systemd,systemd-sysv,netbase,curl,iproute2,procps later=(xinetd)
case $suite in
# What tests Red Hat's packages. In the other suites, rpm would also install Perl.
trixie) packages=$packages,rpm,dnf,createrepo-c later+=(firewalld) ;;
arm64) later=(linux-image-arm64) ;;
selinux)
    packages=$packages,udev,kmod,login,selinux-utils,policycoreutils,auditd,haproxy,keepalived,rpm,busybox-static
    later=(linux-image-amd64)
    ;;
*-front) packages=haproxy,keepalived,xinetd,socat later=("for $suite") ;;
esac
root=$PWD/target/roots/$suite
mkdir -p target/roots
exec 9>"$root.lock"
flock 9
if [ "$(cat "$root/complete" 2>/dev/null)" = "$packages ${later[*]}" ]; then exit; fi

provide debootstrap:debootstrap
options=()
if [ "$suite" = selinux ]; then suite=trixie; fi
if [ "$suite" = arm64 ]; then
    suite=bookworm
    options=(--arch arm64)
    # qemu runs another processor's programs, which configure the packages.
    if [ "$(dpkg --print-architecture)" != arm64 ]; then
        provide qemu-aarch64-static:qemu-user-static update-binfmts:binfmt-support
        binfmt=/proc/sys/fs/binfmt_misc
        mountpoint --quiet $binfmt || mount -t binfmt_misc binfmt_misc $binfmt
        [ -e $binfmt/qemu-aarch64 ] || update-binfmts --enable qemu-aarch64
    fi
fi
# shellcheck disable=SC2016 # apt's variable
mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep -v security | sed 1q)
bootstrap() {
    rm -rf "$root" &&
        debootstrap "${options[@]}" --variant=minbase --include="$packages" "$suite" "$root" "$mirror" &&
        chroot "$root" apt-get clean &&
        chroot "$root" apt-get install --yes --quiet --no-install-recommends --download-only "${later[@]}"
}

# Installs the packages in a copy of the suite's root.
copy() {
    rm -rf "$root" &&
        mkdir "$root" &&
        cp -a "${root%-front}/." "$root" &&
        rm "$root/complete" &&
        # No daemon starts in a root that is not booted (Debian policy, section 9.3.3.1).
        printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d" &&
        chmod 755 "$root/usr/sbin/policy-rc.d" &&
        chroot "$root" apt-get update --quiet &&
        DEBIAN_FRONTEND=noninteractive chroot "$root" apt-get install --yes --quiet --no-install-recommends ${packages//,/ } &&
        rm "$root/usr/sbin/policy-rc.d"
}

how=bootstrap
if [[ $suite = *-front ]]; then
    tests/root.sh "${suite%-front}"
    how=copy
fi

# The mirror may be busy for a moment.
for pause in 10 30 0; do
    if made=$("$how" 2>&1); then break; fi
    [ "$pause" -ne 0 ] || fail "no Debian $suite could be made from $mirror: $(tail -n 3 <<<"$made")"
    sleep "$pause"
done
echo "$packages ${later[*]}" >"$root/complete"
