#!/usr/bin/env bash
# Puts a ClusterControl node in place and takes it out again; `deploy/install.sh --help` says how.
#
# All files are first filled in and checked in a folder of their own, and then put in place all or
# none. /var/lib/cmonhachk/installed remembers what was put where: one line for each file, with its
# checksum, what was there before ("-" for nothing), and its path; and one for the user that the
# checks run as, which says whether it was "made" or "found" here ("former", if it is to go).
#
# That user must not become root by what root does here: its home and the record in it are root's,
# and in the one folder below, where it may write, root reads and writes with its rights alone.
set -euo pipefail
export LC_ALL=C PATH=$PATH:/usr/sbin:/sbin
umask 022

deploy=$(cd "$(dirname "$0")" && pwd)
account=cmonhachk
home=/var/lib/cmonhachk
private=$home/.s9s
record=$home/installed
run_folder=/run/cmonhachk
# What the first version had.
earlier_lock=/run/cmonhachk.lock
# Where nothing would make that at the next boot.
disk_folder=$home/run
program=/usr/local/sbin/cmonhachk
xinetd_service=/etc/xinetd.d/cmonhachk
socket=/etc/systemd/system/cmonhachk.socket
instance=/etc/systemd/system/cmonhachk@.service
# What `systemctl enable` makes; by hand, so that it comes and goes with the other files.
enabled=/etc/systemd/system/sockets.target.wants/cmonhachk.socket
tmpfiles=/etc/tmpfiles.d/cmonhachk.conf
haproxy_cfg=/etc/haproxy/haproxy.cfg
keepalived_conf=/etc/keepalived/keepalived.conf

usage() {
    cat <<END
usage: deploy/install.sh --nodes A,B,C [--vip V --interface I] [--with xinetd|systemd]
                         [--haproxy] [--keepalived] [--user NAME] [--binary FILE] [--dry-run]
       deploy/install.sh --uninstall [--dry-run]

Installs the leader check on this node, as root, and again to change or upgrade it.

  --nodes A,B,C   the addresses of all nodes, this one's among them, in the same order on every
                  node; IPv4, or IPv6 without brackets
  --with          what serves port 9201. Default: what did so far; else systemd where it runs and
                  xinetd is not installed; else xinetd
  --haproxy       also $haproxy_cfg
  --keepalived    also $keepalived_conf, with
  --vip V         the address that users go to, on
  --interface I   this network interface. The first node gets priority 103, each further one 20 less
                  (fewer where there are more than five)
  --user NAME     whom the checks run as, and whose s9s.conf is read. Default: who did so far; else
                  $account, which is made if need be, with a copy of root's s9s.conf
  --binary FILE   install this file, and build nothing
  --uninstall     take out what was installed; packages stay
  --dry-run       say what would be done and check the configurations; change nothing

A file that was there before or was edited since is kept beside the new one, as FILE.kept-1.
END
}

fail() {
    echo "install: $*" >&2
    exit 1
}

misused() {
    echo "install: $* (--help says more)" >&2
    exit 2
}

say() { printf '%-11s %s\n' "$1" "$2"; }

read_arguments() {
    local node canonical_node
    nodes=() list='' vip='' interface='' with='' user='' binary='' haproxy=false keepalived=false dry_run=false uninstall=false
    [ "$#" -gt 0 ] || misused "--nodes or --uninstall is missing"
    while [ "$#" -gt 0 ]; do
        case $1 in
        --help) usage && exit ;;
        --haproxy) haproxy=true ;;
        --keepalived) keepalived=true ;;
        --dry-run) dry_run=true ;;
        --uninstall) uninstall=true ;;
        --nodes | --vip | --interface | --with | --user | --binary)
            [ -n "${2:-}" ] || misused "$1 needs a value"
            case $1 in
            --nodes) list=$2 ;;
            --vip) vip=$(canonical "$2") ;;
            --interface) interface=$2 ;;
            --with) with=$2 ;;
            --user) user=$2 ;;
            --binary) binary=$(realpath -m "$2") ;;
            esac
            shift
            ;;
        *) misused "there is no option $1" ;;
        esac
        shift
    done
    if $uninstall; then
        [ "$list$vip$interface$with$user$binary$haproxy$keepalived" = falsefalse ] ||
            misused "--uninstall goes with no other option than --dry-run"
        return
    fi
    [ -n "$list" ] || misused "--nodes is missing"
    while read -r -d , node; do
        canonical_node=$(canonical "$node")
        [[ " ${nodes[*]} " != *" $canonical_node "* ]] || misused "$node is twice in --nodes"
        nodes+=("$canonical_node")
    done <<<"$list,"
    case $with in
    '' | xinetd | systemd) ;;
    *) misused "--with is xinetd or systemd, not $with" ;;
    esac
    if $keepalived; then
        [[ -n $vip && -n $interface ]] || misused "--keepalived needs --vip and --interface"
        [[ " ${nodes[*]} " != *" $vip "* ]] || misused "--vip has to be another address than the nodes'"
    else
        [ -z "$vip$interface" ] || misused "--vip and --interface need --keepalived"
    fi
}

