#!/bin/bash
# build-guest.sh [--vmware] [--uefi] [--fio] OUT: a tiny bootable guest, for the lab and the demo.
#
# OUT is qcow2, and boots with BIOS unless --uefi is given: then by an unsigned GRUB, and it shows the firmware's
# variables in /sys/firmware/efi/efivars. With --fio it has fio, and takes disks on virtio-scsi, too: `io` measures. With --vmware it is a stream-optimized VMDK, as vCenter exports one, of a guest that boots on pvscsi and
# not on virtio: it has what virt-v2v needs to change that (modules, a package database, update-initramfs).
#
# Busybox on Debian's cloud kernel: 64 MB disk (MBR, one ext4 partition, GRUB), boots in seconds even without KVM and
# runs in 128 MB. On the serial console it prints GUEST-UP, then "tick N" every second, and there is a root shell;
# `mark TEXT` writes a text to the root disk, `disks` tells the disks' sizes. It obeys the ACPI power button and takes
# disks, CPUs and memory while it runs (`size`); `guest-agent` starts QEMU's guest agent; `seed` mounts the CD-ROM and tells the digest of the user data on it. No loop device and no mount
# are needed, so it builds in a container, too.
set -euo pipefail
vmware= uefi= fio=
while [[ "${1:-}" == --* ]]; do
  case $1 in
    --vmware) vmware=1 ;;
    --uefi) uefi=1 ;;
    --fio) fio=1 ;;
    *) echo "unknown option $1" >&2; exit 2 ;;
  esac
  shift
done
out=$(realpath -m "${1:?OUT}")
size_mb=${vmware:+144}${fio:+160}
size_mb=${size_mb:-64}  # virt-v2v wants 50 MB free, fio's libraries take 60
uuid=11111111-2222-3333-4444-555555555555
esp_id=0157-1E40
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root="$work/root"
initramfs="$work/initramfs"

