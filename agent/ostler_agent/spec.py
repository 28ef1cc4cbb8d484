"""What the agent works with inside: frozen values, made from protobuf at the edge (services/convert.py)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ostler_common.secret import Secret


class DiskFormat(StrEnum):
    """Layout of a volume's file, in qemu-img's words."""

    QCOW2 = "qcow2"
    RAW = "raw"


class Provisioning(StrEnum):
    """How much space a volume takes from the start."""

    THIN = "thin"
    SPARSE = "sparse"
    THICK = "thick"


class Firmware(StrEnum):
    """What a VM boots with."""

    BIOS = "bios"
    UEFI = "uefi"


class PowerState(StrEnum):
    """Whether a VM executes, as its hypervisor says."""

    STOPPED = "stopped"
    RUNNING = "running"
    PAUSED = "paused"
    CRASHED = "crashed"
    ABSENT = "absent"


@dataclass(frozen=True)
class Key:
    """A volume's key. key_id: UUID, also the libvirt secret's; passphrase: None where only the id is known."""

    key_id: str
    passphrase: Secret | None
    iter_time_ms: int = 10


@dataclass(frozen=True)
class VolumeRef:
    """A volume in a pool, with what is needed to open it (key None: plain)."""

    pool_id: str
    volume_id: str
    format: DiskFormat
    key: Key | None = None


@dataclass(frozen=True)
class VolumeInfo:
    """A volume as its file says."""

    volume_id: str
    pool_id: str
    format: DiskFormat
    encrypted: bool
    virtual_size_bytes: int
    allocated_bytes: int


@dataclass(frozen=True)
class DiskSpec:
    """A disk of a VM; slot 0 is vda. serial: UUID that the guest knows it by, whatever file is behind it ("": its)."""

    volume: VolumeRef
    slot: int
    boot: bool = False
    serial: str = ""


@dataclass(frozen=True)
class NicSpec:
    """A network interface of a VM."""

    mac: str
    bridge: str
    model: str = "virtio"


@dataclass(frozen=True)
class VmSpec:
    """Everything a host needs to run a VM."""

    vm_id: str
    name: str
    cpus: int
    memory_bytes: int
    firmware: Firmware = Firmware.BIOS
    disks: tuple[DiskSpec, ...] = ()
    nics: tuple[NicSpec, ...] = ()


@dataclass(frozen=True)
class VmInfo:
    """A VM as found on this host. managed: its definition carries Ostler's metadata.

    volume_ids: its disks; mirror_ids: volumes that disks are being mirrored to.
    """

    vm_id: str
    name: str
    power_state: PowerState
    cpus: int
    memory_bytes: int
    volume_ids: tuple[str, ...]
    managed: bool
    migrating: bool = False
    mirror_ids: tuple[str, ...] = ()

    @property
    def open_volume_ids(self) -> tuple[str, ...]:
        """All volumes that it has open while it executes."""
        return self.volume_ids + self.mirror_ids
