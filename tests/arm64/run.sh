#!/usr/bin/env bash
# Tests the arm64 package where it belongs: boots Debian's own arm64 kernel under qemu, with a root in
# memory, and runs guest.sh in it. The suite does not run there: many of its tests measure times that an
# emulated processor does not keep. Needs root, and the package of deploy/package.sh.
set -euo pipefail

cd "$(dirname "$0")/../.."
# shellcheck source=tests/packages.sh
. tests/packages.sh

needs_root
compgen -G 'target/dist/*_arm64.deb' >/dev/null || fail "there is no arm64 package: see deploy/package.sh"
provide qemu-system-aarch64:qemu-system-arm cpio:cpio
tests/root.sh arm64

umask 022
folder=$(mktemp --directory "${TMPDIR:-/tmp}/cmonhachk-arm64.XXXXXX")
qemu=
trap '[ -z "$qemu" ] || { kill "$qemu" && wait "$qemu"; } 2>/dev/null; rm -rf "$folder"' EXIT
trap 'exit 1' INT TERM

# What this adds to the root: the package, the simulated client, and guest.sh as a service.
new=$folder/new
mkdir -p "$new"/opt/cluster "$new"/usr/local/bin "$new"/etc/{default,systemd/system/{cmonhachk.service,multi-user.target}.d}
cp -r tests/lists tests/arm64/guest.sh target/dist/*_arm64.deb "$new/opt"
cp tests/sim/s9s "$new/usr/local/bin"
printf '%s\t2.3.4\tsystem\tadmins\tcc-%s.example.net\t192.0.2.%s\t9501\tNone.\n' f a 11 l b 12 f c 113 >"$new/opt/cluster/controllers"
chmod 777 "$new/opt/cluster"
printf 'CMONHACHK_TIMEOUT=60\nCMONHACHK_MAX_AGE=0\n' >"$new/etc/default/cmonhachk"
printf '[Service]\nEnvironment=S9S_SIM=/opt/cluster\nReadWritePaths=/opt/cluster\n' \
    >"$new/etc/systemd/system/cmonhachk.service.d/simulation.conf"
printf '[Service]\nExecStart=bash /opt/guest.sh\nStandardOutput=tty\nTTYPath=/dev/ttyAMA0\n' \
    >"$new/etc/systemd/system/guest.service"
printf '[Unit]\nWants=guest.service\n' >"$new/etc/systemd/system/multi-user.target.d/guest.conf"

archive() { cpio --null --create --format newc --quiet >>"$folder/initrd"; }
root=target/roots/arm64
dpkg-deb --fsys-tarfile "$root"/var/cache/apt/archives/linux-image-[0-9]*.deb |
    tar --extract --to-stdout --wildcards './boot/vmlinuz-*' >"$folder/kernel"
(cd "$root" && find . \( -path ./var/cache -o -path ./var/lib/apt/lists -o -path ./usr/share/locale \) -prune -o -print0 | archive)
(cd "$new" && find . -print0 | archive)

timeout 1200 qemu-system-aarch64 -machine virt -cpu cortex-a72 -smp 2 -m 1536 -nodefaults -nographic -no-reboot -serial stdio \
    -kernel "$folder/kernel" -initrd "$folder/initrd" \
    -append 'console=ttyAMA0 rdinit=/sbin/init panic=-1 loglevel=1 systemd.show_status=false' </dev/null >"$folder/log" 2>&1 &
qemu=$!
wait "$qemu" || fail "qemu ended with status $?: $(tail -n 30 "$folder/log")"
qemu=
said=$(tr -d '\r' <"$folder/log" | sed -n '/^ok /,/^done /p')
printf '%s\n' "$said"
[ "$(grep --count '^ok ' <<<"$said")" = "$(sed -n 's/^done \([0-9]*\),.*/\1/p' <<<"$said")" ] || fail "not all is ok on arm64"
