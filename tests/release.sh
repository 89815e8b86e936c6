#!/usr/bin/env bash
# Makes the releases that tests install from, once for these sources, by deploy/release.sh: in target/releases,
#
#   this   this version, as if it were released
#   next   the next one, with the packages of the first, too
#   alone  the next one without these
#
# They are signed with a key of their own. The address is one that every booted system has.
set -euo pipefail

cd "$(dirname "$0")/.."
# shellcheck source=tests/packages.sh
. tests/packages.sh

made=$PWD/target/releases
checkout=$made/checkout
url=http://10.0.0.101:8000/cmonhachk
sources=(Cargo.toml Cargo.lock LICENSE README.md src deploy tests/release.sh tests/packages.sh)

mkdir -p "$made"
exec 9>"$made/lock"
flock 9
if [ -e "$made/complete" ] && [ -z "$(find "${sources[@]}" -newer "$made/complete")" ]; then exit; fi
rm -rf "$made"/{complete,this,next,alone}
# What is edited from now on is newer.
touch "$made/began"

# The agent's socket would have too long a name below target.
GNUPGHOME=$(mktemp --directory "${TMPDIR:-/tmp}/cmonhachk-key.XXXXXX")
export GNUPGHOME
clean_up() {
    gpgconf --kill all
    rm -rf "$GNUPGHOME"
}
trap clean_up EXIT
provide gpg:gnupg
gpg --batch --quiet --passphrase '' --quick-generate-key 'Test <test@localhost>' rsa3072 sign never 2>/dev/null

# Cargo compiles less when the files keep their times.
copy_sources() {
    mkdir -p "$checkout/target"
    find "$checkout" -mindepth 1 -maxdepth 1 ! -name target -exec rm -rf {} +
    tar --create --exclude ./target --exclude ./.git . | tar --extract --directory "$checkout"
    if [ ! -e "$checkout/target/tools" ] && [ -e target/tools ]; then cp -a target/tools "$checkout/target"; fi
}

commit() {
    git add --all
    git -c user.name=nobody -c user.email=nobody@localhost commit --quiet --message "$1"
}

release() { # NAME ARGUMENT...
    local name=$1 start=$SECONDS
    shift
    deploy/release.sh --key test@localhost --url "$url" "$@" "$made/$name"
    echo "$name: $((SECONDS - start)) s" >&2
}

copy_sources
cd "$checkout"
git init --quiet
sed -i '1s/UNRELEASED/stable/' deploy/package/changelog
commit "This version is complete"
release this

sed -i "0,/^version = .*/s//version = \"9.9.9\"/" Cargo.toml
sed -i '/^name = "cmonhachk"$/{n;s/.*/version = "9.9.9"/}' Cargo.lock
{
    printf 'cmonhachk (9.9.9) stable; urgency=medium\n\n  * The next version.\n\n'
    printf ' -- The cmonhachk authors <nobody@localhost>  %s\n\n' "$(date --rfc-email)"
    cat deploy/package/changelog
} >deploy/package/changelog.new
mv deploy/package/changelog.new deploy/package/changelog
commit "The next version"
release next --former "$made/this"
release alone
mv "$made/began" "$made/complete"
