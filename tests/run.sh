#!/usr/bin/env bash
# Runs all checks: formatting, lint, unit, property and end-to-end tests, and the demo. Installs
# what the tests need from Debian's packages where it is missing; needs the Rust toolchain only.
set -euo pipefail

cd "$(dirname "$0")/.."

say() { printf '\n== %s\n' "$*"; }
fail() {
    echo "tests: $*" >&2
    exit 1
}

# command:package
needed=(
    curl:curl xinetd:xinetd genhash:keepalived haproxy:haproxy shellcheck:shellcheck unshare:util-linux mount:mount
    ip:iproute2 socat:socat strace:strace systemd-analyze:systemd ps:procps
)
missing=()
for pair in "${needed[@]}"; do
    PATH=$PATH:/usr/sbin:/sbin command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
done
# openbsd-inetd and xinetd exclude each other, so the one is unpacked beside the other; these are
# the libraries that it needs.
inetd=target/tools/openbsd-inetd
[ -x "$inetd/usr/sbin/inetd" ] || missing+=(libbsd0 libevent-2.1-7 libtirpc3 libwrap0)
if [ "${#missing[@]}" -gt 0 ]; then
    say "Installing ${missing[*]}"
    command -v apt-get >/dev/null || fail "please install ${missing[*]}: there is no apt-get here"
    as_root=()
    if [ "$(id -u)" -ne 0 ]; then as_root=(sudo); fi
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
if [ ! -x "$inetd/usr/sbin/inetd" ]; then
    mkdir -p "$inetd"
    (cd "$inetd" && apt-get download -qq openbsd-inetd 2>/dev/null && dpkg-deb --extract openbsd-inetd_*.deb .)
fi
command -v cargo >/dev/null || fail "please install the Rust toolchain: there is no cargo here"
export PATH=$PATH:/usr/sbin:/sbin

say "Formatting and lint"
cargo fmt --check
cargo clippy --all-targets --locked --quiet -- -D warnings
RUSTDOCFLAGS='-D warnings' cargo doc --no-deps --locked --quiet
shellcheck tests/run.sh tests/mutation/run.sh tests/sim/* deploy/*.sh .ci/run

say "Unit, property and end-to-end tests"
# The binary that users get. Most tests wait for something; more of them than processors can do so
# side by side, but for the one that keeps all processors busy.
cargo test --release --locked -- --test-threads 8 --skip after_a_flood
cargo test --release --locked --test suite -- after_a_flood

say "The demo"
demo=$(bash deploy/demo.sh) || fail "the demo failed: $demo"
shows() {
    [ "$(grep -c "$2" <<<"$demo")" = "$1" ] || fail "the demo does not show \"$2\" in $1 lines: $demo"
}
shows 2 '^HTTP/1.1 200 OK'
shows 4 '^HTTP/1.1 503 Service Unavailable'
shows 1 '^The user was on the new leader [0-9]* ms after'
shows 2 'gets: 127.0.0.102$'
shows 1 'unknown s9s-timeout$'
if curl --silent --output /dev/null --max-time 2 http://127.0.0.101:9201/; then fail "the demo left a node running"; fi

say "All passed"
