"""An installer on an ISO image: it boots from CD-ROM, writes the lab's guest onto the first disk, and reboots."""

from __future__ import annotations

import gzip
import subprocess
from io import BytesIO
from pathlib import Path

import pycdlib

from tests.lab.guest import guest_image

_GRUB = Path("/usr/lib/grub/i386-pc")
_MENU = b"""set timeout=0
linux16 /vmlinuz console=ttyS0 quiet loglevel=3 panic=5
initrd16 /initrd
boot
"""
# GRUB misreads the last sectors of a CD-ROM, which is why other makers of ISO images pad them, too.
_PADDING = 1 << 20
# The disk's content is in the initramfs: Debian's kernel for clouds has no driver for SATA, which the drive is on.
_INIT = """#!/bin/sh
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
while read -r module; do insmod "/lib/$module"; done </lib/order
echo "INSTALLING" >/dev/ttyS0
until [ -b /dev/vda ]; do sleep 0.1; done
gunzip -c /disk.gz | dd of=/dev/vda bs=1M
sync
echo "INSTALLED" >/dev/ttyS0
reboot -f
"""


def installer_iso(directory: Path) -> Path:
    """Makes the image in a directory; takes some seconds."""
    raw, core, kernel, initrd = (directory / name for name in ("guest.raw", "core.img", "vmlinuz", "initrd"))
    _run("qemu-img", "convert", "-O", "raw", guest_image(), raw)
    for file in (kernel, initrd):
        _run("debugfs", "-R", f"dump /boot/{file.name} {file}", f"{raw}?offset={1 << 20}")
    modules = ("biosdisk", "iso9660", "normal", "linux", "linux16", "configfile")
    _run("grub-mkimage", "-O", "i386-pc-eltorito", "-d", _GRUB, "-p", "(cd)/", "-o", core, *modules)
    image = pycdlib.PyCdlib()
    image.new(interchange_level=3, vol_ident="INSTALLER")
    files = {
        "/CORE.IMG;1": core.read_bytes(),
        "/GRUB.CFG;1": _MENU,
        "/VMLINUZ.;1": kernel.read_bytes(),
        "/INITRD.;1": _initramfs(initrd.read_bytes(), gzip.compress(raw.read_bytes(), 6)),
    }
    for name, content in files.items():
        image.add_fp(BytesIO(content), len(content), name)
    image.add_eltorito("/CORE.IMG;1", bootcatfile="/BOOT.CAT;1", boot_info_table=True, boot_load_size=4)
    path = directory / "installer.iso"
    image.write(str(path))
    image.close()
    with path.open("ab") as end:
        end.write(bytes(_PADDING))
    return path


def _initramfs(old: bytes, disk: bytes) -> bytes:
    """The guest's own initramfs with another /init, and with the disk's content: archives may follow each other."""
    return old + gzip.compress(_archive({"init": _INIT.encode(), "disk.gz": disk}), 1)


def _archive(files: dict[str, bytes]) -> bytes:
    """A cpio archive (newc) of executable files."""
    out = b""
    for number, (name, content) in enumerate([*files.items(), ("TRAILER!!!", b"")], 1):
        fields = (number, 0o100755, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
        out += head + bytes(-len(head) % 4) + content + bytes(-len(content) % 4)
    return out


def _run(*argv: object) -> None:
    subprocess.run([str(word) for word in argv], check=True, capture_output=True, stdin=subprocess.DEVNULL)


def unsigned_iso(directory: Path) -> Path:
    """Makes an image for PCs with UEFI, whose boot loader nobody has signed: GRUB, which shows its prompt, "grub>"."""
    loader, fat = directory / "BOOTX64.EFI", directory / "efi.img"
    _run("grub-mkimage", "-O", "x86_64-efi", "-p", "/", "-o", loader, "normal")
    fat.write_bytes(bytes(4 << 20))
    _run("mformat", "-i", fat, "::")
    _run("mmd", "-i", fat, "::/EFI", "::/EFI/BOOT")
    _run("mcopy", "-i", fat, loader, "::/EFI/BOOT/BOOTX64.EFI")
    image = pycdlib.PyCdlib()
    image.new(interchange_level=3, vol_ident="UNSIGNED")
    content = fat.read_bytes()
    image.add_fp(BytesIO(content), len(content), "/EFI.IMG;1")
    image.add_eltorito("/EFI.IMG;1", bootcatfile="/BOOT.CAT;1", efi=True, platform_id=0xEF)
    path = directory / "unsigned.iso"
    image.write(str(path))
    image.close()
    return path
