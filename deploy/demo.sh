#!/usr/bin/env bash
# Shows cmonhachk at work without ClusterControl, all on loopback: three nodes, each a real xinetd
# with the service file from deploy/xinetd and a simulated s9s, three small UIs, and a real HAProxy
# with deploy/haproxy in front. Asks each node, moves the leadership, follows a user to the new
# leader, makes a node's s9s hang. Touches nothing under /etc and leaves nothing running.
#
#   deploy/demo.sh [--keep]
#
# --keep leaves everything running until Ctrl-C and says how to try it.
set -euo pipefail

cd "$(dirname "$0")/.."
project=$PWD
nodes=(127.0.0.101 127.0.0.102 127.0.0.103)
check=9201
# Above 1024, so that no root is needed.
ui=9443
front=127.0.0.100:8081
statistics=127.0.0.100:9600

keep=false
case "$#:${1:-}" in
0:) ;;
1:--keep) keep=true ;;
*)
    echo "usage: deploy/demo.sh [--keep]" >&2
    exit 2
    ;;
esac

# shellcheck source=tests/packages.sh
. tests/packages.sh
# Prints to standard output, unlike the one in tests/packages.sh.
say() { printf '\n== %s\n' "$*"; }

# within SECONDS COMMAND…: tries until the command succeeds or the time is up.
within() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$end" ] || return 1
        sleep 0.05
    done
}

# The address of a node's controller. It is not the loopback address on which the node is asked,
# because a loopback address in RPC_BIND_ADDRESSES names no node.
controller() { echo "10.0.0.${1##*.}"; }

# Makes this node's controller the leader in the list of every s9s. The list is renamed into place,
# so that no check reads half of it.
move_leadership_to() {
    local node address
    for node in "${nodes[@]}"; do
        address=$(controller "$node")
        if [ "$node" = "$1" ]; then
            printf 'l\t2.3.4.11302\tsystem\tadmins\t%s\t%s\t9501\tActing as leader.\n' "$address" "$address"
        else
            printf 'f\t2.3.4.11302\tsystem\tadmins\t%s\t%s\t9501\tAccepting heartbeats.\n' "$address" "$address"
        fi
    done >"$folder/draft"
    mv "$folder/draft" "$folder/controllers"
}

start_node() {
    local node=$1 home=$folder/$1 service
    mkdir "$home"
    ln -s "$folder/controllers" "$home/controllers"
    printf 'RPC_BIND_ADDRESSES="127.0.0.1,%s"\n' "$(controller "$node")" >"$home/defaults"
    service=$(sed -e "s|/usr/sbin/cmonhachk|$binary|" -e "s|= cmonhachk$|= $(id -un)|" -e '/^}/d' deploy/xinetd/cmonhachk)
    # The UI waits for the request, then answers with the node's name.
    cat >"$home/ui" <<'EOF'
while IFS= read -r line && [ "${#line}" -gt 1 ]; do :; done
printf 'HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %s\r\n\r\n%s' "${#1}" "$1"
EOF
    cat >"$home/xinetd.conf" <<EOF
$service
        bind            = $node
        env             = S9S_SIM=$home CMONHACHK_S9S=$project/tests/sim/s9s
        env            += CMONHACHK_CMON_DEFAULTS=$home/defaults CMONHACHK_LOCK_FILE=$home/lock
}

service ui
{
        type            = UNLISTED
        port            = $ui
        bind            = $node
        socket_type     = stream
        protocol        = tcp
        wait            = no
        user            = $(id -un)
        server          = /bin/sh
        server_args     = $home/ui $node
        cps             = 100000 1
}
EOF
    # Start it as an init system does: without an environment.
    env -i /usr/sbin/xinetd -dontfork -f "$home/xinetd.conf" -filelog "$home/xinetd.log" \
        -pidfile "$home/xinetd.pid" </dev/null &
    running+=($!)
    within 10 grep -qs 'Started working' "$home/xinetd.log" || fail "xinetd did not start for $node"
    grep -q 'Started working: 2 available' "$home/xinetd.log" ||
        fail "xinetd cannot serve $node, is a port taken? $(cat "$home/xinetd.log")"
}

# The deployed configuration with the demo's addresses, run as the current user.
start_haproxy() {
    local configuration=$folder/haproxy.cfg node
    sed -e '/^ *user haproxy/d' -e '/^ *group haproxy/d' \
        -e "s|stats socket /run/haproxy/admin.sock .*|stats socket $folder/haproxy.sock|" \
        -e "s|bind :81|bind $front|" -e "s|bind :9600|bind $statistics|" -e "s|port 443|port $ui|" \
        -e "s|:443|:$ui|" deploy/haproxy/haproxy.cfg >"$configuration"
    for node in "${nodes[@]}"; do sed -i "s|$(controller "$node"):|$node:|" "$configuration"; done
    /usr/sbin/haproxy -db -f "$configuration" >"$folder/haproxy.log" 2>&1 </dev/null &
    running+=($!)
}

