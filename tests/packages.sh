# shellcheck shell=bash
# What run.sh and bench/run.sh share; sourced by both.

say() { printf '\n== %s\n' "$*" >&2; }
fail() {
    echo "tests: $*" >&2
    exit 1
}

export PATH=$PATH:/usr/sbin:/sbin

as_root=()
if [ "$(id -u)" -ne 0 ]; then as_root=(sudo); fi

# provide COMMAND:PACKAGE...: installs Debian's package of each command that is missing.
provide() {
    local pair missing=()
    for pair; do
        command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
    done
    if [ "${#missing[@]}" -eq 0 ]; then return; fi
    say "Installing ${missing[*]}"
    command -v apt-get >/dev/null || fail "please install ${missing[*]}: there is no apt-get here"
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}
