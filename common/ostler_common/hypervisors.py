"""Functions that a hypervisor type may support, named the same for agents, control plane and people."""

from __future__ import annotations

from enum import StrEnum

from ostler_common.errors import FailedPreconditionError

# Running VMs get memory in multiples of this: Linux guests on x86 add it in blocks of this size.
MEMORY_STEP_BYTES = 128 << 20


class Function(StrEnum):
    """Something that a type of hypervisor supports or does not; each type's driver states which.

    A host may still lack what its type supports (no UEFI firmware installed): that is what probes find.
    """

    LIVE_MIGRATION = "live-migration"
    HOT_PLUG = "hot-plug"
    ONLINE_GROW = "online-grow"
    ONLINE_COPY = "online-copy"
    IO_LIMITS = "io-limits"
    ONLINE_BACKUP = "online-backup"
    INCREMENTAL_BACKUP = "incremental-backup"
    MEMORY_SNAPSHOT = "memory-snapshot"
    VOLUME_ENCRYPTION = "volume-encryption"
    DIRECT_DOWNLOAD = "direct-download"
    INSTANCE_CONVERSION = "instance-conversion"
    LIVE_RESIZE = "live-resize"
    REBOOT = "reboot"
    SCREEN = "screen"
    SCREENSHOT = "screenshot"
    CONSOLE_LOG = "console-log"
    SEND_KEY = "send-key"
    UEFI = "uefi"
    SECURE_BOOT = "secure-boot"
    TPM = "tpm"
    FIRMWARE_STATE = "firmware-state"
    NICS = "nics"
    NIC_FILTER = "nic-filter"
    NIC_HOT_PLUG = "nic-hot-plug"
    NIC_LINK = "nic-link"
    GUEST_ADDRESSES = "guest-addresses"
    GUEST_AGENT = "guest-agent"
    EXTRA_CONFIG = "extra-config"
    USER_DATA = "user-data"
    ISO = "iso"
    MACHINE_TYPE = "machine-type"
    ADOPTION = "adoption"

    @property
    def summary(self) -> str:
        """What it is, for people."""
        return _SUMMARIES[self]


_SUMMARIES = {
    Function.LIVE_MIGRATION: "migrating a running VM to another host",
    Function.HOT_PLUG: "attaching and detaching volumes while the VM runs",
    Function.ONLINE_GROW: "growing a volume while its VM runs",
    Function.ONLINE_COPY: "copying and mirroring a volume while its VM runs",
    Function.IO_LIMITS: "limiting the I/O of disks, also while the VM runs",
    Function.ONLINE_BACKUP: "copying all disks of a running VM as of one moment",
    Function.INCREMENTAL_BACKUP: "backing up only what a running VM has written since its last backup",
    Function.MEMORY_SNAPSHOT: "keeping a running VM's memory in a snapshot, and continuing the VM from it",
    Function.VOLUME_ENCRYPTION: "VMs with encrypted volumes",
    Function.DIRECT_DOWNLOAD: "downloading templates directly into a pool",
    Function.INSTANCE_CONVERSION: "converting guests of other hypervisors",
    Function.LIVE_RESIZE: "adding CPUs and memory while the VM runs",
    Function.REBOOT: "rebooting and resetting a running VM",
    Function.SCREEN: "reaching a VM's screen with a VNC viewer",
    Function.SCREENSHOT: "pictures of a VM's screen",
    Function.SEND_KEY: "pressing keys of a VM's keyboard",
    Function.CONSOLE_LOG: "keeping what guests print on their serial consoles",
    Function.UEFI: "booting VMs with UEFI",
    Function.SECURE_BOOT: "booting VMs with UEFI that starts only signed programs",
    Function.TPM: "VMs with an emulated TPM 2.0",
    Function.FIRMWARE_STATE: "carrying UEFI variables and the state of a TPM to another host",
    Function.NICS: "VMs with network interfaces",
    Function.NIC_FILTER: "dropping frames of VMs that have another sender than the VM",
    Function.NIC_HOT_PLUG: "adding and removing network interfaces while the VM runs",
    Function.NIC_LINK: "setting the link of a network interface up or down",
    Function.GUEST_ADDRESSES: "showing the IP addresses that a guest is seen to use",
    Function.GUEST_AGENT: "asking the guest agent: what the guest says of itself, its time, its passwords and SSH keys",
    Function.EXTRA_CONFIG: "extra configuration in libvirt's XML",
    Function.USER_DATA: "giving guests user data on a CD-ROM",
    Function.MACHINE_TYPE: "keeping a VM's machine type through upgrades of the hypervisor",
    Function.ISO: "ISO images in CD-ROM drives, changed also while the VM runs",
    Function.ADOPTION: "taking VMs over from other tools, and handing them back",
}


def not_supported(function: Function, type_name: str) -> FailedPreconditionError:
    """The refusal of a function that a hypervisor type does not support."""
    return FailedPreconditionError(
        f"hypervisors of type {type_name} do not support {function}: {function.summary}",
        "FUNCTION_NOT_SUPPORTED",
        {"function": str(function), "hypervisor_type": type_name},
    )
