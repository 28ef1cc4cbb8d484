"""What a source of imports has: its VMs as values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

GIB = 1 << 30


class Power(StrEnum):
    """Whether a VM executes."""

    ON = "on"
    OFF = "off"
    SUSPENDED = "suspended"


class DiskKind(StrEnum):
    """What is behind a disk."""

    FILE = "file"
    RDM_VIRTUAL = "rdm-virtual"
    RDM_PHYSICAL = "rdm-physical"
    OTHER = "other"


class Tools(StrEnum):
    """State of VMware Tools in the guest."""

    RUNNING = "running"
    NOT_RUNNING = "not-running"
    NOT_INSTALLED = "not-installed"


@dataclass(frozen=True)
class Image:
    """A file of a KVM host with a part of a disk. format: "qcow2" or "raw"; encrypted: with LUKS."""

    path: str
    format: str
    encrypted: bool = False


@dataclass(frozen=True)
class Problem:
    """Something of a VM that does not map. refuses: the VM cannot be imported, else the thing is lost."""

    code: str
    text: str
    refuses: bool


@dataclass(frozen=True)
class Disk:
    """A disk of a VM.

    key: the device key, which names the disk for good; controller: the API's type of it ("ParaVirtualSCSIController");
    bus_number and unit: its place there; independent: whether snapshots leave it out; shared: whether other VMs may
    write it; datastore: its name; has_parent: whether it is a snapshot's delta; images: on a KVM host the files that it
    consists of, the guest's own first.
    """

    key: int
    label: str
    capacity_bytes: int
    controller: str = ""
    bus_number: int = 0
    unit: int = 0
    kind: DiskKind = DiskKind.FILE
    independent: bool = False
    shared: bool = False
    encrypted: bool = False
    datastore: str = ""
    file_name: str = ""
    has_parent: bool = False
    change_id: str = ""
    images: tuple[Image, ...] = ()

    @property
    def address(self) -> tuple[str, int, int]:
        """Where it is plugged in: what export leases name it by."""
        return self.controller, self.bus_number, self.unit

    @property
    def needs_passphrase(self) -> bool:
        """Whether LUKS encrypts a file of it."""
        return any(image.encrypted for image in self.images)


@dataclass(frozen=True)
class Nic:
    """A network interface. model: "vmxnet3", "e1000"...; network: the port group's name."""

    key: int
    label: str
    model: str
    mac: str
    network: str
    connected: bool = True


@dataclass(frozen=True)
class SourceVm:
    """A VM on VMware or on a KVM host.

    ref: managed object id ("vm-12") or UUID, which stays when the VM is renamed; guest_id: "ubuntu64Guest" or
    "ubuntu22.04"; firmware: "bios" or "efi"; snapshots: how many; host and cluster: names, "" when unknown;
    used_bytes: what its files take on datastores; export_bytes: what its exported files take, 0 when unknown;
    accessible: whether its host answers; passthrough: labels of devices that belong to a host; change_tracking:
    whether changed block tracking is on; tracking_supported: whether it could be; revision: changes with the VM's
    configuration; problems: what does not map, told by a KVM host.
    """

    ref: str
    name: str
    power: Power
    guest_id: str = ""
    guest_name: str = ""
    firmware: str = "bios"
    secure_boot: bool = False
    cpus: int = 1
    cores_per_socket: int = 1
    memory_bytes: int = GIB
    disks: tuple[Disk, ...] = ()
    nics: tuple[Nic, ...] = ()
    snapshots: int = 0
    tools: Tools = Tools.NOT_INSTALLED
    host: str = ""
    host_ref: str = ""
    cluster: str = ""
    used_bytes: int = 0
    export_bytes: int = 0
    template: bool = False
    accessible: bool = True
    encrypted: bool = False
    tpm: bool = False
    fault_tolerant: bool = False
    passthrough: tuple[str, ...] = ()
    change_tracking: bool = False
    tracking_supported: bool = True
    revision: str = ""
    problems: tuple[Problem, ...] = ()

    @property
    def capacity_bytes(self) -> int:
        """All its disks together."""
        return sum(disk.capacity_bytes for disk in self.disks)

    @property
    def is_windows(self) -> bool:
        """Whether the guest is Windows, as VMware's guest id says ("windows9Server64Guest", "winXPProGuest")."""
        return self.guest_id.lower().startswith("win")


@dataclass(frozen=True)
class Datastore:
    """A datastore as one host sees it."""

    ref: str
    name: str
    free_bytes: int
    capacity_bytes: int
    usable: bool
