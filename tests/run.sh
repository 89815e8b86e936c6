#!/usr/bin/env bash
# Runs all checks: formatting, lint, unit, property and end-to-end tests, and the demo. Installs
# what the tests need from Debian's packages where it is missing; needs the Rust toolchain only.
set -euo pipefail

cd "$(dirname "$0")/.."

# shellcheck source=tests/packages.sh
. tests/packages.sh

provide curl:curl xinetd:xinetd genhash:keepalived haproxy:haproxy shellcheck:shellcheck unshare:util-linux mount:mount \
    ip:iproute2 socat:socat strace:strace systemd-analyze:systemd ps:procps debootstrap:debootstrap mkfs.ext4:e2fsprogs \
    fsfreeze:util-linux mandoc:mandoc lintian:lintian rpmlint:rpmlint pip3:python3-pip
# openbsd-inetd and xinetd exclude each other, so the one is unpacked beside the other; these are
# the libraries that it needs.
inetd=target/tools/openbsd-inetd
provide "$inetd/usr/sbin/inetd":{libbsd0,libevent-2.1-7,libtirpc3,libwrap0}
if [ ! -x "$inetd/usr/sbin/inetd" ]; then
    mkdir -p "$inetd"
    (cd "$inetd" && apt-get download -qq openbsd-inetd 2>/dev/null && dpkg-deb --extract openbsd-inetd_*.deb .)
fi
command -v cargo >/dev/null || fail "please install the Rust toolchain: there is no cargo here"

say "Formatting and lint"
cargo fmt --check
cargo clippy --all-targets --locked --quiet -- -D warnings
# The fuzz targets too, without the engine: it is C++ and needs a compiler of its own.
cargo fmt --manifest-path tests/fuzz/Cargo.toml --check
cargo clippy --manifest-path tests/fuzz/Cargo.toml --no-default-features --target-dir target --locked --quiet -- -D warnings
RUSTDOCFLAGS='-D warnings' cargo doc --no-deps --locked --quiet
shellcheck --external-sources tests/*.sh tests/bench/run.sh tests/fuzz/run.sh tests/mutation/run.sh tests/fuzz/rustc tests/sim/* deploy/*.sh deploy/front/cmonhachk-front deploy/package/{completion,p*,xinetd-p*} .ci/run

say "The packages"
deploy/package.sh
packages=$(sha256sum target/dist/*.deb target/dist/*.rpm)
deploy/package.sh
sha256sum --check --quiet <<<"$packages" || fail "the packages are not the same bytes twice"
lintian --allow-root --fail-on error,warning target/dist/*.deb
said=$(rpmlint --config deploy/package/rpmlint.toml target/dist/*.rpm 2>&1) || fail "rpmlint says: $said"

say "Unit, property and end-to-end tests"
# The binary that users get, and not the one that cargo builds for the tests.
export TESTED_BINARY=$PWD/target/dist/cmonhachk
test=(cargo test --release --locked --target-dir target/suite)
# Most tests wait for something; more of them than processors can do so
# side by side, but for those that keep all processors busy or measure.
alone=(after_a_flood chaos:: load:: stale::no_answer)
"${test[@]}" -- --test-threads 8 "${alone[@]/#/--skip=}"
"${test[@]}" --test suite -- --test-threads 1 "${alone[@]}"

say "An older distribution"
tests/older-system.sh

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

say "The benchmark, in its short form"
bash tests/bench/run.sh --short >/dev/null || fail "the benchmark failed"

say "All passed"
