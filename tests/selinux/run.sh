#!/usr/bin/env bash
# Tests the .rpm under Red Hat's SELinux policy, which enforces its rules: boots two nodes in qemu, runs commands on
# them, and is their user. The folder $CMONHACHK_SELINUX_POLICY has the policy, see tests/README.md. Needs root, the
# repository's history, and the package of deploy/package.sh.
# shellcheck disable=SC2016 # The commands for the nodes are expanded there.
set -euo pipefail

cd "$(dirname "$0")/../.."
# shellcheck source=tests/packages.sh
. tests/packages.sh

needs_root
policy=${CMONHACHK_SELINUX_POLICY:-}
[ -n "$policy" ] || fail "CMONHACHK_SELINUX_POLICY does not name the folder with the policy: see tests/README.md"
for archive in targeted-plain targeted-ports; do
    [ -r "$policy/$archive.tar.xz" ] || fail "there is no $archive.tar.xz in $policy: see tests/README.md"
done
package=$(compgen -G 'target/dist/cmonhachk-[0-9]*.x86_64.rpm') || fail "there is no package for x86_64: see deploy/package.sh"
# The last commit whose keepalived follows /run/cmonhachk-front.weight.
former=c8fffa6
git cat-file -e "$former:deploy" || fail "commit $former is missing: fetch the whole history"

if [ "${1:-}" != inside ]; then
    provide qemu-system-x86_64:qemu-system-x86 mkfs.ext4:e2fsprogs cpio:cpio depmod:kmod xz:xz-utils ip:iproute2 curl:curl unshare:util-linux
    tests/root.sh selinux
    # The nodes' network is in a namespace, which ends with this script.
    exec unshare --net bash "$0" inside
fi

umask 022
folder=$(mktemp --directory "$PWD/target/selinux.XXXXXX")
cleanup() {
    set +e
    for process in "${machine[@]}"; do kill "$process" && wait "$process"; done 2>/dev/null
    rm -rf "$folder"
}
trap cleanup EXIT
trap 'exit 1' INT TERM

# shellcheck source=tests/selinux/machines.sh
. tests/selinux/machines.sh

address=10.0.0.130
front="cmonhachk-front $address 10.0.0.101 10.0.0.102"
count=0 failed=0

# shows SENTENCE COMMAND...: the sentence is true if the command succeeds.
shows() {
    local said start=$SECONDS
    count=$((count + 1))
    if said=$("${@:2}" 2>&1); then
        echo "ok $1 ($((SECONDS - start)) s)"
        return
    fi
    failed=$((failed + 1))
    echo "not ok $1 ($((SECONDS - start)) s): $said"
    both on 'journalctl --no-pager --output cat --lines 20 --unit "cmonhachk*" --unit keepalived; ip -brief address' || true
}

# within SECONDS COMMAND...: tries until the command succeeds or the time is up.
within() {
    local end=$((SECONDS + $1))
    until "${@:2}"; do
        if [ "$SECONDS" -ge "$end" ]; then return 1; fi
        sleep 0.2
    done
}

# Each UI shows the number of its node.
page() { curl --silent --max-time 5 "${@:2}" "http://$address:$1/"; }
users_reach() { [ "$(page 81)" = "$1" ]; }
# The node with the address answers for it, on the UI's own port.
has_address() { [ "$(page 443)" = "$1" ]; }
holder() { page 443; }
other() { echo $((3 - $1)); }
node_says() { [ "$(on "$1" "$2")" = "$3" ]; }

# nobody_is_lost LEADER COMMAND...: during the command, one user after the other gets to the leader. An emulated node may
# need seconds for what takes others milliseconds, so a user tries twice.
nobody_is_lost() {
    local user status=0 wrong
    while :; do page 81 --retry 1 --retry-all-errors || echo "status $?"; done >"$folder/users" &
    user=$!
    "${@:2}" || status=$?
    # The ones after the command.
    sleep 3
    kill "$user"
    wait "$user" 2>/dev/null || true
    wrong=$(grep --count --invert-match --line-regexp "$1" "$folder/users") || true
    echo "$wrong of $(wc --lines <"$folder/users") users did not get to the leader: $(uniq --count "$folder/users")"
    [ "$wrong" = 0 ] && return "$status"
}

# only_denied PATTERN...: what has been denied since the last call matches one of the patterns, and each pattern is there.
only_denied() {
    local said left pattern
    said=$(both on denials)
    left=$said
    for pattern; do
        grep --quiet "$pattern" <<<"$said" || { echo "not denied: $pattern" && return 1; }
        left=$(grep --invert-match "$pattern" <<<"$left") || true
    done
    [ -z "$left" ] || { echo "denied: $left" && return 1; }
}

