#!/usr/bin/env bash
# Runs the tests: all parts but the last three, or those that are named.
#
#     tests/run.sh [PART...]
#
#     quick   formatting, and tests that need no daemon (with cargo: unit tests): under a minute once built
#     lint    formatting, clippy, the documentation, shellcheck
#     package the packages are the same bytes when built twice, lintian and rpmlint accept them, and a change has a new
#             version (tests/changelog.sh)
#     suite   unit, property and end-to-end tests, in parallel
#     alone   the tests that keep all processors busy or measure, one at a time
#     demo    deploy/demo.sh shows what it should
#     bench   the benchmark in its short form
#     arm64   the arm64 package, on Debian's arm64 kernel under qemu: only if it is named
#     versions  the tests of HAProxy and keepalived with the versions of both that tests/versions.sh builds:
#             half an hour, only if it is named
#     selinux the .rpm on two nodes under Red Hat's SELinux policy, in qemu: only if it is named, and with the folder of
#             the policy in CMONHACHK_SELINUX_POLICY
#
# CMONHACHK_SYSTEM=trixie or =here chooses one system for the nodes of all tests (suite/versions.rs).
# Needs root and the Rust toolchain; installs the other tools for the tests from Debian's packages. If
# cargo-nextest is installed, it runs the tests (.config/nextest.toml), otherwise cargo does.
set -euo pipefail

cd "$(dirname "$0")/.."

# shellcheck source=tests/packages.sh
. tests/packages.sh

every=(lint package suite alone demo bench)
parts=("$@")
[ "$#" -gt 0 ] || parts=("${every[@]}")
for part in "${parts[@]}"; do
    [[ " quick ${every[*]} arm64 versions selinux " = *" $part "* ]] || fail "there is no part $part: quick ${every[*]} arm64 versions selinux"
done

needs_root
provide curl:curl xinetd:xinetd genhash:keepalived haproxy:haproxy shellcheck:shellcheck unshare:util-linux mount:mount \
    ip:iproute2 socat:socat strace:strace systemd-analyze:systemd ps:procps debootstrap:debootstrap mkfs.ext4:e2fsprogs \
    fsfreeze:util-linux git:git mandoc:mandoc man:man-db lintian:lintian rpmlint:rpmlint rpm:rpm pip3:python3-pip
# openbsd-inetd and xinetd cannot both be installed, so openbsd-inetd is only unpacked. These are the
# libraries that it needs.
inetd=target/tools/openbsd-inetd
provide "$inetd/usr/sbin/inetd":{libbsd0,libevent-2.1-7,libtirpc3,libwrap0}
if [ ! -x "$inetd/usr/sbin/inetd" ]; then
    mkdir -p "$inetd"
    (cd "$inetd" && apt-get download -qq openbsd-inetd 2>/dev/null && dpkg-deb --extract openbsd-inetd_*.deb .)
fi
command -v cargo >/dev/null || fail "please install the Rust toolchain: there is no cargo here"

# tests PROFILE ARGUMENT...: runs nextest with the profile, or cargo with the arguments.
tests() {
    local profile=$1
    shift
    if command -v cargo-nextest >/dev/null; then
        cargo nextest run --cargo-profile suite --locked --profile "$profile"
    else
        cargo test --profile suite --locked "$@"
    fi
}

# Builds the binary and the packages that users get. The tests use that binary, not the one that
# cargo builds for them. Meanwhile the roots of other Debians are made for the suite: that takes longer
# than a test may.
build() {
    local root roots=()
    if [[ " ${parts[*]} " = *" "@(suite|alone|versions)" "* ]]; then
        for root in bullseye-front bookworm trixie-front; do
            tests/root.sh "$root" &
            roots+=("$!")
        done
    fi
    deploy/package.sh
    export TESTED_BINARY=$PWD/target/dist/cmonhachk
    cargo test --profile suite --locked --quiet --no-run
    for root in "${roots[@]}"; do wait "$root" || fail "a root is missing"; done
}

quick() {
    cargo fmt --check
    tests quick --lib -- --test-threads 8
}

