#!/usr/bin/env bash
# Shows cmonhachk at work without ClusterControl: three nodes, each a real xinetd with the service file from
# deploy/xinetd and a simulated s9s, three small UIs, and a real HAProxy with deploy/haproxy in front. Asks
# each node, moves the leadership, follows a user to the new leader, makes a node's s9s hang.
#
#   deploy/demo.sh [--keep]
#
# --keep leaves everything running until Ctrl-C and says how to try it.
#
# Needs root: everything runs in a network namespace, with the addresses of README.md on its loopback
# interface. So it needs no free port of the machine, and does not meet a 10.0.0.0/24 that the machine is in.
# Only for --keep, the machine gets an interface to HAProxy. Its address is link-local (RFC 3927): no route
# of the machine leads there. Nothing under /etc changes, and nothing is left running.
set -euo pipefail

cd "$(dirname "$0")/.."
project=$PWD
binary=$project/target/dist/cmonhachk
nodes=(10.0.0.101 10.0.0.102 10.0.0.103)
front=10.0.0.130
# Both ends of --keep's interface.
machine=169.254.92.1
demo=169.254.92.2

# shellcheck source=tests/packages.sh
. tests/packages.sh
# Prints to standard output, unlike the one in tests/packages.sh.
say() { printf '\n== %s\n' "$*"; }

keep=false
case "$*" in
'' | --keep)
    provide curl:curl xinetd:xinetd haproxy:haproxy ip:iproute2 unshare:util-linux pgrep:procps
    command -v cargo >/dev/null || fail "please install the Rust toolchain: there is no cargo here"
    say "Building"
    deploy/build.sh
    exec "${as_root[@]}" unshare --net --mount deploy/demo.sh inside "$@"
    ;;
inside) ;;
'inside --keep') keep=true ;;
*)
    echo "usage: deploy/demo.sh [--keep]" >&2
    exit 2
    ;;
esac

# within SECONDS COMMAND…: tries until the command succeeds or the time is up.
within() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$end" ] || return 1
        sleep 0.05
    done
}

# Makes this node's controller the leader in the list of every s9s. The list is renamed into place,
# so that no check reads half of it.
move_leadership_to() {
    local node
    for node in "${nodes[@]}"; do
        if [ "$node" = "$1" ]; then
            printf 'l\t2.3.4.11302\tsystem\tadmins\t%s\t%s\t9501\tActing as leader.\n' "$node" "$node"
        else
            printf 'f\t2.3.4.11302\tsystem\tadmins\t%s\t%s\t9501\tAccepting heartbeats.\n' "$node" "$node"
        fi
    done >"$folder/draft"
    mv "$folder/draft" "$folder/controllers"
}

start_node() {
    local node=$1 home=$folder/$1 service
    mkdir "$home"
    ln -s "$folder/controllers" "$home/controllers"
    printf 'RPC_BIND_ADDRESSES="127.0.0.1,%s"\n' "$node" >"$home/defaults"
    service=$(sed -e "s|/usr/sbin/cmonhachk|$binary|" -e "s|= cmonhachk$|= root|" -e '/^}/d' deploy/xinetd/cmonhachk)
    # The UI waits for the request, then answers with the node's name.
    cat >"$home/ui" <<'END'
while IFS= read -r line && [ "${#line}" -gt 1 ]; do :; done
printf 'HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %s\r\n\r\n%s' "${#1}" "$1"
END
    cat >"$home/xinetd.conf" <<END
$service
        bind            = $node
        env             = S9S_SIM=$home CMONHACHK_S9S=$project/tests/sim/s9s
        env            += CMONHACHK_CMON_DEFAULTS=$home/defaults CMONHACHK_LOCK_FILE=$home/lock
}

service ui
{
        type            = UNLISTED
        port            = 443
        bind            = $node
        socket_type     = stream
        protocol        = tcp
        wait            = no
        user            = root
        server          = /bin/sh
        server_args     = $home/ui $node
        cps             = 100000 1
}
END
    xinetd -dontfork -f "$home/xinetd.conf" -filelog "$home/xinetd.log" -pidfile "$home/xinetd.pid" </dev/null &
    within 10 grep -qs 'Started working: 2 available' "$home/xinetd.log" ||
        fail "xinetd does not serve $node: $(cat "$home/xinetd.log")"
}

