#!/usr/bin/env bash
# Runs as a service of the arm64 guest that run.sh boots: installs the package, tests what it installs, and
# turns the guest off. Its lines begin with "ok" or "not ok", the last one with "done".
set -u

cd /opt || exit
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
count=0

# is WHAT EXPECTED COMMAND...: what the command prints, in one line, and its status if it fails.
is() {
    local got
    got=$({ "${@:3}" || echo "status $?"; } 2>&1 | xargs)
    count=$((count + 1))
    if [ "$got" = "$2" ]; then echo "ok $1"; else echo "not ok $1: \"$got\" instead of \"$2\""; fi
}

# The status of an answer, its state and its reason, or curl's exit status.
answer() {
    local said
    said=$(curl --silent --include --max-time 90 http://127.0.0.1:9201/) ||
        case $? in 52 | 56) echo "no answer" ;; *) echo "curl $?" ;; esac
    tr -d '\r' <<<"$said" | sed -n 's/^Cmonhachk-.*: //p; 1s/HTTP.1.1 \(...\).*/\1/p'
}

# Tries again and again until the command succeeds.
await() {
    local start=$SECONDS
    until "$@" >/dev/null 2>&1; do
        [ $((SECONDS - start)) -lt 120 ] || { echo "waited in vain: $*" && return; }
        sleep 0.1
    done
}

are() { [ "$("${@:2}")" = "$1" ]; }
# What the simulated client does from now on.
s9s() { rm -f cluster/{gate,runs} && echo "$*" >cluster/behaviour; }
listener() { systemctl show --property MainPID --value cmonhachk.service; }
checks() { pgrep --count --parent "$(listener)"; }

for address in 11 12 113; do ip address add "192.0.2.$address/32" dev lo; done
is "the kernel" "aarch64" uname --machine
is "the package is installed" "" sh -c 'apt-get install -qq -y ./cmonhachk_*_arm64.deb >said 2>&1 || cat said'
is "its files are as packed" "" dpkg --verify cmonhachk
is "the socket listens, and nothing runs yet" "active inactive" systemctl is-active cmonhachk.socket cmonhachk.service
is "the program's version" "cmonhachk $(dpkg-query --show --showformat '${Version}' cmonhachk)" cmonhachk --version

while read -r list address expected; do
    s9s "print /opt/lists/$list"
    echo "RPC_BIND_ADDRESSES=127.0.0.1,192.0.2.$address" >/etc/default/cmon
    is "list $list, node $address: $expected" "$expected" answer
done <<'TABLE'
three 11 503 follower
three 113 503 follower
coloured 11 200 leader
coloured 12 503 follower
single 11 200 leader
single 12 503 unknown not-listed
incomplete 11 503 unknown offline
incomplete 12 503 unknown no-role
none 11 503 unknown no-controllers
three 12 200 leader
TABLE
is "the listener runs" active systemctl is-active cmonhachk.service

# gated COMMAND...: the answer to a check during which the command is run.
gated() {
    s9s gate
    answer >under-way &
    await test -e cluster/runs
    "$@"
    touch cluster/gate
    wait $!
    cat under-way
}
many() {
    s9s gate
    curl --silent --parallel --parallel-immediate --parallel-max 30 --max-time 90 --output /dev/null \
        --write-out '%{http_code}\n' 'http://127.0.0.1:9201/[1-30]' >under-way 2>/dev/null &
    await are 30 checks
    touch cluster/gate
    wait $!
    sort under-way | uniq --count
    wc --lines <cluster/runs
}
is "30 clients at once have the right answer from one run of s9s" "30 200 1" many
await are 0 checks

is "a check that is killed" "no answer" gated sh -c "pgrep --parent $(listener) | xargs kill -KILL"
s9s list
is "the next one is answered" "200 leader" answer
before=$(listener)
is "a check survives its killed listener" "200 leader" gated systemctl kill --kill-who main --signal KILL cmonhachk.service
is "the next client is answered" "200 leader" answer
is "by a new listener" "" test "$before" != "$(listener)"

# Hangs together with a child, and both ignore SIGTERM.
s9s stubborn
sed -i 's/TIMEOUT=.*/TIMEOUT=3/' /etc/default/cmonhachk
start=$SECONDS
is "an s9s that hangs" "503 unknown s9s-timeout" answer
is "the answer came in time" "" test $((SECONDS - start)) -le 5
is "s9s and its group are gone" "" await are '' pgrep 's9s|sleep'
s9s list
is "the next check is answered" "200 leader" answer

is "a check survives the restart of its listener" "200 leader" gated systemctl try-restart cmonhachk.service
is "the next client is answered by the new one" "200 leader" answer
is "no unit has failed" "" systemctl list-units --failed --no-legend
is "nothing crashed" "" journalctl --quiet --no-pager --output cat --priority err --unit cmonhachk.service --unit cmonhachk.socket
apt-get purge -qq -y cmonhachk >/dev/null 2>&1
is "once the package is purged, nobody answers" "curl 7" answer
echo "done $count, up for $(cut -d . -f 1 /proc/uptime) s"
systemctl poweroff 2>/dev/null