# refuses NODE PORT OPTION...: cmonhachk-front fails, and names the command that allows the port.
refuses() {
    local said status=0
    said=$(on "$1" "$front ${*:3}") || status=$?
    echo "status $status: $said"
    [ "$status" = 1 ] && [[ $said == *"semanage port -a -t http_port_t -p tcp $2"[^0-9]* ]]
}

# The address leaves a node when its HAProxy is stopped, and stays away when it has started again.
leaves() {
    on "$1" 'systemctl stop cmonhachk-front' && within 60 has_address "$(other "$1")" && within 60 users_reach "$2" &&
        on "$1" 'systemctl start cmonhachk-front' && has_address "$(other "$1")"
}

all_is_well() { within 60 both on 'cmonhachk-front --status'; }

a_new_system() {
    shows "SELinux enforces its policy" both on '[ "$(getenforce)" = Enforcing ]'
    both on prepare
    shows "the package is installed" both on 'install_rpm --install cmonhachk.rpm'
    shows "the leader's check answers" within 30 node_says 1 state leader
    shows "the follower's check answers" within 30 node_says 2 state follower
    shows "all of this is allowed" only_denied
}

without_semanage() {
    shows "cmonhachk-front names the statistics' port" refuses 1 9600
    on 1 'systemctl stop cmonhachk-front'
    shows "cmonhachk-front names the check's port" refuses 1 9201 --stats-port 9000
    shows "cmonhachk-front is removed" on 1 'cmonhachk-front --remove'
    shows "these two ports are denied, and nothing else" only_denied 'name_bind .* src=9600' 'name_connect .* dest=9201'
}

the_front() {
    both on allow_ports
    shows "cmonhachk-front sets up the first node" on 1 "$front"
    shows "cmonhachk-front sets up the second node" on 2 "$front"
    shows "users get to the leader" within 60 users_reach 1
    shows "--status finds all well" all_is_well
    shows "all of this is allowed" only_denied
}

failover() {
    local first second
    first=$(holder)
    second=$(other "$first")
    shows "the address leaves a node without HAProxy" leaves "$first" 1
    shows "it comes back when the other node has no HAProxy" leaves "$second" 1
    both on 'lead 2'
    shows "users follow the leadership" within 60 users_reach 2
    shows "they get to the leader after a restart of keepalived" restarts_keepalived "$first" 2
    shows "nobody is lost in a reload" nobody_is_lost 2 both on 'systemctl reload cmonhachk-front'
    shows "HAProxy is killed: it starts again, and users get to the leader" survives "$(holder)" cmonhachk-front 2
    shows "keepalived is killed: users get to the leader" loses_keepalived "$(holder)" 2
    shows "--status finds all well" all_is_well
    shows "all of this is allowed" only_denied
}

restarts_keepalived() { on "$1" 'systemctl restart keepalived' && within 60 users_reach "$2"; }

survives() { # NODE UNIT LEADER
    local before
    before=$(on "$1" "main_pid $2")
    on "$1" "kills $2"
    within 60 on "$1" "systemctl is-active $2 && [ \$(main_pid $2) != $before ]" && within 60 users_reach "$3"
}

# Its unit does not start it again.
loses_keepalived() {
    on "$1" 'kills keepalived'
    within 60 has_address "$(other "$1")" && within 60 users_reach "$2" &&
        on "$1" 'systemctl start keepalived' && within 60 users_reach "$2"
}

another_port() {
    shows "a port that is denied is named" refuses "$(holder)" 82 --front-port 82
    shows "and the former configuration goes on" within 60 users_reach 2
    shows "only this port was denied" only_denied 'name_bind .* src=82'
}

# upgrades RPM: on both nodes, and the address stays.
upgrades() {
    local before
    before=$(holder)
    both on "install_rpm --upgrade $1" && has_address "$before"
}

an_upgrade() {
    shows "nobody is lost in an upgrade, and the address stays" nobody_is_lost 2 upgrades cmonhachk-9.9.9-1.x86_64.rpm
    shows "it has the new version" both on 'rpm --query cmonhachk | grep "^cmonhachk-9.9.9-"'
    shows "the checks answer" within 30 node_says 2 state leader
    shows "all of this is allowed" only_denied
}

# Both nodes, at the same time. The answer to the command comes before the node goes.
boot_again() {
    local node
    for node in 1 2; do on "$node" '{ sleep 1; systemctl reboot; } >/dev/null 2>&1 &'; done
    for node in 1 2; do wait "${machine[$node]}" && boot "$node"; done
    for node in 1 2; do echo "node $node is up after $(answer "$node") s"; done
}

