#!/usr/bin/env bash
# Builds the versions of HAProxy and keepalived that users have and no Debian of the tests has:
# target/versions/NAME-VERSION/NAME. What is there already stays.
#
#     tests/versions.sh
#
# The sources are NAME-VERSION.tar.* in the folder that CMONHACHK_SOURCES names. What is not there is fetched
# from the program's own site. Needs root for the Debian packages that a build needs.
set -euo pipefail

cd "$(dirname "$0")/.."
# shellcheck source=tests/packages.sh
. tests/packages.sh

# Red Hat 9, and the oldest that cmonhachk-front accepts; a long-term version; Ubuntu 26.04; the newest.
haproxies=(2.4.0 2.8.0 3.2.0 3.4.0)
# Ubuntu 24.04, Red Hat 9 and 10.
keepaliveds=(2.2.8)
made=$PWD/target/versions

# The address of a program's source.
origin() { # NAME VERSION
    case $1 in
    haproxy) echo "https://www.haproxy.org/download/${2%.*}/src/haproxy-$2.tar.gz" ;;
    keepalived) echo "https://www.keepalived.org/software/keepalived-$2.tar.gz" ;;
    esac
}

# Unpacks the source into the present folder.
unpack() { # NAME VERSION
    local kept
    kept=$(compgen -G "${CMONHACHK_SOURCES:-/nowhere}/$1-$2.tar.*" | sed 1q) || true
    if [ -n "$kept" ]; then
        tar --extract --auto-compress --strip-components 1 --file "$kept"
    else
        curl --silent --show-error --fail --location "$(origin "$1" "$2")" | tar --extract --gzip --strip-components 1
    fi
}

# As Debian builds it, without OpenTracing.
build_haproxy() {
    # 2.4.0 is older than OpenSSL 3, where this is no constant of the preprocessor.
    sed -i 's/^#if SSL_OP_NO_TLSv1_3$/#ifdef SSL_OP_NO_TLSv1_3/' src/ssl_sock.c
    make -j2 TARGET=linux-glibc USE_PCRE2=1 USE_PCRE2_JIT=1 USE_OPENSSL=1 USE_LUA=1 USE_SLZ=1 USE_SYSTEMD=1 USE_PROMEX=1
    mv haproxy ..
}

# As Debian builds it, without what asks other daemons: SNMP and D-Bus.
build_keepalived() {
    [ -e configure ] || autoreconf --install
    ./configure --prefix=/usr --sysconfdir=/etc --localstatedir=/var --runstatedir=/run --with-init=systemd \
        --enable-sha1 --enable-json --enable-bfd --enable-regex
    make -j2
    mv bin/keepalived ..
}

# The folder gets its name at the end, so it is complete.
build() { # NAME VERSION
    local draft=$made/$1-$2.draft
    if [ -d "$made/$1-$2" ]; then return; fi
    say "Building $1 $2"
    rm -rf "$draft"
    mkdir -p "$draft/source"
    (cd "$draft/source" && unpack "$1" "$2") ||
        fail "the source of $1 $2 is not in CMONHACHK_SOURCES (${CMONHACHK_SOURCES:-not set}) and could not be fetched from $(origin "$1" "$2")"
    (cd "$draft/source" && nice -n 10 bash -euc "$(declare -f "build_$1"); build_$1") >"$draft/build.log" 2>&1 ||
        fail "$1 $2 could not be built: $(tail -n 5 "$draft/build.log")"
    rm -rf "$draft/source"
    mv "$draft" "$made/$1-$2"
}

mkdir -p "$made"
exec 9>"$made/lock"
flock 9
for version in "${keepaliveds[@]}"; do
    provide "$made/keepalived-$version/keepalived":{gcc,make,pkg-config,automake,libc6-dev,libssl-dev,libnl-3-dev,libnl-genl-3-dev,libpcre2-dev,libsystemd-dev}
    build keepalived "$version"
done
for version in "${haproxies[@]}"; do
    provide "$made/haproxy-$version/haproxy":{gcc,make,pkg-config,libc6-dev,libssl-dev,libpcre2-dev,liblua5.3-dev,libsystemd-dev,libcrypt-dev}
    build haproxy "$version"
done

for program in "$made"/haproxy-*/haproxy; do
    printf '%s: %s\n' "${program#"$PWD/"}" "$("$program" -v | sed 1q)"
done
for program in "$made"/keepalived-*/keepalived; do
    printf '%s: %s\n' "${program#"$PWD/"}" "$("$program" --version 2>&1 | sed 1q)"
done
