#!/usr/bin/env bash
# A history of three nodes, users and faults, recorded and judged. tests/README.md says what is judged.
#
#     tests/history/run.sh [--seed N] [--minutes M] [--runs R] [--system NAME] [--haproxy FILE] [--keepalived FILE]
#     tests/history/run.sh --judge FILE
#
# Each run takes M minutes (2), and its faults are drawn from its seed: N for the first (1), then the next
# number. It leaves target/history/seed-N-NAME.tsv. With an odd seed, the nodes have HAProxy and run this machine's system (here),
# with an even one they have keepalived alone and run Debian 13 (trixie), unless one of the two is named. FILE is a program of tests/versions.sh,
# for the system of this machine. --judge judges a recorded file again, also one of the chaos (suite/alone/chaos.rs).
# Needs root and the Rust toolchain; installs Debian packages.
set -euo pipefail

cd "$(dirname "$0")/../.."
# shellcheck source=tests/packages.sh
. tests/packages.sh

export CMONHACHK_HISTORY_MINUTES=2 CMONHACHK_HISTORY_RUNS=1
while [ "$#" -gt 0 ]; do
    case $1 in
    --seed | --minutes | --runs) [[ ${2:-} =~ ^[0-9]+$ ]] || fail "$1 needs a number" ;;&
    --judge | --haproxy | --keepalived) [ -r "${2:-}" ] || fail "there is no file ${2:-}" ;;&
    --seed) export CMONHACHK_HISTORY_SEED=$2 ;;
    --minutes) CMONHACHK_HISTORY_MINUTES=$2 ;;
    --runs) CMONHACHK_HISTORY_RUNS=$2 ;;
    --system) export CMONHACHK_SYSTEM=${2:-} ;;
    --haproxy) CMONHACHK_HAPROXY=$(realpath "$2") && export CMONHACHK_HAPROXY ;;
    --keepalived) CMONHACHK_KEEPALIVED=$(realpath "$2") && export CMONHACHK_KEEPALIVED ;;
    --judge) export CMONHACHK_HISTORY_FILE=$2 ;;
    *) fail "usage: see the comment at the start of $0" ;;
    esac
    shift 2
done

if [ -z "${CMONHACHK_HISTORY_FILE:-}" ]; then
    needs_root
    provide curl:curl haproxy:haproxy genhash:keepalived ip:iproute2 unshare:util-linux ps:procps
    deploy/package.sh
    export TESTED_BINARY=$PWD/target/dist/cmonhachk
fi
exec cargo test --profile suite --locked --quiet --test suite -- --nocapture --test-threads 1 history::run::
