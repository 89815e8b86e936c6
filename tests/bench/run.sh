#!/usr/bin/env bash
# Measures cmonhachk and prints tables; README.md tells what and how.
#
#     tests/bench/run.sh [--short] [BINARY...]
#
# --short proves within seconds that every part works; its figures mean nothing. A BINARY is another build of
# cmonhachk, such as that of an earlier commit: it is measured beside this one. Its path must be absolute.
set -euo pipefail

cd "$(dirname "$0")/../.."
# shellcheck source=tests/packages.sh
. tests/packages.sh
provide wrk:wrk valgrind:valgrind strace:strace xinetd:xinetd gcc:gcc gcc:libc6-dev /usr/bin/python3:python3 \
    unshare:util-linux mount:mount ip:iproute2 pip3:python3-pip
command -v cargo >/dev/null || fail "please install the Rust toolchain: there is no cargo here"

say "Building"
deploy/package.sh
short=()
suites=(bookworm)
if [ "${1:-}" = --short ]; then short=(--short); else suites+=(trixie); fi
for suite in "${suites[@]}"; do "${as_root[@]}" tests/root.sh "$suite"; done
out=target/bench
"${as_root[@]}" rm -rf "$out"
mkdir -p "$out/path"
gcc -O2 -Wall -Wextra -Werror -static -nostdlib -o "$out/floor" tests/bench/floor.c
for program in floor-glibc s9s spawn; do
    gcc -O2 -Wall -Wextra -Werror -static -o "$out/$program" "tests/bench/$program.c"
done

say "Measuring"
echo "$(date +%F), $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(nproc) cores, Linux $(uname -r),"
echo "$(rustc --version), xinetd $(xinetd -version 2>&1 | head -n 1), load average at the start $(cut -d ' ' -f 1 /proc/loadavg)."
"${as_root[@]}" /usr/bin/python3 -B tests/bench/node.py "${short[@]}"
# The paths of a node, without touching this machine's: /run with the lock file's folder, the
# defaults file, s9s in the first folder on PATH, the node's address, and port 9201.
# All processes end with this one.
# shellcheck disable=SC2016
exec "${as_root[@]}" unshare --mount --net --pid --fork --kill-child --mount-proc sh -euc '
    mount -t tmpfs bench /run
    mount -t tmpfs bench /etc/default
    mount --bind target/bench/path /usr/local/sbin
    ip link set lo up
    ip address add 10.0.0.101 dev lo
    # For a crowd: xinetd gives an address 100 places.
    ip route add local 10.9.0.0/24 dev lo
    mkdir /run/cmonhachk
    exec /usr/bin/python3 -B tests/bench/bench.py "$@"
' sh "$@"
