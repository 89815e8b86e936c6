#!/usr/bin/env bash
# Runs the binary that users get on the root file system of an older distribution: Debian 11 (glibc 2.31).
# Needs root.
set -euo pipefail

cd "$(dirname "$0")/.."
root=$PWD/target/roots/bullseye
export PATH=$PATH:/usr/sbin:/sbin

fail() {
    echo "older-system: $*" >&2
    exit 1
}

tests/root.sh bullseye
deploy/build.sh
sim=$(mktemp -d)
trap 'rm -rf "$sim"' EXIT
printf 'RPC_BIND_ADDRESSES="127.0.0.1,10.0.0.101"\n' >"$sim/defaults"
printf 'l\t1.7.4.3565\tsystem\tadmins\t10.0.0.101\t10.0.0.101\t9501\tActing as leader.\n' >"$sim/controllers"
cp target/dist/cmonhachk tests/sim/s9s "$sim"

# The inner shell expands $root and $sim.
# shellcheck disable=SC2016
answer=$(root=$root sim=$sim unshare --mount sh -euc '
    mount -t proc none "$root/proc"
    mount --bind /dev/null "$root/dev/null"
    mkdir -p "$root/sim"
    mount --bind "$sim" "$root/sim"
    exec chroot "$root" /usr/bin/env -i S9S_SIM=/sim /sim/cmonhachk --cmon-defaults /sim/defaults \
        --s9s /sim/s9s --lock-file /sim/lock')
[[ $answer == 'HTTP/1.1 200 OK'*'This node is a leader.'* ]] || fail "it answers: $answer"
echo "On Debian $(cat "$root/etc/debian_version") with $(chroot "$root" ldd --version | head -n 1): ${answer%%$'\r'*}"
