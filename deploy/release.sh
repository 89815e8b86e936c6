#!/usr/bin/env bash
# Makes a release: a folder for any web server, with the packages for both processors, an apt and a dnf repository of
# them, and a page that says how to install from it. All is signed.
#
#     deploy/release.sh --key KEY --url URL [--former OLD] FOLDER
#
# KEY     the GnuPG id of the secret key that signs
# URL     where users will find FOLDER
# OLD     the folder of the release before. Its packages are in the new one, too.
# FOLDER  must be new or empty. It is there only when all is complete.
#
# Needs a clean checkout whose first entry in deploy/package/changelog is "stable", what deploy/package.sh needs, and
# the toolchain's targets for both processors. Installs the Debian packages of the other tools.
set -euo pipefail
umask 022

started_in=$PWD
cd -P "$(dirname "$0")/.."
# shellcheck source=tests/packages.sh
. tests/packages.sh

usage() { fail "usage: deploy/release.sh --key KEY --url URL [--former OLD] FOLDER"; }
absolute() { (cd "$started_in" && realpath --canonicalize-missing -- "$1"); }

key='' url='' former='' folder=''
while [ "$#" -gt 0 ]; do
    case $1 in
    --key | --url | --former)
        [ "$#" -gt 1 ] || usage
        declare "${1#--}=$2"
        shift 2
        ;;
    -*) usage ;;
    *)
        [ -z "$folder" ] || usage
        folder=$1
        shift
        ;;
    esac
done
[ -n "$folder" ] || usage

look_at_url() {
    local host
    [ -n "$url" ] || fail "please say by --url where users will find the folder: the page and the repositories' files name it"
    [[ $url =~ ^https?://[][A-Za-z0-9.:/_~%-]+$ ]] || fail "--url: this is no address of a web server: $url"
    url=${url%/}
    host=${url#*://}
    case .${host%%[:/]*} in
    *.HOST | *.example | *.example.com | *.example.net | *.example.org | *.invalid) fail "--url: this is an example: $url" ;;
    esac
}

look_at_folder() {
    folder=$(absolute "$folder")
    [ -d "${folder%/*}/" ] || fail "there is no folder ${folder%/*}"
    [ ! -e "$folder" ] || [ -d "$folder" ] || fail "$folder is no folder"
    [ -z "$(ls -A "$folder" 2>/dev/null)" ] || fail "$folder is not empty: a release needs a new folder"
}

look_at_key() {
    local found
    [ -n "$key" ] || fail "please name a key by --key: apt and dnf install only what is signed. gpg --list-secret-keys has yours"
    mapfile -t found < <(gpg --batch --with-colons --list-secret-keys -- "$key" 2>/dev/null |
        awk -F : '$1 == "sec" { is_next = 1 } $1 == "fpr" && is_next { print $10; is_next = 0 }')
    case ${#found[@]} in
    0) fail "GnuPG has no secret key $key: gpg --list-secret-keys has yours" ;;
    1) fingerprint=${found[0]} ;;
    *) fail "more than one key is named $key, so give one of these: ${found[*]}" ;;
    esac
}

GPG_TTY=$(tty) || GPG_TTY=''
export GPG_TTY
sign() { gpg --quiet --armor --local-user "$fingerprint" "$@"; }
# A wrong passphrase is known at once, and not after the build.
try_key() { sign --detach-sign </dev/null >/dev/null || fail "GnuPG cannot sign with the key $fingerprint"; }

look_at_versions() {
    local first
    version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
    first=$(head -n 1 deploy/package/changelog)
    [[ $first = "cmonhachk ($version) "* ]] || fail "Cargo.toml says $version, and deploy/package/changelog begins with: $first"
    [[ $first = *") stable;"* ]] ||
        fail "version $version is not released: write stable and the date into the first entry of deploy/package/changelog, and commit"
}

