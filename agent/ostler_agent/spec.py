"""The agent's own values: frozen, converted from protobuf at the edge (services/convert.py)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from ostler_common.io_limits import NO_LIMITS, IoLimits
from ostler_common.secret import Secret


class DiskFormat(StrEnum):
    """Format of a volume's file, as qemu-img names it."""

    QCOW2 = "qcow2"
    RAW = "raw"


class SourceFormat(StrEnum):
    """Layout of a foreign disk image, in qemu-img's words."""

    VMDK = "vmdk"
    QCOW2 = "qcow2"
    RAW = "raw"
    VHDX = "vhdx"
    VDI = "vdi"


class Provisioning(StrEnum):
    """How much of a volume's space is allocated at its creation."""

    THIN = "thin"
    SPARSE = "sparse"
    THICK = "thick"


class Firmware(StrEnum):
    """Firmware that a VM boots with."""

    BIOS = "bios"
    UEFI = "uefi"
    UEFI_SECURE_BOOT = "uefi-secure-boot"


class PowerState(StrEnum):
    """A VM's power state, as its hypervisor reports it."""

    STOPPED = "stopped"
    RUNNING = "running"
    PAUSED = "paused"
    CRASHED = "crashed"
    ABSENT = "absent"


class PauseReason(StrEnum):
    """Why a hypervisor paused a VM by itself: a write to a disk failed."""

    NO_SPACE = "no-space"
    IO_ERROR = "io-error"


@dataclass(frozen=True)
class CpuModel:
    """A virtual CPU, in libvirt's names. features: beyond the model's; lacks: of the model's."""

    model: str
    vendor: str = ""
    features: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()


class KeyUse(StrEnum):
    """What a key opens, as libvirt names it."""

    VOLUME = "volume"
    TPM = "vtpm"


@dataclass(frozen=True)
class Key:
    """A key of a volume, or of a VM's TPM. key_id: UUID, also of the libvirt secret; passphrase: None where only the id
    is known."""

    key_id: str
    passphrase: Secret | None
    iter_time_ms: int = 10
    use: KeyUse = KeyUse.VOLUME


@dataclass(frozen=True)
class RemoteObject:
    """An object that has a volume's file. url: allows to get it, for a while; ca_pem: CAs to trust instead of the
    system's; sha256: hex."""

    url: Secret
    ca_pem: bytes
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class VolumeRef:
    """A volume in a pool, with the key that opens it (None: not encrypted). remote: where its file is, if it must be
    downloaded to be read."""

    pool_id: str
    volume_id: str
    format: DiskFormat
    key: Key | None = None
    remote: RemoteObject | None = None


@dataclass(frozen=True)
class Freeze:
    """Whether the guest's file systems were frozen when a copy of its disk began. reason: why not, for people."""

    frozen: bool
    reason: str = ""


@dataclass(frozen=True)
class VolumeInfo:
    """A volume, as read from its file.

    freeze: of a volume that has just been copied from a running VM's disk; full_reason: of a copy that might have been
    an increment: why it is not, "" if it is.
    """

    volume_id: str
    pool_id: str
    format: DiskFormat
    encrypted: bool
    virtual_size_bytes: int
    allocated_bytes: int
    freeze: Freeze | None = None
    full_reason: str | None = None


@dataclass(frozen=True)
class DiskSpec:
    """A disk of a VM; slot 0 is vda.

    serial: UUID that the guest sees as its serial number ("": the volume's id); ignore_discard: space that the guest
    frees stays allocated.
    """

    volume: VolumeRef
    slot: int
    boot: bool = False
    serial: str = ""
    limits: IoLimits = NO_LIMITS
    ignore_discard: bool = False


@dataclass(frozen=True)
class NicSpec:
    """A network interface of a VM.

    bridge: of this host, which it is on; vlan, trunk: with a VLAN tag, the tag and the bridge that has the uplink;
    mtu 0: the bridge's; filter: the host drops frames that have another sender than the VM; addresses: the IP addresses
    that the VM may then send from (a family without one is not filtered); link_down: the guest sees no cable.
    """

    mac: str
    bridge: str
    model: str = "virtio"
    vlan: int = 0
    trunk: str = ""
    mtu: int = 0
    filter: bool = False
    addresses: tuple[str, ...] = ()
    link_down: bool = False