# The address as the kernel writes it, so that the same one is the same text.
canonical() {
    local octet='(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])'
    if [[ $1 =~ ^$octet(\.$octet){3}$ ]]; then
        echo "$1"
    # ip knows right from wrong without asking a name server; getent then has nothing to ask either.
    elif [[ $1 == *:* && $1 != *[!0-9A-Fa-f:.]* ]] && ip -6 addr show to "$1" >/dev/null 2>&1; then
        getent ahostsv6 "$1" | awk 'NR == 1 { print $1 }'
    else
        misused "\"$1\" is no IP address"
    fi
}

find_this_node() {
    local at mine=()
    for at in "${!nodes[@]}"; do
        if [ -n "$(ip -o addr show to "${nodes[at]}")" ]; then mine+=("$at"); fi
    done
    case ${#mine[@]} in
    0) fail "none of --nodes is an address of this machine: ${nodes[*]}" ;;
    1) ;;
    *) fail "this machine has both ${nodes[mine[0]]} and ${nodes[mine[1]]}: each of --nodes has to be another machine" ;;
    esac
    own=${nodes[mine[0]]}
    # As keepalived.conf has them: far apart, so that two nodes do not take over in the same moment.
    local step=$((100 / ${#nodes[@]}))
    priority=$((103 - mine[0] * (step < 20 ? step : 20)))
    [ -z "$interface" ] || ip link show dev "$interface" >/dev/null 2>&1 ||
        fail "there is no network interface $interface on this machine"
}

choose_service() {
    [ -z "$with" ] || return 0
    if [ -n "${checksum[$socket]:-}" ]; then
        with=systemd
    elif [ -z "${checksum[$xinetd_service]:-}" ] && [ -d /run/systemd/system ] && ! command -v xinetd >/dev/null; then
        with=systemd
    else
        with=xinetd
    fi
}

# The user, its group and its home; those that it will have, where it is yet to be made.
choose_user() {
    [ -n "$user" ] || user=${recorded_user:-$account}
    if getent passwd "$user" >/dev/null; then
        user=$(getent passwd "$user" | cut -d : -f 1)
        group=$(id -gn "$user")
        user_home=$(getent passwd "$user" | cut -d : -f 6)
    elif [ "$user" = "$account" ]; then
        command -v useradd >/dev/null || fail "please make the user $user first, with the home $home: there is no useradd here"
        group=$user user_home=$home
    else
        fail "there is no user $user on this machine: make it first, or leave --user out"
    fi
    # What /run holds is gone after a boot; systemd makes it again where it runs.
    lock_folder=$run_folder
    if [ "$with" = xinetd ] && ! boots_with_systemd; then lock_folder=$disk_folder; fi
}

boots_with_systemd() {
    command -v systemd-tmpfiles >/dev/null && [[ -d /run/systemd/system || $(readlink -f /sbin/init) == */systemd ]]
}

exists() { [ -e "$1" ] || [ -L "$1" ]; }

sum_of() { sha256sum 2>/dev/null <"$1" | cut -d ' ' -f 1; }

read_record() {
    local sum before path
    declare -gA checksum=() original=()
    recorded_user=''
    [ -e "$record" ] || return 0
    while read -r sum before path; do
        checksum[$path]=$sum original[$path]=$before
        [[ $path == /* || $before == former ]] || recorded_user=$path
    done <"$record"
}

write_record() {
    local path
    for path in "${!checksum[@]}"; do echo "${checksum[$path]} ${original[$path]} $path"; done |
        sort -k 3 >"$stage/record"
    if $dry_run || cmp -s "$stage/record" "$record"; then return; fi
    if [ -s "$stage/record" ]; then
        place "$stage/record" "$record"
    elif exists "$record"; then
        take_away "$record"
    fi
}

install_missing_packages() {
    local pair missing=() needed=(curl:curl)
    case $with in
    xinetd) needed+=(xinetd:xinetd) ;;
    systemd) command -v systemd-analyze >/dev/null || fail "there is no systemd on this machine: try --with xinetd" ;;
    esac
    if $haproxy; then needed+=(haproxy:haproxy); fi
    if $keepalived; then needed+=(keepalived:keepalived); fi
    for pair in "${needed[@]}"; do
        command -v "${pair%:*}" >/dev/null || missing+=("${pair#*:}")
    done
    [ "${#missing[@]}" -gt 0 ] || return 0
    command -v apt-get >/dev/null || fail "please install ${missing[*]} first: there is no apt-get here"
    say packages "${missing[*]}"
    if $dry_run; then return; fi
    {
        apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"
    } >"$stage/apt-get" 2>&1 || fail "apt-get could not install ${missing[*]}: $(tail -n 5 "$stage/apt-get")"
}

# Sets $binary, to nothing in a dry run that would build it first.
find_binary() {
    if [ -z "$binary" ]; then
        binary=$deploy/../target/dist/cmonhachk
        # Root often has no cargo; what somebody else has built will do.
        if command -v cargo >/dev/null && ! $dry_run; then
            "$deploy/build.sh" || fail "deploy/build.sh could not build cmonhachk"
        elif [ ! -e "$binary" ]; then
            $dry_run || fail "there is neither cargo nor target/dist/cmonhachk: build it first, or give --binary"
            binary=''
        fi
    fi
    [ -z "$binary" ] || grep -q -e --explain <<<"$("$binary" --help 2>&1)" ||
        fail "$binary does not run as cmonhachk on this machine"
}

# Fills a template in, and fails unless it found everything that it has to fill in there.
fill() { # TEMPLATE HOW-MANY TARGET
    planned+=("$3")
    mkdir -p "$(dirname "$stage/new$3")"
    awk -v nodes="${nodes[*]}" -v own="$own" -v vip="$vip" -v interface="$interface" -v priority="$priority" \
        -v user="$user" -v group="$group" -v home="$user_home" -v lock_folder="$lock_folder" \
        -v expected="$2" '
        function line(text) { match($0, /[^ ]/); print substr($0, 1, RSTART - 1) text }
        BEGIN { count = split(nodes, node, " "); dual_stack = (nodes vip) ~ /:/ }
        $1 == "only_from" { line("only_from       = 127.0.0.1 ::1 " nodes); found++; next }
        /^IPAddressAllow=/ { line("IPAddressAllow=localhost " nodes); found++; next }

        # The user that the checks run as.
        $1 == "user" && $3 == "cmonhachk" { sub(/cmonhachk/, user); found++ }
        $1 == "server" && lock_folder != "/run/cmonhachk" {
            print
            line("server_args     = --lock-file " lock_folder "/lock")
            next
        }
        $1 == "d" { sub(/cmonhachk cmonhachk/, user " " group); found++ }
        /^User=/ { line("User=" user); found++; next }
        /^ReadWritePaths=/ { line("ReadWritePaths=-" home "/.s9s"); found++; next }
        /^ProtectHome=/ && home ~ /^[/](root|home)/ { line("ProtectHome=read-only"); next }

        # HAProxy: a line like that of the first server for every node.
        $1 == "server" && $2 == "node1" {
            for (i = 1; i <= count; i++) {
                text = $0
                gsub(/node1/, "node" i, text)
                sub(/[0-9.]+:/, (node[i] ~ /:/ ? "[" node[i] "]" : node[i]) ":", text)
                print text
            }
            found++
        }
        $1 == "server" && $2 ~ /^node/ { next }
        $1 == "bind" && dual_stack { sub(/:/, ":::"); $0 = $0 " v4v6" }
        sub(/[{] src [^}]*/, "{ src 127.0.0.0/8 ::1 " nodes " ") { found++ }

        # keepalived: the marked lines, which are known by their first word or by their block.
        / [{]$/ { block = $1; entries = 0 }
        $1 == "}" { block = "" }
        /# to change$/ && (block == "unicast_peer" || block == "virtual_ipaddress") {
            if (!entries++) {
                found++
                if (block == "virtual_ipaddress") line(vip " # to change")
                else for (i = 1; i <= count; i++) if (node[i] != own) line(node[i] " # to change")
            }
            next
        }
        /# to change$/ {
            value["interface"] = interface; value["priority"] = priority; value["unicast_src_ip"] = own
            if ($1 in value) { line($1 " " value[$1] " # to change"); found++; next }
        }
        { print }
        END { exit found != expected }' "$deploy/$1" >"$stage/new$3" ||
        fail "deploy/$1 is not as this script knows it: its addresses could not be filled in"
}

# Fills in all that is asked for, and has each configuration checked by the program it is for.
stage_files() {
    if [ -n "$binary" ]; then
        planned+=("$program")
        install -D -m 0755 "$binary" "$stage/new$program"
    else
        say new "$program (after building it)"
    fi
    case $with in
    xinetd)
        fill xinetd/cmonhachk 2 "$xinetd_service"
        check xinetd "$xinetd_service" serve_for_a_moment
        [ "$lock_folder" = "$disk_folder" ] || fill tmpfiles.d/cmonhachk.conf 1 "$tmpfiles"
        ;;
    systemd)
        fill systemd/cmonhachk.socket 1 "$socket"
        fill systemd/cmonhachk@.service 2 "$instance"
        check systemd-analyze "$socket" verify_units
        ;;
    esac
    if $haproxy; then
        fill haproxy/haproxy.cfg 3 "$haproxy_cfg"
        check haproxy "$haproxy_cfg" haproxy -c -f
    fi
    if $keepalived; then
        fill keepalived/keepalived.conf 5 "$keepalived_conf"
        # A node without others has nobody to talk to, and keepalived refuses an empty list of peers.
        [ "${#nodes[@]}" -gt 1 ] ||
            sed -i -e '/^ *unicast_peer/,/}/d' -e '/^ *[a-z_]*unicast_src/d' "$stage/new$keepalived_conf"
        check keepalived "$keepalived_conf" keepalived -t -f
    fi
}