lint() {
    cargo fmt --check
    cargo clippy --all-targets --locked --quiet -- -D warnings
    # The fuzz targets, too, but without the engine, which needs a C++ compiler.
    cargo fmt --manifest-path tests/fuzz/Cargo.toml --check
    cargo clippy --manifest-path tests/fuzz/Cargo.toml --no-default-features --target-dir target --locked --quiet -- -D warnings
    RUSTDOCFLAGS='-D warnings' cargo doc --no-deps --locked --quiet
    # The parts of the binary: licences, duplicates and sources, by the rules in .deny.toml.
    if command -v cargo-deny >/dev/null; then cargo deny --offline check licenses bans sources; fi
    shellcheck --external-sources tests/*.sh tests/arm64/*.sh tests/selinux/*.sh tests/bench/run.sh tests/fuzz/run.sh tests/history/run.sh tests/mutation/run.sh tests/fuzz/rustc tests/mutation/build tests/sim/{s9s,boot-systemd} deploy/*.sh deploy/front/cmonhachk-front deploy/package/{completion,p*,xinetd-p*} .ci/run
}

package() {
    local made listed said
    tests/changelog.sh
    made=$(sha256sum target/dist/*.deb target/dist/*.rpm)
    listed=$(deploy/package.sh)
    sha256sum --check --quiet <<<"$made" || fail "the packages are not the same bytes twice"
    [ "$listed" = "$(cut -c 67- <<<"$made")" ] || fail "deploy/package.sh does not say where the packages are: $listed"
    lintian --allow-root --fail-on error,warning target/dist/*.deb
    said=$(rpmlint --config deploy/package/rpmlint.toml target/dist/*.rpm 2>&1) || fail "rpmlint says: $said"
}

suite() { tests suite -- --test-threads 8 --skip alone::; }

alone() { tests alone --test suite -- --test-threads 1 alone::; }

demo() {
    local shown='' line left
    # It must be in reach of this machine until SIGTERM ends it.
    while IFS= read -r line; do
        shown+=$line$'\n'
        case $line in
        '  Be a user: '*) shown+="This machine gets: $(curl --silent --max-time 5 "${line##* }")"$'\n' ;;
        *--lock-file*) kill $! ;;
        esac
    done < <(exec bash deploy/demo.sh --keep)
    shows() {
        [ "$(grep -c "$2" <<<"$shown")" = "$1" ] || fail "the demo does not show \"$2\" in $1 lines: $shown"
    }
    shows 2 '^HTTP/1.1 200 OK'
    shows 4 '^HTTP/1.1 503 Service Unavailable'
    shows 1 '^The user was on the new leader [0-9]* ms after'
    shows 1 'gets: 10.0.0.102$'
    shows 2 'Users get to 10.0.0.102 '
    shows 1 '10.0.0.103 .*unknown s9s-timeout$'
    shows 1 '^== Done'
    # Processes, an interface, files. The pattern does not match grep's own arguments.
    left=$(
        grep --files-with-matches --no-messages 'cmonhachk-dem[o]' /proc/[0-9]*/{cmdline,environ} /proc/net/dev || true
        compgen -G "${TMPDIR:-/tmp}/cmonhachk-demo.*" || true
    )
    [ -z "$left" ] || fail "the demo left $left"
}

bench() { bash tests/bench/run.sh --short >/dev/null || fail "the benchmark failed"; }

arm64() { bash tests/arm64/run.sh; }

selinux() { bash tests/selinux/run.sh; }

# only MODULE: runs the tests of one module.
only() {
    if command -v cargo-nextest >/dev/null; then
        cargo nextest run --cargo-profile suite --locked --profile suite --ignore-default-filter --filterset "test(/^$1::/)"
    else
        cargo test --profile suite --locked --test suite -- --test-threads 8 "$1::"
    fi
}

versions() {
    local haproxy module failed='' table=()
    tests/versions.sh
    # What Red Hat 9 and 10 and Ubuntu 24.04 have.
    export CMONHACHK_KEEPALIVED=$PWD/target/versions/keepalived-2.2.8/keepalived
    run_module() { # VERSION MODULE
        if only "$2"; then table+=("$1" "$2" passed); else table+=("$1" "$2" FAILED) failed=1; fi
    }
    run_module keepalived-2.2.8 keepalived
    for haproxy in target/versions/haproxy-*/haproxy; do
        export CMONHACHK_HAPROXY=$PWD/$haproxy
        for module in failover front history::run; do run_module "$(basename "${haproxy%/*}")" "$module"; done
    done
    unset CMONHACHK_KEEPALIVED CMONHACHK_HAPROXY
    printf '%-18s %-16s %s\n' "${table[@]}"
    [ -z "$failed" ] || fail "not all versions pass"
}

times=()
timed() {
    local start=$SECONDS
    say "$1"
    "$1"
    times+=("$1 $((SECONDS - start)) s")
}

timed build
for part in "${parts[@]}"; do timed "$part"; done

say "All passed"
printf '%s\n' "${times[@]}" >&2
