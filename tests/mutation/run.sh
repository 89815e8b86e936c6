#!/usr/bin/env bash
# Mutation test: breaks src/ in every way that cargo-mutants knows, one at a time, and asks whether
# a test fails. Passes if none lets a change through that mutants.toml does not explain. Takes most
# of an hour on 2 cores; arguments go to cargo-mutants, for example --file src/request.rs.
set -euo pipefail

cd "$(dirname "$0")/../.."
# shellcheck source=tests/packages.sh
. tests/packages.sh

export PATH=$PWD/target/tools/bin:$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
for tool in cargo-mutants cargo-nextest; do
    command -v "$tool" >/dev/null || cargo install --locked --quiet "$tool" --root target/tools
done

# Tests that are ended leave their folders behind. Not for all tests: some have a /tmp of their own.
scratch=$(mktemp -d)
# Some tests check as another user.
chmod 1777 "$scratch"
trap 'rm -rf "$scratch"' EXIT

rustup target add "$(uname -m)-unknown-linux-musl" >/dev/null 2>&1 || true

# Quick to build again.
export CARGO_PROFILE_SUITE_OPT_LEVEL=1 CARGO_PROFILE_SUITE_INCREMENTAL=true

# mutate NEXTEST_PROFILE SECONDS ARGUMENT...: the first word says which tests, see .config/nextest.toml.
# A mutant is left through when its tests pass.
mutate() {
    local tests=$1 seconds=$2 status=0
    shift 2
    cargo mutants --config tests/mutation/mutants.toml --output target --timeout "$seconds" \
        --no-shuffle "$@" -- --profile "$tests" || status=$?
    # 2: some were left through. 3: the tests on some took too long, which is a failure of theirs.
    case $status in 0 | 2 | 3) ;; *) exit "$status" ;; esac
}

rm -rf target/mutants.out
TMPDIR=$scratch mutate mutant 60 "$@"
caught=$(cat target/mutants.out/{caught,timeout}.txt | wc -l)
unviable=$(wc -l <target/mutants.out/unviable.txt)
if [ -s target/mutants.out/missed.txt ]; then
    mutate mutant-again 300 --iterate "$@"
    caught=$((caught + $(cat target/mutants.out/{caught,timeout}.txt | wc -l)))
fi
missed=$(wc -l <target/mutants.out/missed.txt)
echo "$caught caught, $unviable do not compile, $missed let through"
[ "$missed" -eq 0 ] || {
    cat target/mutants.out/missed.txt
    exit 1
}