check() { # PROGRAM TARGET COMMAND…
    local target=$2 checker=$1
    shift 2
    if ! command -v "$checker" >/dev/null; then
        say "not checked" "$target: $checker is not installed yet"
    else
        "$@" "$stage/new$target" >"$stage/check" 2>&1 ||
            fail "$checker refuses what would become $target, so nothing was put in place: $(cat "$stage/check")"
        say checked "$target by $checker"
    fi
}

# xinetd has no mode that only checks: the real one serves the file for a moment, elsewhere, and its
# log tells what it makes of it. Neither the server nor the user need be there yet.
serve_for_a_moment() { # FILE
    local pid said log=$stage/xinetd.log
    sed -e "s|^\( *port *=\).*|\1 $((10000 + RANDOM % 20000))|" -e 's|^\( *server *=\).*|\1 /bin/true|' \
        -e 's|^\( *user *=\).*|\1 root|' -e 's|^}|        bind = 127.0.0.1\n}|' "$1" >"$stage/xinetd.conf"
    timeout 20 xinetd -dontfork -f "$stage/xinetd.conf" -filelog "$log" -pidfile "$stage/xinetd.pid" </dev/null &
    pid=$!
    while kill -0 "$pid" 2>/dev/null && ! grep -qs 'Started working' "$log"; do sleep 0.05; done
    said=$(cat "$log")
    kill "$pid" 2>/dev/null || true
    wait "$pid" || true
    echo "$said"
    # It serves also what it has understood by half.
    [[ $said == *'Started working: 1 available'* && $said != *ERROR* && $said != *WARNING* ]]
}

