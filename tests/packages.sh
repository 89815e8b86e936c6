# shellcheck shell=bash
# What the scripts of the tests and the demo share; they source it.

say() { printf '\n== %s\n' "$*" >&2; }
fail() {
    echo "${0##*/}: $*" >&2
    exit 1
}

# The tests make namespaces, mounts and devices, and run checks as other users.
needs_root() { [ "$(id -u)" -eq 0 ] || fail "please run this as root"; }

export PATH=$PATH:/usr/sbin:/sbin

as_root=()
if [ "$(id -u)" -ne 0 ]; then as_root=(sudo); fi

# provide COMMAND:PACKAGE...: installs Debian's package of each command that is missing, without the
# packages that it only recommends: a tool that needs one of those names that, too. A daemon in such a
# package neither runs nor starts at boot.
provide() {
    local pair missing=()
    for pair; do
        command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
    done
    if [ "${#missing[@]}" -eq 0 ]; then return; fi
    say "Installing ${missing[*]}"
    command -v apt-get >/dev/null || fail "please install ${missing[*]}: there is no apt-get here"
    "${as_root[@]}" sh -euc "$installation" sh "${missing[@]}"
}

# Run by root's shell with the packages as arguments. Packages that are installed already keep their
# services as they are.
# shellcheck disable=SC2016 # the variables are that shell's
installation='
    fresh=
    for package; do
        state=$(dpkg-query --show --showformat "\${db:Status-Status}" "$package" 2>/dev/null) || true
        [ "$state" = installed ] || fresh="$fresh $package"
    done
    # This file stops daemons from starting (Debian policy, section 9.3.3.1). An existing one stays.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap "rm -f $policy" EXIT
        trap "exit 1" INT TERM
        printf "#!/bin/sh\nexit 101\n" >"$policy"
        chmod 755 "$policy"
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "$@" >/dev/null
    for package in $fresh; do
        for script in $(dpkg-query --listfiles "$package" | sed -n "s|^/etc/init.d/||p"); do
            service "$script" stop >/dev/null 2>&1 || true
            update-rc.d "$script" disable >/dev/null 2>&1
        done
    done'
