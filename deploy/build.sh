#!/usr/bin/env bash
# Builds the programs that users get, static and reproducible: those of Cargo.toml, in target/dist.
#
#     deploy/build.sh [--target TRIPLE]
#
# The target is musl on this machine's processor unless TRIPLE names another. Needs a Rust toolchain
# (1.89 or later) and a C linker. If the musl target cannot be installed, it builds for the host.
set -euo pipefail

cd "$(dirname "$0")/.."
project=$PWD
# The programs get this time. What is edited while they are built is newer, and the tests see that (tests/suite/built.rs).
began=$(date +%s.%N)

fail() {
    echo "build: $*" >&2
    exit 1
}

command -v cargo >/dev/null || fail "please install the Rust toolchain: there is no cargo here"
host=$(rustc -vV | sed -n 's/^host: //p')
target=${host%%-*}-unknown-linux-musl
case ${1:-} in
--target) target=${2:?names a target} ;;
'') ;;
*) fail "usage: deploy/build.sh [--target TRIPLE]" ;;
esac

has_target() { [ -d "$(rustc --print sysroot)/lib/rustlib/$1/lib" ]; }
if ! has_target "$target"; then rustup target add "$target" >/dev/null 2>&1 || true; fi
# A static glibc takes twice as long to start as musl.
static=()
if ! has_target "$target"; then
    [ "${1:-}" != --target ] || fail "the target $target is not installed, and rustup cannot install it"
    echo "build: no target $target here; building for $host instead, which starts more slowly" >&2
    target=$host
    static=(-C target-feature=+crt-static)
fi
# Another processor needs a linker that supports it; the toolchain's own does.
linker=CARGO_TARGET_$(tr 'a-z-' 'A-Z_' <<<"$target")_LINKER
if [ "${target%%-*}" != "${host%%-*}" ]; then
    export "$linker=${!linker:-rust-lld}"
fi
# With musl, Rust makes static programs position-independent only for x86_64. For arm64, musl's start file that
# relocates the program is linked instead, by the toolchain's linker: it takes these options. A path in them
# must be the same on every machine, because cargo makes names from it.
pie=()
if [ "$target" = aarch64-unknown-linux-musl ]; then
    export "$linker=rust-lld"
    musl=target/dist/build/musl
    mkdir -p target/dist/build
    ln -sfn "$(rustc --print sysroot)/lib/rustlib/$target/lib/self-contained" $musl
    pie=(-C link-self-contained=no -C "link-args=-pie --no-dynamic-linker -z text"
        -C "link-args=-L$musl $musl/rcrt1.o $musl/crti.o $musl/crtn.o")
fi

# The builder's own settings must not change the result.
unset CARGO_TARGET_DIR CARGO_BUILD_TARGET CARGO_BUILD_TARGET_DIR CARGO_BUILD_RUSTFLAGS CARGO_ENCODED_RUSTFLAGS
unset RUSTFLAGS RUSTC_WRAPPER
export SOURCE_DATE_EPOCH=0

# build FLAG...: removes the builder's paths from the programs.
build() {
    local flags=("--remap-path-prefix=$project=/cmonhachk" "--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo" "${pie[@]}" "$@")
    local IFS=$'\x1f'
    CARGO_ENCODED_RUSTFLAGS="${flags[*]}" cargo build --release --locked --quiet --bins --target "$target" \
        --target-dir target/dist/build
}
mkdir -p target
if ! build "${static[@]}" 2>target/dist.log; then
    [ "${#static[@]}" -gt 0 ] || fail "$(cat target/dist.log)"
    echo "build: no static C library for $target here; the programs are dynamic" >&2
    build || fail "it does not build for $target"
fi
rm -f target/dist.log
# The names of Cargo.toml's [[bin]] sections.
mapfile -t programs < <(sed -n '/^\[\[bin\]\]$/,/^$/s/^name = "\(.*\)"$/\1/p' Cargo.toml)
for program in "${programs[@]}"; do
    install -m 0755 "target/dist/build/$target/release/$program" "target/dist/$program"
    touch --date="@$began" "target/dist/$program"
done
