#!/usr/bin/env bash
# Shows cmonhachk at work without ClusterControl: three nodes on loopback addresses, each a real
# xinetd with the service file from deploy/xinetd, around a simulated s9s. Asks each with curl,
# moves the leadership, asks again. Touches nothing under /etc and leaves nothing running.
#
#   deploy/demo.sh [--keep]
#
# --keep leaves the nodes up until Ctrl-C and says how to ask them.
set -euo pipefail

cd "$(dirname "$0")/.."
project=$PWD
port=9201
nodes=(127.0.0.101 127.0.0.102 127.0.0.103)

# What a node's controller calls itself. Not the loopback address that the node is asked on: one of
# those in RPC_BIND_ADDRESSES would tell nobody which node it is.
controller() { echo "10.0.0.${1##*.}"; }

keep=false
case "$#:${1:-}" in
0:) ;;
1:--keep) keep=true ;;
*)
    echo "usage: deploy/demo.sh [--keep]" >&2
    exit 2
    ;;
esac

say() { printf '\n== %s\n' "$*"; }
fail() {
    echo "demo: $*" >&2
    exit 1
}

# What is missing comes from Debian's packages. A package may start its service; the demo does not
# need it, so a service that was not there before does not stay.
install_missing() {
    local packages=() as_root=()
    command -v curl >/dev/null || packages+=(curl)
    [ -x /usr/sbin/xinetd ] || packages+=(xinetd)
    [ "${#packages[@]}" -gt 0 ] || return 0
    say "Installing ${packages[*]}"
    if [ "$(id -u)" -ne 0 ]; then as_root=(sudo); fi
    command -v apt-get >/dev/null || fail "please install ${packages[*]}: there is no apt-get here"
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
    case " ${packages[*]} " in
    *' xinetd '*) "${as_root[@]}" service xinetd stop >/dev/null 2>&1 || true ;;
    esac
}

# The simulated cluster's controllers, with this node as the leader.
list_led_by() {
    local node address
    for node in "${nodes[@]}"; do
        address=$(controller "$node")
        if [ "$node" = "$1" ]; then
            printf 'l\t2.3.4.11302\tsystem\tadmins\t%s\t%s\t9501\tActing as leader.\n' "$address" "$address"
        else
            printf 'f\t2.3.4.11302\tsystem\tadmins\t%s\t%s\t9501\tAccepting heartbeats.\n' "$address" "$address"
        fi
    done
}

start_node() {
    local address=$1 service
    printf 'RPC_BIND_ADDRESSES="127.0.0.1,%s"\n' "$(controller "$address")" >"$folder/defaults-$address"
    service=$(sed -e "s|/usr/local/sbin/cmonhachk|$binary|" -e '/^}/d' deploy/xinetd/cmonhachk)
    cat >"$folder/xinetd-$address.conf" <<EOF
$service
        bind            = $address
        env             = S9S_SIM=$folder/cluster CMONHACHK_S9S=$project/tests/sim/s9s
        env            += CMONHACHK_CMON_DEFAULTS=$folder/defaults-$address CMONHACHK_LOCK_FILE=$folder/lock-$address
}
EOF
    # As an init system starts it: without an environment.
    env -i /usr/sbin/xinetd -dontfork -f "$folder/xinetd-$address.conf" \
        -filelog "$folder/xinetd-$address.log" -pidfile "$folder/xinetd-$address.pid" </dev/null &
    running+=($!)
    within 10 grep -qs 'Started working' "$folder/xinetd-$address.log" || fail "xinetd did not start for $address"
    grep -q 'Started working: 1 available' "$folder/xinetd-$address.log" ||
        fail "xinetd cannot serve $address:$port, is it taken? $(cat "$folder/xinetd-$address.log")"
}

# within SECONDS COMMAND…: tries until the command succeeds or the time is up.
within() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$end" ] || return 1
        sleep 0.05
    done
}

ask_all() {
    local address
    for address in "${nodes[@]}"; do
        printf '\n$ curl -i http://%s:%s/\n' "$address" "$port"
        curl --silent --show-error --include --max-time 10 "http://$address:$port/" | tr -d '\r'
        echo
    done
}

answers() { [ "$(curl --silent --output /dev/null --write-out '%{http_code}' --max-time 10 "http://$1:$port/")" = "$2" ]; }

running=()
folder=
clean_up() {
    trap - EXIT
    if [ "${#running[@]}" -gt 0 ]; then
        kill "${running[@]}" 2>/dev/null || true
        wait "${running[@]}" 2>/dev/null || true
    fi
    if [ -n "$folder" ]; then rm -rf "$folder"; fi
}
trap clean_up EXIT
trap 'exit 0' INT TERM

install_missing
command -v cargo >/dev/null || fail "please install the Rust toolchain: there is no cargo here"
say "Building"
cargo build --release --locked --quiet
binary=$project/target/release/cmonhachk

folder=$(mktemp -d)
mkdir "$folder/cluster"
for address in "${nodes[@]}"; do list_led_by "$address" >"$folder/cluster/leader-$address"; done
cp "$folder/cluster/leader-${nodes[0]}" "$folder/cluster/controllers"
for address in "${nodes[@]}"; do start_node "$address"; done

say "What s9s controller --list --long prints (simulated)"
HOME=/ S9S_SIM="$folder/cluster" tests/sim/s9s controller --list --long
say "What each node answers: $(controller "${nodes[0]}"), asked on ${nodes[0]}, leads"
ask_all

# Renamed into place, so that no check reads half a list.
cp "$folder/cluster/leader-${nodes[1]}" "$folder/cluster/draft"
mv "$folder/cluster/draft" "$folder/cluster/controllers"
within 10 answers "${nodes[1]}" 200 || fail "${nodes[1]} does not answer 200 although it leads"
within 10 answers "${nodes[0]}" 503 || fail "${nodes[0]} does not answer 503 although it follows"
say "The leadership has moved: $(controller "${nodes[1]}"), asked on ${nodes[1]}, leads"
ask_all

if $keep; then
    say "The nodes stay up until Ctrl-C"
    cat <<EOF
Ask a node:           curl -i http://${nodes[0]}:$port/
Move the leadership:  cp $folder/cluster/leader-${nodes[2]} $folder/cluster/controllers
Make s9s hang:        echo hang >$folder/cluster/behaviour
                      rm $folder/cluster/behaviour
See why:              S9S_SIM=$folder/cluster $binary --explain --s9s $project/tests/sim/s9s \\
                        --cmon-defaults $folder/defaults-${nodes[0]} --lock-file $folder/lock-${nodes[0]}
EOF
    # Not in the foreground, so that Ctrl-C is heard at once.
    sleep infinity &
    running+=($!)
    wait $!
fi

clean_up
say "Done: nothing is left running"