# CD-ROM drives for ISO images that every VM has: one for an installer, one for its drivers.
MAX_CDROMS = 2


@dataclass(frozen=True)
class Cdrom:
    """An ISO image in a CD-ROM drive of a VM.

    sha256 (lower-case hex), file_size_bytes: of its file; path: of its copy on this host, once it is there
    (`isos.Isos`); boot_first: the VM tries the drive before its disks.
    """

    iso_id: str
    sha256: str
    file_size_bytes: int
    drive: int
    boot_first: bool = False
    path: Path | None = None


class VhostUser(StrEnum):
    """The role of the hypervisor in vhost-user sockets."""

    CLIENT = "client"
    SERVER = "server"


@dataclass(frozen=True)
class ExtraConfig:
    """Configuration beyond the specification: fragments of the hypervisor's own XML, for the VM and for each of its
    network interfaces. vhost_user: interfaces are such sockets instead of being on bridges."""

    domain_xml: tuple[str, ...] = ()
    interface_xml: tuple[str, ...] = ()
    vhost_user: VhostUser | None = None

    def __bool__(self) -> bool:
        return bool(self.domain_xml or self.interface_xml or self.vhost_user)


MAX_VARIABLES_BYTES, MAX_TPM_BYTES = 4 << 20, 1 << 20


@dataclass(frozen=True)
class FirmwareState:
    """What a VM's firmware keeps on its host: the variables of its UEFI, and the state of its TPM, which is encrypted;
    b"" where there is none."""

    variables: bytes = field(default=b"", repr=False)
    tpm: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class FirmwareCopy:
    """A copy of such a state. copy_id: UUID; replace: it replaces what the host has, unless the host has had this copy
    before; else it is put in place only where there is nothing."""

    copy_id: str
    state: FirmwareState
    replace: bool = False


@dataclass(frozen=True)
class VmSpec:
    """Everything a host needs to run a VM.

    seed: the files that cloud-init in the guest reads, by name; cdrom: the image that holds them on this host, once it
    is there (`seeds.Seeds`); details: those that the driver states (`DriverInfo.details`), checked against its schema;
    max_cpus, max_memory_bytes: what it may get while it runs, 0: no more than it has; machine: the machine type that it
    keeps, "" for the newest; cluster_cpus: what VMs get on the hosts of the cluster, () where all give the same;
    tpm_key: encrypts the state of its TPM, None: it has no TPM; firmware_copy: what its firmware kept elsewhere, put in
    place before it starts.
    """

    vm_id: str
    name: str
    cpus: int
    memory_bytes: int
    firmware: Firmware = Firmware.BIOS
    disks: tuple[DiskSpec, ...] = ()
    nics: tuple[NicSpec, ...] = ()
    extra: ExtraConfig = ExtraConfig()
    seed: Mapping[str, bytes] | None = field(default=None, repr=False)
    cdrom: Path | None = None
    details: Mapping[str, str] = field(default_factory=dict)
    max_cpus: int = 0
    max_memory_bytes: int = 0
    cdroms: tuple[Cdrom, ...] = ()
    machine: str = ""
    cluster_cpus: tuple[CpuModel, ...] = ()
    tpm_key: Key | None = None
    firmware_copy: FirmwareCopy | None = None

    @property
    def keys(self) -> list[Key]:
        """The keys that the VM needs to run: of its encrypted volumes, and of its TPM."""
        of_volumes = [disk.volume.key for disk in self.disks if disk.volume.key is not None]
        return of_volumes + ([self.tpm_key] if self.tpm_key else [])


@dataclass(frozen=True)
class VmInfo:
    """A VM as found on this host.

    volume_ids: its disks; managed: Ostler created it; mirror_ids: volumes that its disks are mirrored to;
    pause_reason: None unless the hypervisor paused it by itself; machine: its machine type ("" where there are none).
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
    pause_reason: PauseReason | None = None
    machine: str = ""

    @property
    def open_volume_ids(self) -> tuple[str, ...]:
        """All volumes that it has open while it runs."""
        return self.volume_ids + self.mirror_ids