# The kernel, from Debian's package, unpacked and not installed (installing it would touch this machine's boot loader).
download() {
  (cd "$work" && { apt-get download -q "$1" || { apt-get update -q && apt-get download -q "$1"; }; }) >"$work/apt.log" 2>&1 \
    || { cat "$work/apt.log" >&2; exit 1; }
}
download linux-image-cloud-amd64
kernel_package=$(dpkg -I "$work"/linux-image-cloud-amd64_*.deb | sed -n 's/^ Depends: \(linux-image-[^ ,]*\).*/\1/p')
download "$kernel_package"
dpkg -x "$work/$kernel_package"_*.deb "$work/kernel"
version=${kernel_package#linux-image-}

busybox() { # busybox DIR: it and a link for each of its commands
  mkdir -p "$1"/{bin,dev,proc,sys}
  cp /bin/busybox "$1/bin/busybox"
  for applet in $(/bin/busybox --list); do [ "$applet" = busybox ] || ln -s busybox "$1/bin/$applet"; done
}

depmod -b "$work/kernel" "$version"
dependencies() { # dependencies MODULE...: their files in the order of loading
  for module; do modprobe -d "$work/kernel" -S "$version" --show-depends "$module" | sed -n 's/^insmod //p'; done |
    awk '!seen[$1]++ {print $1}'
}

# --- initramfs: load the drivers, mount the root disk
initramfs() { # initramfs MODULE...
  busybox "$initramfs"
  mkdir -p "$initramfs"/{lib,new}
  dependencies "$@" | while read -r file; do
    cp "$file" "$initramfs/lib/"
    basename "$file" >>"$initramfs/lib/order"
  done
  cat >"$initramfs/init" <<INIT
#!/bin/sh
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
while read -r module; do insmod "/lib/\$module"; done </lib/order
until device=\$(findfs UUID=$uuid); do sleep 0.1; done
mount -t ext4 "\$device" /new && exec switch_root /new /bin/init
INIT
  chmod 755 "$initramfs/init"
}

# --- the system
busybox "$root"
mkdir -p "$root"/{boot/grub,etc/acpi/PWRF,root,tmp}
cat >"$root/etc/inittab" <<'INITTAB'
::sysinit:/etc/rc
ttyS0::respawn:/bin/sh
::respawn:/bin/ticker
::respawn:/bin/acpid -f -c /etc/acpi -l /dev/null
::restart:/bin/init
::ctrlaltdel:/bin/reboot
::shutdown:/bin/umount -a -r
INITTAB
cat >"$root/etc/rc" <<'RC'
#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -o remount,rw /
[ ! -d /sys/firmware/efi/efivars ] || mount -t efivarfs efivarfs /sys/firmware/efi/efivars
ip link set lo up
for card in /sys/class/net/eth*; do [ -e "$card" ] && ip link set "${card##*/}" up; done
echo "GUEST-UP" >/dev/ttyS0
RC
cat >"$root/bin/ticker" <<'TICKER'
#!/bin/sh
n=0
while sleep 1; do n=$((n + 1)); echo "tick $n"; done >/dev/ttyS0
TICKER
cat >"$root/bin/mark" <<'MARK'
#!/bin/sh
# mark TEXT [DEVICE]: writes it to the root disk, or over the beginning of a data disk
if [ -n "$2" ]; then printf '%s\n' "$1" | dd of="$2" conv=notrunc 2>/dev/null; else printf '%s\n' "$1" >>/marker; fi
sync
echo "MARKED"
MARK
cat >"$root/bin/disks" <<'DISKS'
#!/bin/sh
for disk in /sys/class/block/vd?; do echo "DISK=${disk##*/} BYTES=$(($(cat "$disk/size") * 512))"; done
DISKS
cat >"$root/bin/size" <<'SIZE'
#!/bin/sh
# size: takes the CPUs and the memory that were plugged in, and tells how much there is
for cpu in /sys/devices/system/cpu/cpu[0-9]*/online; do echo 1 >"$cpu"; done 2>/dev/null
for block in /sys/devices/system/memory/memory*/state; do echo online >"$block"; done 2>/dev/null
echo "CPUS=$(grep -c ^processor /proc/cpuinfo) MIB=$(($(awk '/MemTotal/ {print $2}' /proc/meminfo) / 1024))"
SIZE
cat >"$root/bin/seed" <<'SEED'
#!/bin/sh
umount /seed 2>/dev/null
mkdir -p /seed
mount -t iso9660 -o ro "$(findfs LABEL=cidata)" /seed && echo "SEED=$(sha256sum </seed/user-data)"
SEED
cat >"$root/etc/acpi/PWRF/00000080" <<'POWER'
#!/bin/sh
echo "POWER-BUTTON" >/dev/ttyS0
poweroff
POWER
cat >"$root/etc/profile" <<'PROFILE'
PS1='guest# '
PROFILE
printf 'root:x:0:0:root:/root:/bin/sh\n' >"$root/etc/passwd"
chmod 755 "$root"/etc/rc "$root"/etc/acpi/PWRF/* "$root"/bin/{ticker,mark,disks,size,seed}

guest_agent() { # QEMU's, with its libraries: `guest-agent` starts it
  download qemu-guest-agent
  dpkg -x "$work"/qemu-guest-agent_*.deb "$work/agent"
  install -D "$work/agent/usr/sbin/qemu-ga" "$root/sbin/qemu-ga"
  ldd "$root/sbin/qemu-ga" | grep -o '/[^ ]*' | while read -r library; do install -D "$library" "$root$library"; done
  cat >"$root/bin/guest-agent" <<'AGENT'
#!/bin/sh
for port in /sys/class/virtio-ports/*; do
  [ "$(cat "$port/name")" = org.qemu.guest_agent.0 ] && device=/dev/${port##*/}
done
qemu-ga -d -m virtio-serial -p "$device" -f /tmp/qemu-ga.pid -t /tmp && echo "AGENT-STARTED"
AGENT
  cat >"$root/sbin/shutdown" <<'SHUTDOWN'
#!/bin/sh
echo "AGENT-SHUTDOWN" >/dev/ttyS0
poweroff
SHUTDOWN
  cat >"$root/sbin/chpasswd" <<'CHPASSWD'
