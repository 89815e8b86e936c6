#!/usr/bin/env bash
# Runs as a service in each machine that run.sh boots, as an administrator's shell: carries out the commands
# that come through the channel. They may use the functions here.
set -u

cd /opt || exit
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
# The address of this node; systemd has the number from the kernel's command line.
own=10.0.0.10${node:?}
audit=/var/log/audit/audit.log
# The denials up to this line are known.
seen=/opt/seen

# What is there besides the package: cmon's settings and the UI, which shows the number of its node.
prepare() {
    echo "RPC_BIND_ADDRESSES=127.0.0.1,$own" >/etc/default/cmon
    echo CMONHACHK_TIMEOUT=8 >/etc/default/cmonhachk
    echo "$node" >ui/index.html
    lead 1
}

# install_rpm OPTION FILE: installs the package, whose HAProxy then gives an emulated processor less to do, and more
# time for it.
install_rpm() {
    rpm "$1" --nodeps "$2" &&
        sed -i -e 's/timeout check 2s/timeout check 9s/; s/TIMEOUT_CHECK 2s/TIMEOUT_CHECK 9s/; s/inter 1s fastinter 1010ms downinter 250ms/inter 2s downinter 1s/' \
            -e 's/agent-inter 250ms/agent-inter 1s/' /usr/share/cmonhachk/haproxy.cfg
}

# lead NODE: from now on, s9s lists this node as the leader.
lead() {
    local number role
    {
        echo 'S VERSION OWNER  GROUP  NAME  IP         PORT COMMENT'
        for number in 1 2; do
            role=f
            if [ "$number" = "$1" ]; then role=l; fi
            echo "$role 2.3.4   system admins node$number 10.0.0.10$number 9501 None."
        done
        echo 'Total: 2 controller(s)'
    } >cluster/new
    mv cluster/new cluster/list
    echo 'print /opt/cluster/list' >cluster/behaviour
}

# allow_ports: what `semanage port -a -t http_port_t -p tcp 9201` and the same for 9600 do; there is no semanage.
allow_ports() {
    cp ports/selinux/targeted/policy/policy.* /etc/selinux/targeted/policy/
    load_policy
}

# What the check of this node says.
state() { curl --silent --include --max-time 10 http://127.0.0.1:9201/ | tr -d '\r' | sed -n 's/^Cmonhachk-.*: //p' | xargs; }

# start_first UNIT OTHER: the order of the two at the next boot.
start_first() {
    mkdir -p "/etc/systemd/system/$1.service.d"
    printf '[Unit]\nBefore=%s.service\n' "$2" >"/etc/systemd/system/$1.service.d/order.conf"
}

# main_pid UNIT: the process of the service.
main_pid() { systemctl show --property MainPID --value "$1"; }

# kills UNIT: ends its process as a crash would.
kills() { kill -KILL "$(main_pid "$1")"; }

# What has been denied since the last call, without what is known to be harmless; each once, without its numbers.
denials() {
    local from
    from=$(cat $seen 2>/dev/null || echo 0)
    wc -l <$audit >$seen
    { tail -n +$((from + 1)) $audit; journalctl --quiet --dmesg --output cat; } | grep 'avc: *denied' |
        sed 's/.*denied/denied/; s/ \(pid\|ino\|dev\)=[^ ]*//g; s/ *$//' | harmful | sort | uniq --count
}

harmful() {
    # Debian's own programs: newer than the policy, or in other places than Fedora's.
    grep -vE 'comm="(systemd-[^"]*|ldconfig)"' |
        # HAProxy sets the mode of its socket, and it gets that mode.
        grep -vE '\{ fsetid \} .*comm="haproxy" .*:haproxy_t:.* tclass=capability' |
        # keepalived's shell looks for the program ip when keepalived starts. It does not need it.
        grep -vE '\{ getattr \} .*comm="sh" .*:keepalived_t:.*:ifconfig_exec_t:.* tclass=file'
}

# What of the package and the front is there.
left() {
    rpm --query --all 'cmonhachk*'
    pgrep --list-full 'cmonhachk|haproxy'
    ip -oneline address show to 10.0.0.130
    systemctl list-units --state active,failed --plain --no-legend 'cmonhachk*'
    ls -d /run/cmonhachk* /run/keepalived-cmonhachk* /etc/haproxy/cmonhachk* /etc/keepalived/cmonhachk* 2>/dev/null
}

# carry_out COMMAND: what it prints, and its status in the last line.
carry_out() {
    local said status
    said=$(eval "$1" 2>&1 </dev/null)
    status=$?
    printf '%s\nend %d\n' "$said" "$status" | sed '/^$/d'
}

until [ -e /dev/virtio-ports/driver ]; do sleep 0.2; done
exec 3<>/dev/virtio-ports/driver
carry_out 'cut -d . -f 1 /proc/uptime' >&3
while read -r command <&3; do carry_out "$(base64 --decode <<<"$command")" >&3; done