# Whichever of the two starts first finds what it needs from the other.
a_reboot() {
    on 1 'start_first keepalived cmonhachk-front'
    on 2 'start_first cmonhachk-front keepalived'
    boot_again
    shows "users get to the leader after a boot" within 120 users_reach 2
    shows "tmpfiles.d labels the folder" both on "[[ \$(stat --format %C /run/keepalived-cmonhachk{,/haproxy} | uniq) = *:keepalived_var_run_t:s0 ]]"
    local first
    first=$(holder)
    shows "the address leaves a node without HAProxy" leaves "$first" 2
    shows "it comes back when the other node has no HAProxy" leaves "$(other "$first")" 2
    shows "--status finds all well" all_is_well
    shows "all of this is allowed" only_denied
}

# gets_to LEADER: both lists say so, and the address gets there.
gets_to() { both on "lead $1" && within 60 has_address "$1"; }
comes_back_with_keepalived() {
    on "$1" 'kills keepalived'
    within 60 has_address "$(other "$1")" && on "$1" 'systemctl start keepalived' && within 60 has_address "$1"
}

# keepalived runs a program of ours, which asks the check and the UI. Node 2 leads, and without an answer, the address
# would be on node 1.
the_way_without_haproxy() {
    shows "the way with HAProxy is removed" both on 'cmonhachk-front --remove'
    shows "the leader has the address without HAProxy" on 2 "${front/ / --without-haproxy }"
    shows "the follower gets the same front" on 1 "${front/ / --without-haproxy }"
    shows "the address is on the leader" within 60 has_address 2
    shows "--status finds all well" all_is_well
    shows "the address follows the leadership" gets_to 1
    shows "and comes back with it" gets_to 2
    shows "keepalived is killed: the address moves, and comes back" comes_back_with_keepalived 2
    shows "the program has the domain of keepalived's scripts" \
        both on '[[ $(stat --format %C /usr/libexec/keepalived/cmonhachk-leads) = *:keepalived_unconfined_script_exec_t:s0 ]]'
    shows "this way is removed" both on 'cmonhachk-front --remove'
    shows "all of this is allowed" only_denied
    shows "the way with HAProxy comes back to the first node" on 1 "$front"
    shows "and to the second" on 2 "$front"
    shows "users get to the leader" within 60 users_reach 2
}

moves_on_removal() { on "$1" 'cmonhachk-front --remove' && within 60 has_address "$(other "$1")" && within 60 users_reach "$2"; }
is_gone() {
    local said
    said=$(both on left) || true
    [ -z "$said" ] || { echo "$said" && return 1; }
}

a_removal() {
    shows "the address leaves a node from which the front is removed" moves_on_removal "$(holder)" 2
    shows "the package is removed" both on 'rpm --erase cmonhachk'
    shows "nothing is left" is_gone
    shows "all of this is allowed" only_denied
}

# There, keepalived is denied the file, and keeps the address whatever HAProxy does.
from_a_former_version() {
    shows "the former version is installed" both on 'install_rpm --install cmonhachk-0.1.0-1.x86_64.rpm'
    shows "its cmonhachk-front sets up the first node" on 1 "$front"
    shows "its cmonhachk-front sets up the second node" on 2 "$front"
    shows "users get to the leader" within 60 users_reach 2
    shows "keepalived is denied the former file" only_denied 'comm="keepalived" .*:initrc_var_run_t:'
    shows "nobody is lost in the upgrade, and the address stays" nobody_is_lost 2 upgrades cmonhachk.rpm
    local first
    first=$(holder)
    shows "the address leaves a node without HAProxy" leaves "$first" 2
    shows "it comes back when the other node has no HAProxy" leaves "$(other "$first")" 2
    shows "cmonhachk-front brings the configuration up to date" both on cmonhachk-front
    shows "--status finds all well" all_is_well
    shows "all of this is allowed" only_denied
}

tried() {
    on 1 'uname --kernel-release; sed -n "s/^SELINUXTYPE=/policy /p" /etc/selinux/config
        sha256sum /etc/selinux/targeted/policy/policy.* | cut -c 1-12; systemctl --version | sed 1q; rpm --version
        haproxy -v | sed "s/ [0-9/]* -.*//; 1q"; keepalived -v 2>&1 | sed "s/ (.*//; 1q"' | paste --serial --delimiters ,
}

say "Makes the machines"
make_kernel
accelerator >"$folder/accelerator" &
make_packages
make_disk
wait $!
accelerator=$(cat "$folder/accelerator")
make_network
for node in 1 2; do connect "$node" && boot "$node"; done
for node in 1 2; do echo "node $node is up after $(answer "$node") s"; done
echo "tried with $accelerator: $(tried)"
for part in a_new_system without_semanage the_front failover another_port an_upgrade a_reboot the_way_without_haproxy a_removal from_a_former_version; do
    say "${part//_/ }"
    "$part"
done
echo "done $count, $SECONDS s"
[ "$failed" = 0 ] || fail "$failed of $count are not ok"
