#!/usr/bin/env bash
# Mutation test: breaks src/ in every way that cargo-mutants knows, one at a time, and checks whether
# a test fails. Succeeds if the tests catch every change, except those that mutants.toml explains. Takes
# 75 minutes on 2 cores; arguments go to cargo-mutants, for example --file src/request.rs.
set -euo pipefail

cd "$(dirname "$0")/../.."
# shellcheck source=tests/packages.sh
. tests/packages.sh

needs_root
export PATH=$PWD/target/tools/bin:$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
for tool in cargo-mutants cargo-nextest; do
    command -v "$tool" >/dev/null || cargo install --locked --quiet "$tool" --root target/tools
done

# Killed tests leave their folders here. Not in the second pass: some of its tests have their own /tmp.
scratch=$(mktemp -d)
# Some tests run checks as another user.
chmod 1777 "$scratch"
trap 'rm -rf "$scratch"' EXIT

rustup target add "$(uname -m)-unknown-linux-musl" >/dev/null 2>&1 || true

# These make each rebuild quick.
export CARGO_PROFILE_SUITE_OPT_LEVEL=1 CARGO_PROFILE_SUITE_INCREMENTAL=true CARGO_PROFILE_SUITE_CODEGEN_UNITS=256

# mutate NEXTEST_PROFILE SECONDS ARGUMENT...: the profile selects the tests, see .config/nextest.toml.
# A mutant is missed if all these tests pass.
mutate() {
    local tests=$1 seconds=$2 status=0
    shift 2
    cargo mutants --config tests/mutation/mutants.toml --output target --timeout "$seconds" \
        --no-shuffle "$@" -- --profile "$tests" --filterset "not test(/^packaged::/)" || status=$?
    # 2: some mutants were missed. 3: the tests took too long on some; these count as caught.
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