# systemd only warns of most faults, and of other units' too.
verify_units() { # SOCKET
    local folder=$stage/units complaints
    mkdir "$folder"
    sed 's|^ExecStart=[^ ]*|ExecStart=/bin/true|' "$stage/new$instance" >"$folder/${instance##*/}"
    cp "$1" "$folder"
    complaints=$(systemd-analyze verify "$folder/${socket##*/}" "$folder/${instance##*/}" 2>&1 | grep cmonhachk || true)
    echo "$complaints"
    [ -z "$complaints" ]
}

# Everything that changes a file goes through place and take_away, which can be undone.
touched=() made=() stopped=() placing=false made_user=false
remember() {
    if exists "$1"; then
        mkdir -p "$(dirname "$stage/before$1")"
        cp -a "$1" "$stage/before$1"
    fi
    touched+=("$1")
}

place() { # FILE TARGET
    local folder
    folder=$(dirname "$2")
    make_folder "$folder"
    remember "$2"
    # Whole or not at all for whoever reads it meanwhile; xinetd and systemd ignore such a name.
    cp -a -T "$1" "$2.installing"
    mv -T "$2.installing" "$2"
}

make_folder() {
    if [ -d "$1" ]; then return; fi
    made=("$1" "${made[@]}")
    mkdir -p "$1"
}

take_away() {
    remember "$1"
    rm "$1"
}

roll_back() {
    local path service
    echo "install: putting everything back as it was" >&2
    for path in "${touched[@]}"; do
        rm -f "$path.installing"
        if exists "$stage/before$path"; then
            cp -a -T "$stage/before$path" "$path.installing" && mv -T "$path.installing" "$path"
        else
            rm -f "$path"
        fi
    done
    if $made_user; then
        rm -rf "$private" "$disk_folder" "$run_folder"
        userdel "$user" || true
    elif [ -e "$stage/private" ]; then
        restore_private
    fi
    for path in "${made[@]}"; do [ ! -d "$path" ] || rmdir "$path" || true; done
    for service in "${stopped[@]}"; do tell start "$service" || true; done
}

