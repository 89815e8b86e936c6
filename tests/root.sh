#!/usr/bin/env bash
# Makes the root of another Debian, once: target/roots/SUITE, with systemd and the downloaded packages
# of the daemons that tests install. Needs root, and the mirror that apt uses here.
#
#     tests/root.sh SUITE
set -euo pipefail

cd "$(dirname "$0")/.."
# shellcheck source=tests/packages.sh
. tests/packages.sh

suite=${1:?names a suite}
packages=systemd,systemd-sysv,netbase,curl,iproute2,procps daemons=(xinetd)
# What tests Red Hat's packages. In the other suites, rpm would also install Perl.
if [ "$suite" = trixie ]; then packages=$packages,rpm,dnf,createrepo-c daemons+=(firewalld); fi
root=$PWD/target/roots/$suite
mkdir -p target/roots
exec 9>"$root.lock"
flock 9
if [ "$(cat "$root/complete" 2>/dev/null)" = "$packages ${daemons[*]}" ]; then exit; fi
provide debootstrap:debootstrap
# shellcheck disable=SC2016 # apt's variable
mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep -v security | sed 1q)
make() {
    rm -rf "$root" &&
        debootstrap --variant=minbase --include="$packages" "$suite" "$root" "$mirror" &&
        chroot "$root" apt-get clean &&
        chroot "$root" apt-get install --yes --quiet --no-install-recommends --download-only "${daemons[@]}"
}
# The mirror may be busy for a moment.
for pause in 10 30 0; do
    if made=$(make 2>&1); then break; fi
    [ "$pause" -ne 0 ] || fail "no Debian $suite could be made from $mirror: $(tail -n 3 <<<"$made")"
    sleep "$pause"
done
echo "$packages ${daemons[*]}" >"$root/complete"
