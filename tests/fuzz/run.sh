#!/usr/bin/env bash
# Coverage-guided fuzzing of what cmonhachk reads: RUNS inputs for each target, by default 10 million,
# in addition to the kept ones. Fails at the first input that breaks a property, needs more than 64 MiB
# or takes more than 10 seconds. Writes only below target/, except with `keep`.
#
#     tests/fuzz/run.sh [RUNS [TARGET...]]
#     tests/fuzz/run.sh keep [TARGET...]    # afterwards: keeps the fewest inputs with the same coverage
#
# corpus/TARGET/ keeps the inputs that people wrote; corpus/TARGET.hex keeps the others, one on a line,
# in hexadecimal digits.
set -euo pipefail

cd "$(dirname "$0")/../.."

fail() {
    echo "fuzz: $*" >&2
    exit 1
}

runs=${1:-10000000}
[[ $runs =~ ^([0-9]+|keep)$ ]] || fail "please give a number of runs or \"keep\", not \"$runs\""
targets=("${@:2}")
[ "${#targets[@]}" -gt 0 ] || targets=(list defaults request entry)
kept=tests/fuzz/corpus
out=target/fuzz
# The longest input of each target, in bytes: some rows of a list, and a little more than a cache entry.
declare -A longest=([list]=4096 [defaults]=512 [request]=256 [entry]=160)

command -v cargo >/dev/null || fail "please install the Rust toolchain: there is no cargo here"
command -v c++ >/dev/null || fail "please install a C++ compiler (g++): the fuzzing engine is built from source"
export PATH=$PWD/target/tools/bin:$PATH
command -v cargo-fuzz >/dev/null || cargo install cargo-fuzz --locked --quiet --root target/tools

# No sanitizer and no nightly toolchain: the code under test has no unsafe block, and the address
# sanitizer alone needs more memory than an input may use.
host=$(rustc -vV | sed -n 's/^host: //p')
programs=$out/$host/release
mkdir -p "$out"
RUSTC_WRAPPER=$PWD/tests/fuzz/rustc cargo fuzz build --fuzz-dir tests/fuzz --target-dir "$out" --target "$host" \
    --sanitizer none --release 2>"$out/build.log" ||
    fail "the targets do not build: $(tail -n 20 "$out/build.log")"

# Unpacks a target's kept inputs beside those that the engine found.
unpack() {
    local input number=0
    mkdir -p "$out/corpus/$1"
    while read -r input; do
        number=$((number + 1))
        basenc --base16 --decode <<<"$input" >"$out/corpus/$1/kept-$number"
    done <"$kept/$1.hex"
}

if [ "$runs" = keep ]; then
    for target in "${targets[@]}"; do
        unpack "$target"
        # The merge adds to its first folder the inputs that cover more than those there.
        fresh=$out/kept/$target
        rm -rf "$fresh"
        mkdir -p "$out/kept"
        cp -r "$kept/$target" "$fresh"
        "$programs/$target" -set_cover_merge=1 -max_len=1024 "$fresh" "$out/corpus/$target" \
            2>"$out/$target.log" || fail "$target: $(tail -n 20 "$out/$target.log")"
        for input in "$fresh"/*; do
            [ -e "$kept/$target/${input##*/}" ] || basenc --base16 --wrap 0 <"$input"
            echo
        done | sed '/^$/d' | LC_ALL=C sort >"$kept/$target.hex"
        echo "$target: $(wc -l <"$kept/$target.hex") inputs beside those written by hand"
    done
    exit
fi

printf '%-9s %10s %8s %8s %9s %9s\n' target runs seconds a_second coverage peak_MiB
for target in "${targets[@]}"; do
    unpack "$target"
    mkdir -p "$out/artifacts"
    log=$out/$target.log
    "$programs/$target" -runs="$runs" -max_len="${longest[$target]}" -timeout=10 -rss_limit_mb=64 -reload=0 \
        -print_final_stats=1 -artifact_prefix="$out/artifacts/$target-" \
        "$out/corpus/$target" "$kept/$target" 2>"$log" ||
        fail "$target: $(grep -a -m 1 -A 3 panicked "$log"; grep -a -E 'ERROR: |Test unit written' "$log")"
    figure() { sed -n "s/$1/\1/p" "$log" | tail -n 1; }
    printf '%-9s %10s %8s %8s %9s %9s\n' "$target" \
        "$(figure '^Done \([0-9]*\) runs.*')" "$(figure '^Done .* in \([0-9]*\) second.*')" \
        "$(figure '^stat::average_exec_per_sec: *\([0-9]*\)')" "$(figure '.*DONE *cov: \([0-9]*\) .*')" \
        "$(figure '^stat::peak_rss_mb: *\([0-9]*\)')"
done