#!/bin/sh
IFS=: read -r user password
grep -q "^$user:" /etc/passwd || exit 1
hash=$(printf '%s\n' "$password" | mkpasswd -P 0 -m sha512) && sed -i "s|^$user:[^:]*:|$user:$hash:|" /etc/passwd
CHPASSWD
  ln -s ../bin/busybox "$root/sbin/hwclock"
  printf '%s\n' 'ID=ostler-lab' 'NAME="Lab guest"' 'PRETTY_NAME="Lab guest 1.0"' 'VERSION_ID="1.0"' >"$root/etc/os-release"
  chmod 755 "$root/bin/guest-agent" "$root"/sbin/{shutdown,chpasswd}
}
fio() { # Debian's, with its libraries
  local package libraries="$work/fio/usr/lib/x86_64-linux-gnu"
  download fio
  dpkg -x "$work"/fio_*.deb "$work/fio"
  # What of its libraries is not installed here.
  for package in $(apt-get install -s --no-install-recommends fio | awk '/^Inst/ && $2 != "fio" {print $2}'); do
    download "$package"
    dpkg -x "$work/$package"_*.deb "$work/fio"
  done
  install -D "$work/fio/usr/bin/fio" "$root/usr/bin/fio"
  LD_LIBRARY_PATH="$libraries:$libraries/ceph" ldd "$root/usr/bin/fio" >"$work/fio.libraries"
  ! grep 'not found' "$work/fio.libraries" >&2 || exit 1
  grep -o '/[^ ]*' "$work/fio.libraries" | while read -r library; do install -D "$library" "$root/${library#"$work/fio"}"; done
  cat >"$root/bin/io" <<'IO'
#!/bin/sh
# io SERIAL,... FIO-OPTION...: runs fio on these disks, one after the other, and tells how many KiB a second each did
serials=$1
shift
jobs=
for serial in $(echo "$serials" | tr , ' '); do
  for disk in /sys/block/vd* /sys/block/sd*; do
    has=$(cat "$disk/serial" 2>/dev/null || tail -c +5 "$disk/device/vpd_pg80" 2>/dev/null | tr -d '\000 ')
    [ "$has" = "$serial" ] && jobs="$jobs --name=$serial --stonewall --filename=/dev/${disk##*/}"
  done
done
echo "IO-BEGIN"
fio --minimal --terse-version=3 --ioengine=libaio --direct=1 --thread --gtod_reduce=1 --norandommap "$@" $jobs >/tmp/io 2>&1
awk -F';' 'NF > 50 {print "IO=" $3 " KIBS=" $7 + $48}' /tmp/io
[ "$(grep -c ';' /tmp/io)" -gt 0 ] || cat /tmp/io
echo "IO-END"
IO
  chmod 755 "$root/bin/io"
}
pack() { (cd "$1" && find . | cpio -o -H newc --quiet | gzip -1); }
plain_boot() {
  initramfs virtio_pci virtio_blk virtio_scsi sr_mod isofs virtio_net virtio_balloon virtio_rng virtio_console button evdev ${fio:+sd_mod} ${uefi:+efivarfs}
  guest_agent
  if [ "$fio" ]; then fio; fi
  pack "$initramfs" >"$root/boot/initrd"
  cp "$work/kernel/boot/vmlinuz-$version" "$root/boot/vmlinuz"
  # linux16, because the kernel unpacks itself more than twice as fast from there when the CPU is emulated.
  local mode=16
  if [ "$uefi" ]; then mode=; fi
  cat >"$root/boot/grub/grub.cfg" <<GRUB
set timeout=0
linux$mode /boot/vmlinuz console=ttyS0 quiet loglevel=3 panic=5
initrd$mode /boot/initrd
boot
GRUB
}

