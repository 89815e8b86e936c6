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
needed=(curl:curl xinetd:xinetd genhash:keepalived haproxy:haproxy shellcheck:shellcheck unshare:util-linux mount:mount ip:iproute2 systemd-analyze:systemd ps:procps)
missing=()
for pair in "${needed[@]}"; do
    PATH=$PATH:/usr/sbin:/sbin command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
done
if [ "${#missing[@]}" -gt 0 ]; then
    say "Installing ${missing[*]}"
    command -v apt-get >/dev/null || fail "please install ${missing[*]}: there is no apt-get here"
    as_root=()
    if [ "$(id -u)" -ne 0 ]; then as_root=(sudo); fi
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
command -v cargo >/dev/null || fail "please install the Rust toolchain: there is no cargo here"
export PATH=$PATH:/usr/sbin:/sbin

say "Formatting and lint"
cargo fmt --check
cargo clippy --all-targets --locked --quiet -- -D warnings
RUSTDOCFLAGS='-D warnings' cargo doc --no-deps --locked --quiet
shellcheck tests/run.sh tests/sim/s9s deploy/*.sh .ci/run

say "Unit, property and end-to-end tests"
# Most tests wait for something; more of them than processors can do so side by side.
cargo test --locked -- --test-threads 8

say "The demo"
demo=$(bash deploy/demo.sh) || fail "the demo failed: $demo"
[ "$(grep -c '^HTTP/1.1 200 OK' <<<"$demo")" = 2 ] || fail "the demo showed another number of leaders than one in each round: $demo"
[ "$(grep -c '^HTTP/1.1 503 Service Unavailable' <<<"$demo")" = 4 ] || fail "the demo showed another number of followers than two in each round: $demo"
if curl --silent --output /dev/null --max-time 2 http://127.0.0.101:9201/; then fail "the demo left a node running"; fi

say "All passed"