# A name beside the file, for what is kept of it. xinetd reads every file in its folder but those
# with a dot in the name; systemd only those that end like a unit.
free_name() {
    local number=1
    while exists "$1.kept-$number"; do number=$((number + 1)); done
    echo "$1.kept-$number"
}

put() { # TARGET: what was staged for it
    local target=$1 staged=$stage/new$1 sum kept=''
    sum=$(sum_of "$staged")
    if cmp -s "$staged" "$target"; then
        say unchanged "$target"
        # Whoever put the same file there before us keeps it: only ours is recorded.
        [ -z "${checksum[$target]:-}" ] || checksum[$target]=$sum
        return
    fi
    if ! exists "$target"; then
        say new "$target"
    elif [ "$(sum_of "$target")" = "${checksum[$target]:-}" ]; then
        say changed "$target"
    else
        kept=$(free_name "$target")
        say changed "$target (what was there is kept: $kept)"
    fi
    [ -n "${checksum[$target]:-}" ] || original[$target]=${kept:--}
    checksum[$target]=$sum
    note_change "$target"
    if $dry_run; then return; fi
    [ -z "$kept" ] || place "$target" "$kept"
    place "$staged" "$target"
}

take_out() { # TARGET: what was installed there, if anything was
    local target=$1 before kept='' service
    if [ -z "${checksum[$target]:-}" ]; then return; fi
    before=${original[$target]}
    service=$(service_of "$target")
    if ! exists "$target"; then
        say gone "$target (somebody has removed it)"
    elif [ "$(sum_of "$target")" = "${checksum[$target]}" ]; then
        say removed "$target"
    else
        kept=$(free_name "$target")
        say removed "$target (it was edited, and is kept: $kept)"
    fi
    unset "checksum[$target]" "original[$target]"
    changes=$((changes + 1))
    if exists "$before"; then say restored "$target (from $before)"; else before=''; fi
    if [ -z "$service" ]; then
        : # nothing runs that reads it
    elif [ -n "$before" ] || [ "$service" = xinetd ]; then
        # It goes on, with what it had before or with its other services.
        to_restart[$service]=yes
    elif is_running "$service"; then
        say stop "$service"
        # Now, for without their file init scripts do nothing at all.
        if ! $dry_run; then
            stopped+=("$service")
            tell stop "$service" || fail "$service could not be stopped: $(cat "$stage/told")"
        fi
    fi
    if $dry_run; then return; fi
    [ -z "$kept" ] || place "$target" "$kept"
    if [ -n "$before" ]; then
        place "$before" "$target"
        take_away "$before"
    elif exists "$target"; then
        take_away "$target"
    fi
}

disable_socket() {
    if [ -z "${checksum[$socket]:-}" ] || [ ! -L "$enabled" ]; then return; fi
    say removed "$enabled"
    $dry_run || take_away "$enabled"
}

enable_socket() {
    if [ -L "$enabled" ]; then return; fi
    say new "$enabled"
    note_change "$socket"
    if $dry_run; then return; fi
    ln -s "$socket" "$stage/enabled"
    place "$stage/enabled" "$enabled"
}

# /etc/services is everybody's, and one line in it is ours: nothing is kept or put back.
name_the_port() {
    if [ ! -e /etc/services ] || grep -q '^cmonhachk[[:space:]]' /etc/services; then return; fi
    checksum[/etc/services]=line original[/etc/services]=-
    # awk ends the last line, whatever it ended in.
    change_services "one more line" awk 1 /etc/services "$stage/line"
}

forget_the_port() {
    if [ -z "${checksum[/etc/services]:-}" ]; then return; fi
    unset 'checksum[/etc/services]' 'original[/etc/services]'
    if grep -qxFf "$stage/line" /etc/services; then
        change_services "without our line" other_services
    elif grep -q '^cmonhachk[[:space:]]' /etc/services; then
        say left "/etc/services (our line was edited)"
    fi
}

other_services() { grep -vxFf "$stage/line" /etc/services || true; }

change_services() { # WHAT COMMAND…: the command prints the new content
    local services
    services=$(readlink -f /etc/services)
    say changed "/etc/services ($1)"
    changes=$((changes + 1))
    if $dry_run; then return; fi
    cp -a "$services" "$stage/services"
    "${@:2}" >"$stage/services"
    place "$stage/services" "$services"
}

# The user that the checks run as: made where there is none, and remembered.
make_user() {
    local name
    for name in $(recorded_users); do original[$name]=former; done
    : "${checksum[$user]:=found}"
    original[$user]=-
    if getent passwd "$user" >/dev/null; then return; fi
    say new "user $user (no login, home $home)"
    changes=$((changes + 1))
    checksum[$user]=made
    if $dry_run; then return; fi
    make_folder "$home"
    made_user=true
    useradd --system --user-group --home-dir "$home" --no-create-home --shell /usr/sbin/nologin "$user" \
        >"$stage/useradd" 2>&1 || fail "useradd could not make the user $user: $(cat "$stage/useradd")"
}

