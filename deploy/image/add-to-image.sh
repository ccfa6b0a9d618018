#!/bin/sh
# Adds atedge to an image of Raspberry Pi OS: sudo deploy/image/add-to-image.sh IMAGE.img atedge_0.1.0_arm64.deb
# Needs losetup and, on a machine of another architecture, qemu-user-static with its binfmt entries.
set -eu
[ $# = 2 ] || { echo "usage: $0 IMAGE.img PACKAGE.deb" >&2; exit 2; }
image=$1 package=$2
root=$(mktemp -d)
loop=$(losetup --find --show --partscan "$image")
trap 'umount -R "$root" 2> /dev/null || true; losetup -d "$loop"; rmdir "$root"' EXIT
mount "${loop}p2" "$root"
mount "${loop}p1" "$root/boot/firmware"
cp "$package" "$root/var/tmp/atedge.deb"
cp -L /etc/resolv.conf "$root/var/tmp/resolv.conf"
mount --bind "$root/var/tmp/resolv.conf" "$root/etc/resolv.conf"
chroot "$root" sh -c 'apt-get update && apt-get install -y --no-install-recommends /var/tmp/atedge.deb && apt-get clean'
umount "$root/etc/resolv.conf"
rm "$root/var/tmp/atedge.deb" "$root/var/tmp/resolv.conf"
cp "$(dirname "$0")/atedge-provision.example.toml" "$root/boot/firmware/"
echo "$image has atedge: put atedge-provision.toml on its boot partition, and start the board"