# What git has is what the release is made from.
look_at_checkout() {
    local top changed
    top=$(git rev-parse --show-toplevel 2>&1) || fail "git cannot say what the release is made from: $top"
    [ "$top" = "$PWD" ] || fail "$PWD is no checkout of its own, but a part of $top"
    if [[ $folder/ = $PWD/* ]] && ! git check-ignore --quiet "$folder"; then
        fail "$folder is among the sources: a release needs a folder elsewhere"
    fi
    changed=$(git status --porcelain --untracked-files=all)
    [ -z "$changed" ] || fail "these files are not as in git; commit or remove them:
$changed"
    [ "$(git rev-parse --is-shallow-repository)" = false ] || fail "the history is not whole: run git fetch --unshallow"
    deploy/release/changelog.sh || exit
}

targets=(x86_64-unknown-linux-musl aarch64-unknown-linux-musl)
look_at_targets() {
    local target
    command -v cargo >/dev/null || fail "please install the Rust toolchain: there is no cargo here"
    for target in "${targets[@]}"; do
        [ -d "$(rustc --print sysroot)/lib/rustlib/$target/lib" ] || rustup target add "$target" >/dev/null 2>&1 ||
            fail "the toolchain has no target $target, and rustup cannot install it: a release is for both processors"
    done
}

# The release before is as it was signed, and is not this one.
look_at_former() {
    [ -n "$former" ] || return 0
    former=$(absolute "$former")
    [ -f "$former/SHA256SUMS" ] || fail "--former: there is no release in $former"
    gpg --armor --export "$fingerprint" | gpg --dearmor >"$draft/former.gpg"
    gpgv --quiet --keyring "$draft/former.gpg" "$former/SHA256SUMS.asc" "$former/SHA256SUMS" 2>"$draft/log" ||
        fail "--former: $former/SHA256SUMS is not signed with the key $fingerprint: $(<"$draft/log")"
    (cd "$former" && sha256sum --check --quiet SHA256SUMS) >&2 || fail "--former: $former is not as it was signed"
    [ -z "$(compgen -G "$former/apt/pool/cmonhachk_${version}_*")" ] ||
        fail "--former: $former has version $version already"
}

make_packages() {
    local packages=() package
    deploy/package.sh --both >/dev/null || fail "without packages, there is no release"
    for package in cmonhachk_"$version"_{amd64,arm64}.deb cmonhachk-xinetd_"$version"_all.deb \
        cmonhachk-"$version"-1.{x86_64,aarch64}.rpm cmonhachk-xinetd-"$version"-1.noarch.rpm; do
        [ -f "target/dist/$package" ] || fail "deploy/package.sh has not made $package"
        packages+=("target/dist/$package")
    done
    mkdir -p "$release/apt/pool" "$release/dnf"
    cp "${packages[@]:0:3}" "$release/apt/pool"
    cp "${packages[@]:3}" "$release/dnf"
    # On Debian, rpm would look for gpg2.
    rpmsign --define "_gpg_name $fingerprint" --define "__gpg $(command -v gpg)" \
        --addsign "$release"/dnf/*.rpm >"$draft/log" 2>&1 ||
        fail "rpmsign cannot sign: $(<"$draft/log")"
    SOURCE_DATE_EPOCH=$(date -d "$(sed -n 's/^ -- .*>  //p' deploy/package/changelog | head -n 1)" +%s) \
        deploy/release/linked-in "${targets[@]}" >"$release/cmonhachk-$version.cdx.json" ||
        fail "cargo does not say what is linked in"
}

# Takes only what is signed there.
add_former() (
    [ -n "$former" ] || exit 0
    cd "$former"
    sed -n 's/^[0-9a-f]*  //p' SHA256SUMS | grep --extended-regexp '\.(deb|rpm|cdx\.json)$' |
        xargs --delimiter '\n' cp --parents --target-directory "$release"
)

make_apt_repository() (
    settings=(Origin=cmonhachk Label=cmonhachk Suite=stable Codename=stable 'Architectures=amd64 arm64' Components=main)
    suite=dists/stable
    cd "$release/apt"
    for architecture in amd64 arm64; do
        list=$suite/main/binary-$architecture
        mkdir -p "$list"
        apt-ftparchive --no-md5 --no-sha1 --arch "$architecture" packages pool >"$list/Packages"
        gzip -9 --no-name --keep "$list/Packages"
    done
    apt-ftparchive --no-md5 --no-sha1 "${settings[@]/#/--option=APT::FTPArchive::Release::}" release $suite >"$draft/Release"
    mv "$draft/Release" $suite
    sign --clearsign --output $suite/InRelease $suite/Release
    sign --detach-sign --output $suite/Release.gpg $suite/Release
)

make_dnf_repository() {
    createrepo_c --quiet --no-database "$release/dnf"
    sign --detach-sign "$release/dnf/repodata/repomd.xml"
}

make_page() {
    sed -e "s|@VERSION@|$version|g" -e "s|@URL@|$url|g" -e "s|@FINGERPRINT@|$fingerprint|g" deploy/release/index.html \
        >"$release/index.html"
    gpg --armor --export --export-options export-minimal "$fingerprint" >"$release/cmonhachk.asc"
}

make_sums() (
    cd "$release"
    find . -type f -printf '%P\n' | sort >"$draft/files"
    xargs --delimiter '\n' sha256sum <"$draft/files" >SHA256SUMS
    sign --detach-sign SHA256SUMS
)

# Looks at each signature with nothing but the key that users get.
look_at_release() (
    cd "$release"
    gpg --dearmor <cmonhachk.asc >"$draft/key.gpg"
    signed() {
        gpgv --quiet --keyring "$draft/key.gpg" "$@" >"$draft/log" 2>&1 ||
            fail "the signature of $1 is wrong: $(<"$draft/log")"
    }
    signed apt/dists/stable/InRelease
    signed apt/dists/stable/Release.gpg apt/dists/stable/Release
    signed dnf/repodata/repomd.xml.asc dnf/repodata/repomd.xml
    signed SHA256SUMS.asc SHA256SUMS
    sha256sum --check --quiet SHA256SUMS >&2 || fail "SHA256SUMS is wrong"
    rpmkeys --dbpath "$draft/rpm" --import cmonhachk.asc
    rpmkeys --dbpath "$draft/rpm" --define '_pkgverify_level signature' --checksig dnf/*.rpm >"$draft/log" 2>&1 ||
        fail "an .rpm is not signed as it should be: $(<"$draft/log")"
)

clean_up() {
    local status=$?
    rm -rf "$draft"
    [ "$status" -eq 0 ] || say "Made no release: $folder is as it was."
}

provide git:git gpg:gnupg gpgv:gpgv
look_at_url
look_at_folder
look_at_key
look_at_versions
look_at_checkout
commit=$(git rev-parse HEAD)
look_at_targets
try_key
draft=$(mktemp --directory "$folder.XXXXXX")
trap clean_up EXIT
release=$draft/release
look_at_former
provide apt-ftparchive:apt-utils createrepo_c:createrepo-c rpmsign:rpm python3:python3
make_packages
# It takes minutes, in which somebody may have changed a file, or checked out another commit.
look_at_checkout
[ "$(git rev-parse HEAD)" = "$commit" ] ||
    fail "the checkout has another commit than before the build, $commit: run it again"
add_former
make_apt_repository
make_dnf_repository
make_page
make_sums
look_at_release
mv --no-target-directory "$release" "$folder"
say "Version $version is in $folder, for $url. Its index.html has the commands."
