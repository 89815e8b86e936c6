#!/usr/bin/env bash
# Whether what is packaged has a version of its own: compares it with deploy/package/changelog and git's history.
#
#     deploy/release/changelog.sh [FOLDER]      # of the project
#
# The first entry is UNRELEASED while work goes on. When it is "stable", its version has been given to users, and what
# is packaged must stay as it is in the commit that says so.
set -euo pipefail

cd "${1:-$(dirname "$0")/../..}"

changelog=deploy/package/changelog

# What decides about the bytes of the packages.
packaged=(Cargo.toml Cargo.lock LICENSE README.md src deploy
    ':!src/decisions.md' ':!deploy/demo.sh' ':!deploy/failover.svg' ':!deploy/package/rpmlint.toml'
    ':!deploy/release' ':!deploy/release.sh')

say() { echo "changelog: $*" >&2; }
fail() { say "$@" && exit 1; }

# The first line of each entry, the newest one first.
mapfile -t entries < <(grep '^cmonhachk ' "$changelog")
form='^cmonhachk \((.+)\) (UNRELEASED|stable);'
[[ ${entries[0]} =~ $form ]] || fail "an entry begins with: cmonhachk (VERSION) UNRELEASED; or stable. This one does not: ${entries[0]}"
version=${BASH_REMATCH[1]} state=${BASH_REMATCH[2]}

if [[ ${entries[1]-} =~ $form ]]; then
    former=${BASH_REMATCH[1]}
    greatest=$(printf '%s\n' "$former" "$version" | sort --version-sort | tail -n 1)
    if [ "$version" = "$former" ] || [ "$version" != "$greatest" ]; then
        fail "the version of the first entry must be greater than $former: $version"
    fi
fi

if [ "$state" = UNRELEASED ]; then exit; fi

if ! blamed=$(git blame --porcelain -L 1,1 -- "$changelog" 2>&1); then
    say "there is no history to compare with: $blamed"
    exit
fi
released=${blamed%% *}

if [ -z "${released//0/}" ]; then
    say "version $version is released by the next commit, so there is nothing to compare yet"
    exit
fi

# In a clone without the whole history, git blames the oldest commit that it has.
if [ "$(git rev-parse --is-shallow-repository)" = true ] && grep --quiet '^boundary$' <<<"$blamed"; then
    say "the history does not go back to version $version, so there is nothing to compare with"
    exit
fi

changed=$(
    git diff --name-only --relative "$released" -- "${packaged[@]}"
    git ls-files --others --exclude-standard -- "${packaged[@]}"
)
if [ -n "$changed" ]; then
    fail "version $version is released (${released:0:10}), and these files are packaged and have changed since then:
$changed
Begin a new entry in $changelog, with a greater version and UNRELEASED. Write this version into Cargo.toml, Cargo.lock
and tests/fuzz/Cargo.lock, too."
fi
