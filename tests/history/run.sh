#!/usr/bin/env bash
# A history of three nodes, users and faults, recorded and judged. tests/README.md says what is judged.
#
#     tests/history/run.sh [--seed N] [--minutes M] [--runs R]
#     tests/history/run.sh --judge FILE [--draw FROM-TO]
#
# Each run takes M minutes (2), and its faults are drawn from its seed: N for the first (1), then the next
# number. It leaves target/history/seed-N.tsv, and a drawing of it beside. --judge judges such a file again,
# and draws it, or only these seconds of it.
# Needs root and the Rust toolchain; installs Debian packages.
set -euo pipefail

cd "$(dirname "$0")/../.."
# shellcheck source=tests/packages.sh
. tests/packages.sh

while [ "$#" -gt 0 ]; do
    case $1 in
    --seed | --minutes | --runs) [[ ${2:-} =~ ^[0-9]+$ ]] || fail "$1 needs a number" ;;&
    --judge) [ -r "${2:-}" ] || fail "there is no file ${2:-}" ;;&
    --seed) export CMONHACHK_HISTORY_SEED=$2 ;;
    --minutes) export CMONHACHK_HISTORY_MINUTES=$2 ;;
    --runs) export CMONHACHK_HISTORY_RUNS=$2 ;;
    --judge) export CMONHACHK_HISTORY_FILE=$2 ;;
    --draw) export CMONHACHK_HISTORY_PART=${2:-} ;;
    *) fail "usage: tests/history/run.sh [--seed N] [--minutes M] [--runs R] | --judge FILE [--draw FROM-TO]" ;;
    esac
    shift 2
done

if [ -z "${CMONHACHK_HISTORY_FILE:-}" ]; then
    needs_root
    provide curl:curl haproxy:haproxy genhash:keepalived ip:iproute2 unshare:util-linux ps:procps faketime:faketime
    deploy/package.sh
    export TESTED_BINARY=$PWD/target/dist/cmonhachk
fi
exec cargo test --profile suite --locked --quiet --test suite -- --nocapture --exact \
    alone::history::whatever_goes_wrong_users_reach_the_leader_soon_and_nobody_who_has_not_led_for_a_while
