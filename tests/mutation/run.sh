#!/usr/bin/env bash
# Mutation test: breaks src/ in every way that cargo-mutants knows, one at a time, and asks whether
# a test fails. Passes if none lets a change through that mutants.toml does not explain. Takes most
# of an hour on 2 cores; arguments go to cargo-mutants, for example --file src/lock.rs.
set -euo pipefail

cd "$(dirname "$0")/../.."

export PATH=$PATH:/usr/sbin:/sbin:${CARGO_HOME:-$HOME/.cargo}/bin
for tool in cargo-mutants cargo-nextest; do
    command -v "$tool" >/dev/null || cargo install --locked "$tool"
done

# Tests that are ended leave their folders behind. Not for the whole suite: some of its tests have
# a /tmp of their own.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# Optimized like the binary that users get, with the same arithmetic, but quick to build again.
export CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16
export CARGO_PROFILE_RELEASE_INCREMENTAL=true CARGO_PROFILE_RELEASE_OPT_LEVEL=1

# mutate NEXTEST_PROFILE SECONDS ARGUMENT...: the first word says which tests, see nextest.toml. A
# mutant is left through when its tests pass.
mutate() {
    local tests=$1 seconds=$2 status=0
    shift 2
    cargo mutants --config tests/mutation/mutants.toml --output target --timeout "$seconds" --no-shuffle "$@" \
        -- --config-file tests/mutation/nextest.toml --profile "$tests" || status=$?
    # 2: some were left through. 3: the tests on some took too long, which is a failure of theirs.
    case $status in 0 | 2 | 3) ;; *) exit "$status" ;; esac
}

rm -rf target/mutants.out
TMPDIR=$scratch mutate default 60 "$@"
caught=$(cat target/mutants.out/{caught,timeout}.txt | wc -l)
unviable=$(wc -l <target/mutants.out/unviable.txt)
if [ -s target/mutants.out/missed.txt ]; then
    mutate whole 300 --iterate "$@"
    caught=$((caught + $(cat target/mutants.out/{caught,timeout}.txt | wc -l)))
fi
missed=$(wc -l <target/mutants.out/missed.txt)
echo "$caught caught, $unviable do not compile, $missed let through"
[ "$missed" -eq 0 ] || {
    cat target/mutants.out/missed.txt
    exit 1
}
