#!/usr/bin/env bash
# Runs the tests: those of each change, or the parts that are named.
#
#     tests/run.sh [PART...]
#
#     quick   formatting, and tests that need no daemon (with cargo: unit tests): under a minute once built
#
# Those of each change:
#     lint    formatting, clippy, the documentation, shellcheck; beside the build
#     package a change has a new version (deploy/release/changelog.sh), and lintian and rpmlint accept the packages
#     suite   unit, property and end-to-end tests in parallel, and a short history
#     alone   the tests that keep all processors busy or measure
#     demo    deploy/demo.sh shows what it should
#
#     nightly all of these, and what follows:
#     bench   the benchmark in its short form
#     twice   the packages are the same bytes when they are built again, elsewhere
#     night   tests that take long and seldom fail where the suite does not: dnf, firewalld, Debian 11, docker,
#             and releases, from which booted systems install
#     arm64   the arm64 package, on Debian's arm64 kernel under qemu
#     long    the long forms, one after the other: some hours
#     versions  the tests of HAProxy and keepalived with the versions of both that tests/versions.sh builds: half an
#             hour; in `nightly` only if CMONHACHK_SOURCES names the folder of their sources
#
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

each=(lint package suite alone demo)
night=(bench twice night arm64 long)
if [ -n "${CMONHACHK_SOURCES:-}" ]; then night+=(versions); fi

parts=("$@")
if [ "$#" -eq 0 ]; then parts=("${each[@]}"); fi
if [ "$*" = nightly ]; then parts=("${each[@]}" "${night[@]}"); fi
known=(quick "${each[@]}" bench twice night arm64 long versions selinux)
for part in "${parts[@]}"; do
    [[ " ${known[*]} " = *" $part "* ]] || fail "there is no part $part: ${known[*]}, or nightly alone"
done
# has PART...: whether one of these parts runs.
has() {
    local part
    for part; do [[ " ${parts[*]} " != *" $part "* ]] || return 0; done
    return 1
}

needs_root
# Each booted system watches files. The kernel lets a user have 128 such watches, too few for a dozen systems. This
# holds until the machine boots.
watches=/proc/sys/fs/inotify/max_user_instances
if [ "$(<$watches)" -lt 1024 ]; then echo 1024 >$watches || say "cannot raise $watches"; fi
provide curl:curl xinetd:xinetd genhash:keepalived arping:iputils-arping haproxy:haproxy shellcheck:shellcheck \
    unshare:util-linux mount:mount openssl:openssl ip:iproute2 socat:socat strace:strace systemd-analyze:systemd \
    ps:procps mmdebstrap:mmdebstrap mkfs.ext4:e2fsprogs \
    fsfreeze:util-linux promtool:prometheus mandoc:mandoc man:man-db lintian:lintian rpmlint:rpmlint rpm:rpm pip3:python3-pip \
    git:git gpg:gnupg gpgv:gpgv apt-ftparchive:apt-utils createrepo_c:createrepo-c
# These build and run the image.
if has suite night; then
    provide podman:podman crun:crun /usr/lib/podman/netavark:netavark iptables:iptables podman-compose:podman-compose
fi
if has night; then provide dockerd:docker.io docker-compose:docker-compose; fi
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

# What runs beside the build, as `PROCESS NAME`; what each said is in target/log/NAME.
beside=()
start() { # NAME COMMAND...
    local name=$1
    shift
    mkdir -p target/log
    "$@" >"target/log/$name" 2>&1 &
    beside+=("$! $name")
}
finish() {
    local job
    for job in "${beside[@]}"; do
        wait "${job% *}" || fail "${job#* } failed: $(tail -n 30 "target/log/${job#* }")"
    done
    beside=()
}

# Builds the binary and the packages that users get. The tests use these, not the binary that cargo builds for them.
# Meanwhile, the roots of other Debians are made: that takes longer than a test may.
build() {
    local both=()
    if has suite night; then start bookworm tests/root.sh bookworm; fi
    if has suite long versions; then start trixie-front tests/root.sh trixie-front; fi
    if has night; then start trixie-rpm tests/root.sh trixie-rpm; fi
    if has night versions; then start bullseye-front tests/root.sh bullseye-front; fi
    if has lint; then start lint lint; fi
    if has arm64; then both=(--both); fi
    start packages deploy/package.sh "${both[@]}"
    cargo test --profile suite --locked --quiet --no-run
    finish
    export TESTED_BINARY=$PWD/target/dist/cmonhachk
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
    local scripts
    mapfile -t scripts < <(scripts)
    shellcheck --external-sources "${scripts[@]}"
}

# All files whose first line is that of a shell script, or says that one reads them.
scripts() {
    find .ci deploy tests -type f -exec awk 'FNR == 1 && /^#!.*sh$|^# shellcheck shell=/ { print FILENAME }' {} +
}

package() {
    local said
    deploy/release/changelog.sh
    [ "$(sed -n '/^target/p' target/log/packages)" = "$(printf '%s\n' target/dist/*.deb target/dist/*.rpm)" ] ||
        fail "deploy/package.sh does not say where the packages are: see target/log/packages"
    lintian --allow-root --fail-on error,warning target/dist/*.deb
    said=$(rpmlint --config deploy/package/rpmlint.toml target/dist/*.rpm 2>&1) || fail "rpmlint says: $said"
}

# In a copy of the sources, so that everything is compiled, and the folder's name cannot be in the packages.
twice() {
    local made copy
    deploy/package.sh --both >/dev/null
    made=$(cd target/dist && sha256sum ./*.deb ./*.rpm)
    copy=$(mktemp --directory "${TMPDIR:-/tmp}/cmonhachk-twice.XXXXXX")
    tar --create --exclude ./target --exclude ./.git . | tar --extract --directory "$copy"
    mkdir "$copy/target"
    cp -a target/tools "$copy/target"
    "$copy/deploy/package.sh" --both >/dev/null
    (cd "$copy/target/dist" && sha256sum --check --quiet) <<<"$made" || fail "the packages are not the same bytes twice"
    rm -rf "$copy"
}

suite() { tests suite -- --test-threads 8 --skip alone:: --skip nightly::; }

alone() { tests alone --test suite -- --test-threads 1 alone::; }

night() {
    # That takes longer than a test may.
    tests/release.sh
    tests night --test suite -- --test-threads 3 nightly::
}

long() {
    export CMONHACHK_LONG=1
    tests long --test suite -- --test-threads 1 alone:: history::run:: properties:: shells::
    unset CMONHACHK_LONG
}

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

arm64() {
    deploy/package.sh --both >/dev/null
    bash tests/arm64/run.sh
}

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
for part in "${parts[@]}"; do
    # It has run beside the build.
    if [ "$part" != lint ]; then timed "$part"; fi
done

say "All passed"
printf '%s\n' "${times[@]}" >&2