# What virt-v2v looks for in a Debian guest, and runs in it: dpkg -L, update-initramfs -c -k VERSION, grub-mkconfig.
vmware_boot() {
  local drivers="vmw_pvscsi sd_mod vmxnet3" modules="lib/modules/$version"
  initramfs $drivers button evdev
  pack "$initramfs" >"$root/boot/initrd.img-$version"
  cp "$work/kernel/boot/"{vmlinuz,config}-"$version" "$root/boot/"
  cat >"$root/boot/grub/grub.cfg" <<GRUB
set timeout=0
menuentry Debian {
  linux /boot/vmlinuz-$version root=UUID=$uuid ro console=ttyS0 quiet loglevel=3 panic=5
  initrd /boot/initrd.img-$version
}
GRUB
  dependencies $drivers virtio_pci virtio_blk virtio_net button evdev | while read -r file; do
    install -D -m 644 "$file" "$root/${file#"$work/kernel/"}"
  done
  cp "$work/kernel/$modules"/modules.{builtin,order,builtin.modinfo} "$root/$modules/"
  depmod -b "$root" "$version"
  mkdir -p "$root"/{sbin,usr/bin,usr/sbin,var/lib/dpkg/info,etc/initramfs-tools,etc/modprobe.d,etc/default}
  tr ' ' '\n' <<<"$drivers button evdev" >"$root/etc/initramfs-tools/modules"
  echo 'GRUB_CMDLINE_LINUX="console=ttyS0"' >"$root/etc/default/grub"
  echo "UUID=$uuid / ext4 rw 0 1" >"$root/etc/fstab"
  if [ "$uefi" ]; then
    mkdir "$root/boot/efi"
    echo "UUID=$esp_id /boot/efi vfat rw 0 1" >>"$root/etc/fstab"
  fi
  echo 12.0 >"$root/etc/debian_version"
  printf '%s\n' 'ID=debian' 'NAME="Debian GNU/Linux"' 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"' 'VERSION_ID="12"' \
    >"$root/etc/os-release"
  # qemu-guest-agent is pretended: virt-v2v would have it installed at the first boot.
  for package in "$kernel_package" qemu-guest-agent; do
    printf '%s\n' "Package: $package" 'Status: install ok installed' 'Architecture: amd64' 'Version: 1:7.2-1' \
      'Description: pretended' ''
  done >"$root/var/lib/dpkg/status"
  (cd "$root" && find "boot/vmlinuz-$version" "boot/config-$version" "$modules" | sed 's,^,/,') \
    >"$root/var/lib/dpkg/info/$kernel_package.list"
  rm -f "$root/bin/dpkg"
  printf '#!/bin/sh\n[ "$1" = -L ] && exec cat "/var/lib/dpkg/info/$2.list"\n' >"$root/bin/dpkg"
  ln -s ../../bin/dpkg "$root/usr/bin/dpkg"
  printf '#!/bin/sh\ncat /boot/grub/grub.cfg\n' >"$root/usr/sbin/grub-mkconfig"
  # Busybox alone: unpacks the initramfs that there is, adds what the list of modules wants, packs it again.
  cat >"$root/usr/sbin/update-initramfs" <<'UPDATE'
#!/bin/sh
# update-initramfs [-v] -c -k VERSION
while [ $# -gt 0 ]; do if [ "$1" = -k ]; then version=$2; shift; fi; shift; done
work=$(mktemp -d /tmp/initramfs.XXXXXX)
cd "$work" || exit 1
old=$(ls /boot/initrd.img-"$version"* | head -n 1)
zcat "$old" | cpio -id || exit 1
modules=/lib/modules/$version
for module in $(grep -v '^#' /etc/initramfs-tools/modules); do
  line=$(grep "/$(echo "$module" | sed 's/[_-]/[_-]/g')\.ko:" "$modules/modules.dep") || continue
  files=
  for file in ${line%%:*} ${line#*:}; do files="$file $files"; done  # a module comes after those that it needs
  for file in $files; do
    [ -e "lib/${file##*/}" ] && continue
    cp "$modules/$file" lib/ && echo "${file##*/}" >>lib/order
  done
done
find . | cpio -o -H newc | gzip -1 >"/boot/initrd.img-$version"
cd / && rm -r "$work"
UPDATE
  chmod 755 "$root"/bin/dpkg "$root"/usr/sbin/*
}
if [ "$vmware" ]; then vmware_boot; else plain_boot; fi

# --- the disk
raw="$work/guest.raw"
file_system() { # file_system START_MB: the root disk's, to the end of the partition
  mke2fs -q -t ext4 -U "$uuid" -O ^metadata_csum_seed,^orphan_file -d "$root" -E "offset=$(($1 << 20))" "$raw" "$((size_mb - 1))M"
}
bios_disk() {
  local modules=/usr/lib/grub/i386-pc
  truncate -s "${size_mb}M" "$raw"
  echo '2048,,L,*' | sfdisk -q "$raw"
  file_system 1
  grub-mkimage -O i386-pc -d "$modules" -p '(hd0,msdos1)/boot/grub' -o "$work/core.img" biosdisk part_msdos ext2 normal linux linux16 configfile
  dd if="$modules/boot.img" of="$raw" bs=440 count=1 conv=notrunc status=none
  dd if="$work/core.img" of="$raw" bs=512 seek=1 conv=notrunc status=none
}
uefi_disk() { # an EFI system partition of 16 MB first, and room for both partition tables
  truncate -s "$((size_mb + 17))M" "$raw"
  printf '%s\n' 'label: gpt' '2048,32768,U' '34816,,L' | sfdisk -q "$raw"
  file_system 17
  grub-mkimage -O x86_64-efi -d /usr/lib/grub/x86_64-efi -p '(hd0,gpt2)/boot/grub' -o "$work/BOOTX64.EFI" part_gpt ext2 normal linux configfile
  truncate -s 16M "$work/esp"
  mkfs.vfat -i "${esp_id/-/}" "$work/esp" >"$work/vfat.log"
  mmd -i "$work/esp" ::/EFI ::/EFI/BOOT ::/EFI/debian
  mcopy -i "$work/esp" "$work/BOOTX64.EFI" ::/EFI/BOOT/
  mcopy -i "$work/esp" "$root/boot/grub/grub.cfg" ::/EFI/debian/  # virt-v2v looks for one there
  dd if="$work/esp" of="$raw" bs=1M seek=1 conv=notrunc status=none
}
if [ "$uefi" ]; then uefi_disk; else bios_disk; fi
mkdir -p "$(dirname "$out")"
if [ "$vmware" ]; then
  qemu-img convert -q -O vmdk -o subformat=streamOptimized,adapter_type=lsilogic "$raw" "$out.part"
else
  qemu-img convert -q -O qcow2 "$raw" "$out.part"
fi
mv "$out.part" "$out"