recorded_users() {
    local name
    for name in "${!checksum[@]}"; do [[ $name == /* ]] || echo "$name"; done
}

# Those that are recorded, but for the one that the checks run as now.
remove_other_users() {
    local name
    for name in $(recorded_users); do [ "$name" = "$user" ] || remove_user "$name"; done
}

# With all it has, if it was made here.
remove_user() {
    local user=$1 path kept
    if [ "${checksum[$user]}" = made ] && getent passwd "$user" >/dev/null; then
        say removed "user $user"
        changes=$((changes + 1))
        if $dry_run; then return; fi
        # A check may still be running.
        within_seconds 10 runs_nothing || fail "$user runs processes, so it cannot be removed: end them, and try again"
        if ! is_ours "$private/s9s.conf"; then
            kept=$(free_name "$private")
            say left "$kept (somebody's own s9s.conf)"
            mv -T "$private" "$kept"
            chown -R -h root:root "$kept"
        fi
        rm -rf "$private"
        userdel "$user" >"$stage/userdel" 2>&1 || fail "userdel could not remove the user $user: $(cat "$stage/userdel")"
    fi
    unset "checksum[$user]" "original[$user]"
    for path in "${!checksum[@]}"; do
        # Not what the one has that comes after.
        if [[ $path != "$private"/* || ${user_home:-} = "$home" ]]; then continue; fi
        if [ "$(private_sum "$path")" = "${checksum[$path]}" ] && ! $dry_run; then as_user rm "$path"; fi
        unset "checksum[$path]" "original[$path]"
    done
    write_record
}

runs_nothing() { [ -z "$(find /proc -maxdepth 1 -name '[0-9]*' -user "$user")" ]; }

# As the user, or with no more rights than it will have.
as_user() {
    local name=$user
    getent passwd "$name" >/dev/null || name=nobody
    runuser -u "$name" -- "$@"
}

# The folder of the lock file, now; at the next boot, systemd sees to it.
make_lock_folder() {
    local file
    if $dry_run; then
        :
    elif [ "$lock_folder" = "$disk_folder" ]; then
        [ -d "$disk_folder" ] || made=("$disk_folder" "${made[@]}")
        install -d -m 0700 -o "$user" -g "$group" "$disk_folder"
    else
        rm -rf "$disk_folder"
        [ "$with" != xinetd ] || systemd-tmpfiles --create "$tmpfiles" || fail "systemd-tmpfiles could not make $run_folder"
    fi
    # Another user's file would be refused.
    for file in "$earlier_lock" "$lock_folder/lock"; do
        if [ ! -e "$file" ] || [[ $file != "$earlier_lock" && $(stat -c %U "$file") = "$user" ]]; then continue; fi
        say removed "$file (of no use to $user)"
        changes=$((changes + 1))
        $dry_run || rm "$file"
    done
}

# s9s reads its user's s9s.conf. The user that was made here gets what root's says, with the key that
# it names, and gets it again when root's has changed, unless somebody has edited the copy.
share_s9s_conf() {
    local conf=$private/s9s.conf source name key staged=$stage/new$private
    if [ "$user_home" != "$home" ]; then return; fi
    if [ ! -d "$private" ]; then
        say new "$private"
        changes=$((changes + 1))
        if ! $dry_run; then
            made=("$private" "${made[@]}")
            install -d -m 0700 -o "$user" -g "$group" "$private"
        fi
    fi
    source=$(getent passwd root | cut -d : -f 6)/.s9s
    name=$(setting cmon_user "$source/s9s.conf")
    if ! is_ours "$conf"; then
        say left "$conf (somebody's own)"
    elif [[ -n $name && $name != *[!A-Za-z0-9._@-]* ]]; then
        mkdir -p "$staged"
        # What s9s says of root on the databases' hosts is not for others.
        (umask 077 && sed -e '/^[[:space:]]*os_/d' -e "s|^\([[:space:]]*auth_key[[:space:]]*=\).*|\1 ~/.s9s/$name.key|" \
            "$source/s9s.conf" >"$staged/s9s.conf")
        key=$(setting auth_key "$source/s9s.conf")
        key=${key:-$source/$name.key}
        key=${key/#\~/${source%/.s9s}}
        if [ -f "$key" ]; then put_private "$key" "$private/$name.key"; fi
        put_private "$staged/s9s.conf" "$conf"
    elif [ -z "$(as_user cat "$conf" /etc/s9s.conf 2>/dev/null | setting cmon_user /dev/stdin)" ]; then
        say missing "$conf: s9s knows no user (README: \"A user for s9s\")"
    fi
}

# The last value of a setting in an s9s.conf, if there is any.
setting() { # NAME FILE
    sed -n "s/^[[:space:]]*$1[[:space:]]*=[[:space:]]*[\"']\{0,1\}\([^\"'#]*\).*/\1/p" "$2" 2>/dev/null |
        sed 's/[[:space:]]*$//' | tail -n 1 || true
}

private_sum() { as_user sha256sum "$1" 2>/dev/null | cut -d ' ' -f 1 || true; }

# Whether the file is not there, or as this script left it, or an s9s.conf that sets nothing, as s9s
# makes one where there is none.
is_ours() {
    local sum
    sum=$(private_sum "$1")
    [ -z "$sum" ] || [ "$sum" = "${checksum[$1]:-}" ] ||
        { [ "$1" = "$private/s9s.conf" ] && ! as_user grep -q '^[^#]*=' "$1"; }
}

put_private() { # FILE TARGET
    local sum before
    sum=$(sum_of "$1")
    before=$(private_sum "$2")
    if [ "$sum" = "$before" ]; then
        say unchanged "$2"
        return
    elif ! is_ours "$2"; then
        say left "$2 (somebody's own)"
        return
    elif [ -z "$before" ]; then
        say new "$2 (a copy of root's, for $user alone)"
    else
        say changed "$2 (as root's has changed)"
    fi
    checksum[$2]=$sum original[$2]=-
    changes=$((changes + 1))
    if $dry_run; then return; fi
    mkdir -p "$stage/private"
    (umask 077 && as_user cat "$2" >"$stage/private/${2##*/}" 2>/dev/null) || true
    write_private "$2" <"$1"
}

# At no moment can anybody else read it.
write_private() { # TARGET, from standard input
    # shellcheck disable=SC2016 # for the inner shell
    as_user sh -c 'umask 077 && rm -f "$1.new" && cat >"$1.new" && mv -f -T "$1.new" "$1"' sh "$1"
}

restore_private() {
    local file target
    for file in "$stage"/private/*; do
        target=$private/${file##*/}
        if [ -s "$file" ]; then write_private "$target" <"$file"; else as_user rm -f "$target"; fi
    done
}

service_of() {
    case $1 in
    "$xinetd_service") echo xinetd ;;
    "$socket" | "$instance") echo cmonhachk.socket ;;
    "$haproxy_cfg") echo haproxy ;;
    "$keepalived_conf") echo keepalived ;;
    esac
}

