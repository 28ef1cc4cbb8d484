"""From a VM on VMware to a VM of the fleet: what it will be, as values. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ostler_control.catalog.firmware import SECURE_BOOT
from ostler_control.vmware.inventory import SourceVm

# The converted guest has virtio drivers; models that QEMU has as well are kept, for the guest knows them already.
_NIC_MODELS = {"e1000": "e1000", "e1000e": "e1000e"}
_FIRMWARE = {"efi": "uefi"}

# Beginnings of VMware's guest ids (VirtualMachineGuestOsIdentifier); the first one that fits counts.
_GUEST_IDS = (
    ("win", "windows"),
    ("ubuntu", "ubuntu"),
    ("debian", "debian"),
    ("rhel", "rhel"),
    ("centos", "centos"),
    ("rocky", "rocky"),
    ("almalinux", "almalinux"),
    ("oraclelinux", "oracle-linux"),
    ("fedora", "fedora"),
    ("sles", "sles"),
    ("opensuse", "opensuse"),
    ("suse", "sles"),
    ("amazonlinux", "amazon-linux"),
    ("coreos", "coreos"),
    ("vmwarephoton", "photon"),
    ("freebsd", "freebsd"),
    ("solaris", "solaris"),
    ("darwin", "macos"),
)


@dataclass(frozen=True)
class TargetNic:
    """A network interface of the new VM. network: its id."""

    network: str
    mac: str
    model: str


@dataclass(frozen=True)
class TargetVm:
    """The new VM without its disks. guest_os: one word ("ubuntu", "windows", "linux", "other")."""

    name: str
    cpus: int
    memory_bytes: int
    firmware: str
    guest_os: str
    nics: tuple[TargetNic, ...]


def target_vm(source: SourceVm, name: str, networks: Mapping[str, str], *, secure_boot: bool = False) -> TargetVm:
    """What a VM becomes. networks: ids of the fleet's by the names of VMware's; all are mapped, as `preflight` has
    found; secure_boot: its host can boot with it."""
    return TargetVm(
        name=name,
        cpus=source.cpus,
        memory_bytes=source.memory_bytes,
        firmware=SECURE_BOOT if secure_boot and wants_secure_boot(source) else _FIRMWARE.get(source.firmware, "bios"),
        guest_os=guest_os(source.guest_id),
        nics=tuple(TargetNic(networks[nic.network], nic.mac, nic_model(nic.model)) for nic in source.nics),
    )


def wants_secure_boot(source: SourceVm) -> bool:
    """Whether it boots with secure boot: that setting alone means nothing to a BIOS."""
    return source.secure_boot and source.firmware == "efi"


def nic_model(model: str) -> str:
    """The device model for one of VMware's ("vmxnet3")."""
    return _NIC_MODELS.get(model, "virtio")


def guest_os(guest_id: str) -> str:
    """One word for VMware's guest id ("ubuntu64Guest")."""
    lower = guest_id.lower()
    for beginning, word in _GUEST_IDS:
        if lower.startswith(beginning):
            return word
    return "linux" if "linux" in lower else "other"


def disk_size_bytes(capacity_bytes: int) -> int:
    """A disk's size in the fleet: whole MiB, never less than it was."""
    return -(-capacity_bytes >> 20) << 20