# server COLUMN NODE: what HAProxy's statistics say about a node's check.
server() {
    curl --silent "http://$statistics/;csv" | awk -F , -v column="$1" -v name="node${2##*.10}" '
        NR == 1 { for (i = 1; i <= NF; i++) if ($i == column) at = i }
        $1 == "role" && $2 == name { print $at }'
}

is_down() { [[ $(server status "$1") == DOWN* ]]; }
reason_is() { [ "$(server last_chk "$1")" = "$2" ]; }

# The node that a user gets; nothing if there is none.
user_gets() { curl --silent --max-time 2 "http://$front/" || true; }
user_is_on() { [ "$(user_gets)" = "$1" ]; }

ask_all() {
    local node
    for node in "${nodes[@]}"; do
        printf '\n$ curl -i http://%s:%s/\n' "$node" "$check"
        curl --silent --show-error --include --max-time 10 "http://$node:$check/" | tr -d '\r'
        echo
    done
}

table() {
    local node state said
    printf '\n%-12s %-11s %-13s %-12s %-13s\n' NODE CONTROLLER 'THE LIST SAYS' HAPROXY 'ITS CHECK SAYS'
    for node in "${nodes[@]}"; do
        state=$(awk -v name="$(controller "$node")" '$5 == name { print $1 == "l" ? "leader" : "follower" }' "$folder/controllers")
        # The column is empty for a moment while a check begins.
        for _ in {1..40}; do
            said=$(server last_chk "$node")
            [ -z "$said" ] || break
            sleep 0.05
        done
        # For a good check, HAProxy shows its last step, the connection to the UI.
        [ "$said" != '(tcp-check)' ] || said='leader, UI open'
        printf '%-12s %-11s %-13s %-12s %-13s\n' "$node" "$(controller "$node")" "$state" \
            "$(server status "$node")" "$said"
    done
    printf 'A user at http://%s/ gets: %s\n' "$front" "$(user_gets)"
}

now() { date +%s%3N; }

# Follows a user who asks every 50 ms until the new leader answers.
follow_user_to() {
    local start failed=0 end
    start=$(now)
    end=$((start + 15000))
    while :; do
        case $(user_gets) in
        "$1") break ;;
        '') failed=$((failed + 1)) ;;
        esac
        [ "$(now)" -lt "$end" ] || fail "no user arrived on $1 within 15 seconds"
        sleep 0.05
    done
    printf '\nThe user was on the new leader %d ms after the list changed; %d requests failed meanwhile.\n' \
        $(($(now) - start)) "$failed"
}

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

provide curl:curl xinetd:xinetd haproxy:haproxy
command -v cargo >/dev/null || fail "please install the Rust toolchain: there is no cargo here"
say "Building"
deploy/build.sh
binary=$project/target/dist/cmonhachk

folder=$(mktemp -d)
move_leadership_to "${nodes[0]}"
for node in "${nodes[@]}"; do start_node "$node"; done
start_haproxy

say "What s9s controller --list --long prints (simulated)"
HOME=/ S9S_SIM="$folder/${nodes[0]}" tests/sim/s9s controller --list --long
say "$(controller "${nodes[0]}"), asked on ${nodes[0]}, leads"
ask_all
# Until their first check is over, HAProxy considers all nodes as up.
for node in "${nodes[1]}" "${nodes[2]}"; do
    within 10 is_down "$node" || fail "HAProxy does not find the leader: $(cat "$folder/haproxy.log")"
done
within 10 user_is_on "${nodes[0]}" || fail "no user arrives on the leader: $(cat "$folder/haproxy.log")"
table

say "The leadership moves: $(controller "${nodes[1]}"), asked on ${nodes[1]}, leads"
move_leadership_to "${nodes[1]}"
follow_user_to "${nodes[1]}"
ask_all
table

say "On ${nodes[2]}, s9s hangs: its check says why on http://$statistics/"
echo hang >"$folder/${nodes[2]}/behaviour"
within 15 reason_is "${nodes[2]}" 'unknown s9s-timeout' || fail "HAProxy does not show why ${nodes[2]} is unknown"
table

if $keep; then
    rm "$folder/${nodes[2]}/behaviour"
    say "All stays up until Ctrl-C"
    cat <<EOF
Be a user:            curl http://$front/
See the statistics:   http://$statistics/
Ask a node:           curl -i http://${nodes[0]}:$check/
Move the leadership:  sed -i 's/^l/f/; /$(controller "${nodes[2]}")/s/^f/l/' $folder/controllers
Make an s9s hang:     echo hang >$folder/${nodes[2]}/behaviour
                      rm $folder/${nodes[2]}/behaviour
See why:              S9S_SIM=$folder/${nodes[2]} $binary --explain --s9s $project/tests/sim/s9s \\
                        --cmon-defaults $folder/${nodes[2]}/defaults --lock-file $folder/${nodes[2]}/lock
EOF
    # In the background, so that Ctrl-C takes effect at once.
    sleep infinity &
    running+=($!)
    wait $!
fi

clean_up
say "Done: nothing is left running"