declare -A to_restart=()
changes=0 served=true
note_change() {
    local service
    changes=$((changes + 1))
    service=$(service_of "$1")
    [ -z "$service" ] || to_restart[$service]=yes
}

# What starts services here. A chroot's would run in the system around it, so nothing does there.
starter() {
    if [ "$(stat -c %d:%i /proc/1/root/. 2>/dev/null)" != "$(stat -c %d:%i /)" ]; then
        echo nothing
    elif [ -d /run/systemd/system ]; then
        echo systemctl
    elif [ "$1" != cmonhachk.socket ] && { $dry_run || [ -x "/etc/init.d/$1" ]; }; then
        echo service
    else
        echo nothing
    fi
}

is_running() {
    case $(starter "$1") in
    systemctl) systemctl is-active --quiet "$1" 2>/dev/null ;;
    # Not every init script knows "status".
    service) kill -0 "$(head -n 1 "/run/$1.pid" 2>/dev/null)" 2>/dev/null ;;
    nothing) false ;;
    esac
}

tell() { # start|stop|restart SERVICE
    case $(starter "$2"):$1 in
    systemctl:*) systemctl "$1" "$2" ;;
    # Init scripts wait neither until the old process is gone nor until the new one is there.
    service:stop) service "$2" stop && within_seconds 10 not_running "$2" ;;
    service:start) service "$2" start && within_seconds 10 is_running "$2" ;;
    service:restart) tell stop "$2" && tell start "$2" ;;
    nothing:*) false ;;
    esac </dev/null >"$stage/told" 2>&1
}

not_running() { ! is_running "$1"; }

within_seconds() { # SECONDS COMMAND…: tries until the command succeeds or the time is up
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$end" ] || return 1
        sleep 0.1
    done
}