# The deployed configuration, but for the path of the socket and who may see the statistics.
start_haproxy() {
    sed -e "s|/run/haproxy|$folder|" -e "s|/usr/share/cmonhachk|$project/deploy/haproxy|" -e "s|src 127.0.0.0/8|& $machine|" deploy/haproxy/haproxy.cfg >"$folder/haproxy.cfg"
    haproxy -db -f "$folder/haproxy.cfg" >"$folder/haproxy.log" 2>&1 </dev/null &
}

status() { "$binary-front" --status --haproxy-only "${nodes[@]}" 2>&1; }
all_is_well() { status >/dev/null; }
shows() { grep -q "$1" <<<"$(status)"; }

# The node that a user gets; nothing if there is none.
user_gets() { curl --silent --max-time 2 "http://$front:81/" || true; }
user_is_on() { [ "$(user_gets)" = "$1" ]; }

ask_all() {
    local node
    for node in "${nodes[@]}"; do
        printf '\n$ curl -i http://%s:9201/\n' "$node"
        curl --silent --show-error --include --max-time 10 "http://$node:9201/" | tr -d '\r'
        echo
    done
}

table() {
    printf '\n$ cmonhachk-front --status\n'
    status || true
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

# Gives the machine, on which this demo's parent is, an interface to HAProxy.
link() {
    ip link add demo type veth peer name cmonhachk-demo netns "$PPID"
    ip address add "$demo/30" dev demo
    ip link set demo up
    nsenter --net --target "$PPID" ip address add "$machine/30" dev cmonhachk-demo
    nsenter --net --target "$PPID" ip link set cmonhachk-demo up
}

folder=$(mktemp --directory --tmpdir cmonhachk-demo.XXXXXX)
clean_up() {
    local status=$?
    trap - EXIT
    # All in this network but this script; again, for what they may just have started.
    while pkill --full --ns $$ --nslist net 'cmonhachk|s9s|sleep'; do sleep 0.05; done
    # The kernel would remove it, a moment after the demo.
    if $keep; then ip link delete demo || true; fi
    rm -rf "$folder"
    [ "$status" -ne 0 ] || say "Done: nothing is left running"
}
trap clean_up EXIT
trap 'exit 0' INT TERM

# Not the front that this machine may have.
mount -t tmpfs demo /etc/haproxy
ip link set lo up
for address in "${nodes[@]}" "$front"; do ip address add "$address" dev lo; done
if $keep; then link; fi
move_leadership_to "${nodes[0]}"
for node in "${nodes[@]}"; do start_node "$node"; done
start_haproxy

say "What s9s controller --list --long prints (simulated)"
HOME=/ S9S_SIM="$folder/${nodes[0]}" tests/sim/s9s controller --list --long
say "${nodes[0]} leads"
ask_all
within 10 all_is_well || fail "HAProxy does not find the leader: $(cat "$folder/haproxy.log")"
within 10 user_is_on "${nodes[0]}" || fail "no user arrives on the leader: $(cat "$folder/haproxy.log")"
table

say "The leadership moves: ${nodes[1]} leads"
move_leadership_to "${nodes[1]}"
follow_user_to "${nodes[1]}"
ask_all
table

say "On ${nodes[2]}, s9s hangs: its check says why"
echo hang >"$folder/${nodes[2]}/behaviour"
within 15 shows "^${nodes[2]}.*unknown s9s-timeout" || fail "the check does not say why ${nodes[2]} is unknown"
table

if $keep; then
    rm "$folder/${nodes[2]}/behaviour"
    say "All stays up until Ctrl-C"
    cat <<END
On this machine, also in a browser:
  See the statistics:   http://$demo:9600/
  Be a user:            http://$demo:81/
As root, in the demo's network (nsenter --net --target $$):
  Ask a node:           curl -i http://${nodes[0]}:9201/
  Move the leadership:  sed -i 's/^l/f/; /${nodes[2]}/s/^f/l/' $folder/controllers
  Make an s9s hang:     echo hang >$folder/${nodes[2]}/behaviour
                        rm $folder/${nodes[2]}/behaviour
  See why:              S9S_SIM=$folder/${nodes[2]} $binary --explain --s9s $project/tests/sim/s9s \\
                          --cmon-defaults $folder/${nodes[2]}/defaults --lock-file $folder/${nodes[2]}/lock
END
    # In the background, so that Ctrl-C takes effect at once.
    sleep infinity &
    wait $!
fi