# What changed is restarted, and what was to be installed is started if it does not run.
restart_services() {
    local target service by_hand
    for target in "${planned[@]}"; do
        service=$(service_of "$target")
        if [ -n "$service" ] && ! is_running "$service"; then to_restart[$service]=yes; fi
    done
    if [ "$changes" -gt 0 ] && [ "$(starter cmonhachk.socket)" = systemctl ] && ! $dry_run; then
        systemctl daemon-reload
    fi
    for service in xinetd cmonhachk.socket haproxy keepalived; do
        if [ -z "${to_restart[$service]:-}" ]; then continue; fi
        if [ "$(starter "$service")" = nothing ]; then
            by_hand="service $service restart"
            [ "$service" != cmonhachk.socket ] || by_hand="systemctl restart $service"
            say "not started" "$service: no init system runs here that could; where one does: $by_hand"
            [[ $service != xinetd && $service != cmonhachk.socket ]] || served=false
            continue
        fi
        say restart "$service"
        if $dry_run; then continue; fi
        tell restart "$service" || fail "$service did not start, though its files are in place: $(cat "$stage/told")"
    done
}

# What this node answers now and, where that is unknown, why.
ask_the_port() {
    local at=$own answer command
    [[ $own != *:* ]] || at="[$own]"
    within_seconds 10 reachable "http://$at:9201/" || fail "http://$at:9201/ does not answer, though $with was started"
    answer=$(tr -d '\r' <"$stage/answer")
    say answer "http://$at:9201/: $(head -n 1 <<<"$answer"), $(sed -n 's/^Cmonhachk-State: //p' <<<"$answer")"
    if grep -q '^Cmonhachk-State: unknown' <<<"$answer"; then
        command=(env -i "$program" --explain --lock-file "$lock_folder/lock")
        echo "This is why (runuser -u $user -- ${command[*]}):"
        as_user "${command[@]}" 2>&1 | sed 's/^/    /' || true
    fi
}

reachable() { curl --silent --noproxy '*' --include --max-time 5 --output "$stage/answer" "$1"; }

install_node() {
    local target
    find_this_node
    choose_service
    choose_user
    say node "$own, priority $priority; port 9201 by $with, checks by $user"
    install_missing_packages
    find_binary
    stage_files

    placing=true
    # Of the two that can serve the port, the other one goes.
    case $with in
    xinetd)
        disable_socket
        take_out "$socket"
        take_out "$instance"
        name_the_port
        ;;
    systemd)
        take_out "$xinetd_service"
        forget_the_port
        enable_socket
        ;;
    esac
    [ -e "$stage/new$tmpfiles" ] || take_out "$tmpfiles"
    make_user
    for target in "${planned[@]}"; do put "$target"; done
    make_lock_folder
    share_s9s_conf
    for target in "$haproxy_cfg" "$keepalived_conf"; do
        [ -z "${checksum[$target]:-}" ] || [ -e "$stage/new$target" ] ||
            say left "$target (installed earlier, not asked for now)"
    done
    write_record
    placing=false
    restart_services
    remove_other_users
    if $served && ! $dry_run; then ask_the_port; fi
}

uninstall_node() {
    local target packages=()
    placing=true
    disable_socket
    for target in "$xinetd_service" "$haproxy_cfg" "$keepalived_conf"; do
        # The services are called like their packages.
        [ -z "${checksum[$target]:-}" ] || packages+=("$(service_of "$target")")
    done
    for target in "$xinetd_service" "$tmpfiles" "$socket" "$instance" "$haproxy_cfg" "$keepalived_conf" "$program"; do
        take_out "$target"
    done
    forget_the_port
    write_record
    placing=false
    restart_services
    remove_other_users
    if $dry_run; then return; fi
    rm -rf "$run_folder" "$disk_folder" "$earlier_lock"
    for target in "$record" "$enabled"; do
        rmdir --ignore-fail-on-non-empty "$(dirname "$target")" 2>/dev/null || true
    done
    [ "${#packages[@]}" -eq 0 ] || say packages "that stay: ${packages[*]}"
}

finish() {
    local status=$?
    trap - EXIT
    trap '' INT TERM HUP
    set +e
    if $placing; then roll_back; fi
    rm -rf "$stage"
    exit "$status"
}

read_arguments "$@"
[ "$(id -u)" = 0 ] || fail "only root can do this"
command -v ip >/dev/null || fail "please install iproute2 first: there is no ip here"
command -v runuser >/dev/null || fail "please install util-linux first: there is no runuser here"
cd /
planned=()
stage=$(mktemp -d)
trap finish EXIT
trap 'exit 130' INT TERM HUP
grep '^cmonhachk' "$deploy/xinetd/services" >"$stage/line"
read_record
if $uninstall; then uninstall_node; else install_node; fi
if $dry_run; then
    echo "This was a dry run: nothing was changed."
elif [ "$changes" -eq 0 ]; then
    echo "Nothing had to be changed."
fi
