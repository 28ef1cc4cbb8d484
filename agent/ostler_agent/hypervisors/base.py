"""The interface between the agent and a hypervisor driver.

A driver offers single steps. The agent combines them in `vms/` and `migration/`: ask the guest to shut down, wait, then
force the VM off. Drivers know nothing of pools: `Paths` returns the path of a volume's file. Calls block, and several
threads may call at the same time.

Every driver implements the core, `Hypervisor`. The protocols after it are optional, one per function: a driver
implements a protocol if and only if it states the function (`DriverInfo.functions`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Protocol, runtime_checkable

from ostler_common.hypervisors import Function, not_supported
from ostler_common.io_limits import IoLimits

from ostler_agent.hypervisors.firmware import FirmwareStates
from ostler_agent.hypervisors.foreign import Adoption
from ostler_agent.hypervisors.guest import GuestAgent
from ostler_agent.hypervisors.info import DriverInfo
from ostler_agent.hypervisors.interaction import ConsoleLog, Screen, SendKey
from ostler_agent.hypervisors.media import CdromDrives
from ostler_agent.hypervisors.memory import MemorySnapshot
from ostler_agent.looks import LOOKS, Look
from ostler_agent.spec import DiskSpec, Freeze, Key, NicSpec, VmInfo, VmSpec, VolumeRef

Paths = Callable[[VolumeRef], Path]


class Progress(Protocol):
    """The job that a long call is part of (`jobs.JobContext`)."""

    def report(self, phase: str, done: int = 0, total: int = 0, percent: int | None = None) -> None:
        """Reports progress. phase: a few lower-case words; done, total: bytes; percent: of the whole job."""

    def check(self) -> None:
        """Raises CancelledError (or another error that ends the job) if the job must stop."""


class VmEventKind(StrEnum):
    """What happened to a VM. The names are those of `VmEvent.Kind` in host.proto."""

    DEFINED = "DEFINED"
    UNDEFINED = "UNDEFINED"
    STARTED = "STARTED"
    STOPPED = "STOPPED"
    PAUSED = "PAUSED"
    RESUMED = "RESUMED"
    CRASHED = "CRASHED"
    MIGRATED = "MIGRATED"
    REBOOTED = "REBOOTED"


@dataclass(frozen=True)
class VmEvent:
    """An event that the hypervisor reports. vm: its current state; detail: the cause in the hypervisor's words; look:
    when that state had been read."""

    kind: VmEventKind
    vm: VmInfo
    detail: str
    time: datetime
    look: Look = field(default_factory=LOOKS.next)


class Listener(Protocol):
    """Receives events. The driver calls it from its own thread: it must neither block nor call the driver."""

    def vm_event(self, event: VmEvent) -> None:
        """Receives an event of a VM."""

    def reconnected(self) -> None:
        """The connection to the hypervisor is back after an interruption: events may have been missed."""


@dataclass(frozen=True)
class DiskCounters:
    """Counters of a disk since the VM's start. device: the name that the hypervisor has for it."""

    device: str
    read_bytes: int = 0
    write_bytes: int = 0
    reads: int = 0
    writes: int = 0


@dataclass(frozen=True)
class NicCounters:
    """Counters of a NIC since the VM's start, as the guest sees them. interface: its name on the host."""

    interface: str
    receive_bytes: int = 0
    transmit_bytes: int = 0
    receive_packets: int = 0
    transmit_packets: int = 0
    receive_drops: int = 0
    transmit_drops: int = 0


@dataclass(frozen=True)
class VmSample:
    """Counters of a running VM. guest_used_bytes: as the balloon device reports it, 0 if it does not.

    dirty_rate_bytes_per_s: last measured rate at which the guest writes its memory, 0 if not measured. disks, nics: ()
    from a driver that cannot measure them.
    """

    vm_id: str
    cpu_time_ns: int
    rss_bytes: int
    guest_used_bytes: int
    dirty_rate_bytes_per_s: int = 0
    disks: tuple[DiskCounters, ...] = ()
    nics: tuple[NicCounters, ...] = ()


class Console(Protocol):
    """A VM's serial console, with one holder at a time. `read` and `write` may be called from different threads."""

    def read(self) -> bytes:
        """Waits for bytes from the guest; b"" at the end of the console (VM stopped or migrated away, `close`).

        Raises AbortedError CONSOLE_TAKEN if another caller took it over by force.
        """

    def write(self, data: bytes) -> None:
        """Sends bytes to the guest. At the end of the console it has no effect."""

    def close(self) -> None:
        """Releases the console. Idempotent."""


class Hypervisor(Protocol):
    """An open driver. vm_id: the VM's UUID. Raises NotFoundError VM_NOT_FOUND if a VM must exist and does not."""

    @property
    def info(self) -> DriverInfo:
        """What the driver states about itself."""

    def close(self) -> None:
        """Disconnects from the hypervisor. VMs keep running."""

    def vm(self, vm_id: str) -> VmInfo:
        """Returns a VM's current state; power state ABSENT if it is not on this host."""

    def vms(self) -> list[VmInfo]:
        """Returns every VM of the hypervisor, managed or not."""

    def running(self, vm_id: str) -> bool:
        """Whether the VM is running on this host (or paused in memory)."""

    def using(self, volume_id: str) -> str | None:
        """UUID of the running VM that has the volume attached, if any."""

    def define(self, spec: VmSpec, paths: Paths) -> None:
        """Creates or replaces the definition. Raises FailedPreconditionError VM_RUNNING if the VM is running."""

    def start(self, spec: VmSpec, paths: Paths) -> None:
        """Defines the VM, installs its keys and starts it. No effect on a running VM.

        If it raises, the VM does not run and no key is left. Raises FailedPreconditionError DISK_IN_USE if another VM
        has a disk open for writing, VOLUME_MISSING if a disk's file does not exist, WRONG_KEY.
        """

    def shut_down(self, vm_id: str) -> None:
        """Asks the guest to shut down and returns at once. May raise FailedPreconditionError VM_NOT_RUNNING."""

    def power_off(self, vm_id: str) -> None:
        """Forces the VM off and removes its keys. Succeeds if the VM is stopped or absent."""

    def delete(self, vm_id: str) -> None:
        """Deletes a stopped VM's definition and firmware variables, but not its volumes. Succeeds if it is absent.

        Raises FailedPreconditionError VM_RUNNING.
        """

    def console(self, vm_id: str, force: bool) -> Console:
        """Opens the serial console. force: takes it over from its holder.

        Raises FailedPreconditionError CONSOLE_BUSY, VM_NOT_RUNNING.
        """

    def samples(self) -> list[VmSample]:
        """Returns the counters of every running VM."""

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Sends events to the listener from now on; call the result to unsubscribe."""


@runtime_checkable
class Reboot(Protocol):
    """Optional part of a driver: `Function.REBOOT`."""

    def reboot(self, vm_id: str, hard: bool) -> None:
        """Asks the guest to reboot; hard: resets it. Raises FailedPreconditionError VM_NOT_RUNNING."""


@runtime_checkable
class HotPlug(Protocol):
    """Optional part of a driver: `Function.HOT_PLUG`. Without it, a VM has the disks of its latest definition."""

    def attach(self, vm_id: str, disk: DiskSpec, path: Path) -> None:
        """Attaches a disk to a running VM and to its definition. Idempotent.

        Raises FailedPreconditionError SLOT_TAKEN, VOLUME_ATTACHED (in another slot).
        """

    def detach(self, vm_id: str, volume_id: str, key_id: str | None, timeout_s: float, progress: Progress) -> None:
        """Detaches a disk from a running VM and from its definition, and removes its key. Idempotent.

        Waits for the guest to release it. Raises DeadlineExceededError DETACH_TIMEOUT, FailedPreconditionError
        DETACH_REFUSED.
        """


@runtime_checkable
class NicHotPlug(Protocol):
    """Optional part of a driver: `Function.NIC_HOT_PLUG`."""

    def attach_nic(self, vm_id: str, nic: NicSpec) -> None:
        """Adds a network interface to a running VM and to its definition. Idempotent.

        Raises NotFoundError VM_NOT_FOUND, FailedPreconditionError VM_NOT_RUNNING.
        """

    def detach_nic(self, vm_id: str, mac: str, timeout_s: float, progress: Progress) -> None:
        """Removes a network interface from a running VM and from its definition. Idempotent.

        Waits for the guest to release it. Raises DeadlineExceededError DETACH_TIMEOUT, FailedPreconditionError
        DETACH_REFUSED.
        """


@runtime_checkable
class DiskLimits(Protocol):
    """Optional part of a driver: `Function.IO_LIMITS`. `define`, `start` and `attach` obey `DiskSpec.limits`."""

    def limit_disk(self, vm_id: str, volume_id: str, limits: IoLimits) -> None:
        """Replaces the I/O limits of a running VM's disk, also in its definition. Idempotent.

        They stay through a migration, and when the disk's data moves to another file. Raises FailedPreconditionError
        VM_NOT_RUNNING, NotFoundError VOLUME_NOT_ATTACHED.
        """


@runtime_checkable
class NicLink(Protocol):
    """Optional part of a driver: `Function.NIC_LINK`. `define` and `start` obey `NicSpec.link_down`."""

    def set_nic_link(self, vm_id: str, mac: str, up: bool) -> None:
        """Sets the link of a running VM's interface, also in its definition. Idempotent.

        Raises FailedPreconditionError VM_NOT_RUNNING, NotFoundError NIC_NOT_FOUND.
        """


class AddressSource(StrEnum):
    """Who says that a guest uses an address. The names are those of `SeenAddress.Source` in vm.proto."""

    GUEST_AGENT = "GUEST_AGENT"
    NEIGHBOR_TABLE = "NEIGHBOR_TABLE"


@dataclass(frozen=True)
class SeenAddress:
    """An IP address that a guest is seen to use on the interface with this MAC address."""

    mac: str
    address: str
    source: AddressSource


@runtime_checkable
class GuestAddresses(Protocol):
    """Optional part of a driver: `Function.GUEST_ADDRESSES`."""

    def guest_addresses(self, vm_id: str) -> list[SeenAddress]:
        """Returns the addresses that a running VM uses, as it claims; none if it does not run. Takes seconds at most.

        The guest can say anything: the agent checks what it says (`vms.addresses`).
        """


@runtime_checkable
class LiveResize(Protocol):
    """Optional part of a driver: `Function.LIVE_RESIZE`. A VM can grow to `VmSpec.max_cpus` and `max_memory_bytes`."""

    def resize(self, vm_id: str, cpus: int, memory_bytes: int) -> None:
        """Gives a running VM this many CPUs and this much memory, also in its definition. Idempotent.

        `vm` reports the new size at once; the guest may take its time. Raises FailedPreconditionError VM_NOT_RUNNING;
        RESIZE_NEEDS_STOP for less than the VM has, more than its maximum, or memory in other steps than
        MEMORY_STEP_BYTES: then nothing has changed.
        """


@runtime_checkable
class OnlineGrow(Protocol):
    """Optional part of a driver: `Function.ONLINE_GROW`."""

    def grow_disk(self, vm_id: str, volume_id: str, size_bytes: int) -> None:
        """Grows a disk of a running VM: the file and the size that the guest sees.

        Raises FailedPreconditionError VOLUME_SHRINK, VM_NOT_RUNNING; NotFoundError VOLUME_NOT_ATTACHED.
        """


@runtime_checkable
class Screenshot(Protocol):
    """Optional part of a driver: `Function.SCREENSHOT`."""

    def screenshot(self, vm_id: str) -> bytes:
        """Returns the screen as PNG. Raises FailedPreconditionError VM_NOT_RUNNING."""


class MirrorState(StrEnum):
    """The state of a mirror. PIVOTED: the VM uses it as its disk."""

    NONE = "none"
    COPYING = "copying"
    READY = "ready"
    PIVOTED = "pivoted"


@runtime_checkable
class LiveCopy(Protocol):
    """Optional part of a driver, `Function.ONLINE_COPY`: copies and mirrors the disks of running VMs.

    A target is an empty image of the disk's size. The driver installs its key, and removes it with the target. Copies
    and mirrors continue if the agent dies; the next run of the agent calls `end_copy` and `cancel_mirror`. Raises
    AbortedError DISK_BUSY during another copy or mirror of the disk, or a migration of the VM.
    """

    def copy_disk(self, vm_id: str, volume_id: str, target: VolumeRef, path: Path, progress: Progress) -> Freeze:
        """Copies a disk as of one moment into the target, while the guest runs.

        The guest agent freezes the guest's file systems for that moment, if it answers.

        If it raises, nothing writes to the target any more, and the VM keeps running unless its guest has stopped
        (FailedPreconditionError VM_STOPPED). Raises ResourceExhaustedError POOL_FULL, AbortedError COPY_FAILED.
        """

    def end_copy(self, vm_id: str, key_id: str | None, path: Path) -> None:
        """Ends a `copy_disk` to that path which an earlier run of the agent began, and thaws the guest's file systems.

        Succeeds if there is none.
        """

    def mirror_disk(self, vm_id: str, volume_id: str, target: VolumeRef, path: Path, progress: Progress) -> None:
        """Mirrors a disk; returns once the target equals the disk and receives each write before it completes.

        If it raises, there is no mirror, and the VM keeps running unless its guest has stopped (FailedPreconditionError
        VM_STOPPED). Raises AbortedError MIRROR_FAILED.
        """

    def mirror_state(self, vm_id: str, source: VolumeRef, target: VolumeRef) -> MirrorState:
        """Returns the state of a mirror; NONE also if the VM is absent, or stopped with the source as its disk."""

    def pivot_disk(self, vm_id: str, source: VolumeRef, target: VolumeRef) -> None:
        """Switches the VM and its definition to the mirror, and removes the source's key. Idempotent.

        Raises FailedPreconditionError MIRROR_NOT_READY, MIRROR_MISSING.
        """

    def cancel_mirror(self, vm_id: str, source: VolumeRef, target: VolumeRef) -> None:
        """Ends a mirror. Succeeds if there is none. Raises FailedPreconditionError PIVOTED if it is the VM's disk."""


@dataclass(frozen=True)
class DiskCopy:
    """A disk of a running VM, and the empty image of its size that it is copied into.

    since: id of the backup to build on, "" for none.
    """

    volume_id: str
    target: VolumeRef
    path: Path
    since: str = ""


@runtime_checkable
class Backup(Protocol):
    """Optional part of a driver, `Function.ONLINE_BACKUP`: copies several disks of a running VM as of one moment.

    The driver installs the targets' keys, and removes them at the end. A copy continues if the agent dies; the next run
    of the agent calls `end_copies`. Raises AbortedError DISK_BUSY during another copy or mirror of the VM's disks, or a
    migration of the VM.
    """

    def copy_disks(self, vm_id: str, copies: Sequence[DiskCopy], progress: Progress) -> Freeze:
        """Copies disks as of one moment into their targets, while the guest runs.

        The guest agent freezes the guest's file systems for that moment, if it answers.

        If it raises, nothing writes to the targets any more, and the VM keeps running unless its guest has stopped
        (FailedPreconditionError VM_STOPPED). Raises ResourceExhaustedError POOL_FULL, AbortedError COPY_FAILED.
        """

    def end_copies(self, vm_id: str, copies: Sequence[DiskCopy]) -> None:
        """Ends a `copy_disks` which an earlier run of the agent began, and thaws the guest's file systems.

        Succeeds if there is none.
        """


@runtime_checkable
class IncrementalBackup(Backup, Protocol):
    """Optional part of a driver, `Function.INCREMENTAL_BACKUP`: copies only what was written since an earlier backup.

    It includes `Backup`. Without it all backups of running VMs are full.
    """

    def copy_increments(
        self, vm_id: str, copies: Sequence[DiskCopy], backup_id: str, progress: Progress
    ) -> tuple[Freeze, Mapping[str, str]]:
        """Copies like `copy_disks`, and begins to record, at the same moment, what is written since backup_id.

        A disk whose `since` was recorded is copied as far as it was written since. Records of other backups are
        dropped, that of `since` stays. Returns by volume id why the whole disk was copied, "" if it was not.
        """


@dataclass(frozen=True)
class Addresses:
    """The addresses at which a host receives migrations; only the driver, the same on both hosts, interprets them.

    hypervisor_uri: of the hypervisor; migrate_uri: for memory; disks_uri: for disk data, "" if no disk moves.
    """

    hypervisor_uri: str
    migrate_uri: str
    disks_uri: str


@dataclass(frozen=True)
class Destination:
    """The destination of a migration, and what differs there.

    tls_name: name in the certificate of the destination's QEMU; paths: file of each volume by volume id; keys: id of
    each encrypted volume's key by volume id; bridges: by MAC address; moved: volumes whose data moves with the VM.
    """

    addresses: Addresses
    tls_name: str
    paths: Mapping[str, Path]
    keys: Mapping[str, str]
    bridges: Mapping[str, str]
    moved: Sequence[str] = ()


@dataclass(frozen=True)
class MigrationLimits:
    """Limits of a migration. bandwidth_bytes_per_s 0: unlimited."""

    max_downtime_ms: int = 300
    timeout_s: int = 3600
    bandwidth_bytes_per_s: int = 0
    auto_converge: bool = True


@dataclass(frozen=True)
class MigrationReport:
    """The statistics of a migration."""

    elapsed_ms: int = 0
    downtime_ms: int = 0
    transferred_bytes: int = 0
    dirty_rate_bytes_per_s: int = 0


class MigrationOutcome(StrEnum):
    """The outcome of a migration, by the state of the VM on the source."""

    MOVED = "moved"
    RUNNING_HERE = "running-here"
    STOPPED_HERE = "stopped-here"


@runtime_checkable
class LiveMigration(Protocol):
    """Optional part of a driver, `Function.LIVE_MIGRATION`: migrates running VMs to a host with the same driver."""

    def addresses(self, host: str) -> Addresses:
        """Returns this host's addresses. host: its name or address as in its certificate; IPv6 in brackets."""

    def check_addresses(self, addresses: Addresses) -> None:
        """Raises InvalidArgumentError for an address that must not receive VMs, e.g. one without encryption."""

    def install_keys(self, vm_id: str, keys: Sequence[Key]) -> None:
        """Installs the keys of a VM that will migrate to this host."""

    def remove_keys(self, vm_id: str, key_ids: Sequence[str]) -> None:
        """Removes keys unless the VM is running on this host."""

    def migrate(
        self, vm_id: str, destination: Destination, limits: MigrationLimits, progress: Progress
    ) -> MigrationReport:
        """Migrates a running VM and removes it from this host.

        If it raises, the VM still runs on this host, unless its guest has stopped (FailedPreconditionError VM_STOPPED).
        Raises DeadlineExceededError MIGRATION_TIMEOUT, CancelledError, AbortedError MIGRATION_FAILED.
        """

    def await_migration(self, vm_id: str, timeout_s: float, progress: Progress) -> MigrationOutcome:
        """Waits for a migration that an earlier run began, aborts it at the timeout, and returns the outcome."""


# The functions that have calls, with their protocols.
PARTS: Mapping[Function, type] = {
    Function.REBOOT: Reboot,
    Function.HOT_PLUG: HotPlug,
    Function.NIC_HOT_PLUG: NicHotPlug,
    Function.IO_LIMITS: DiskLimits,
    Function.NIC_LINK: NicLink,
    Function.GUEST_ADDRESSES: GuestAddresses,
    Function.GUEST_AGENT: GuestAgent,
    Function.LIVE_RESIZE: LiveResize,
    Function.ONLINE_GROW: OnlineGrow,
    Function.ONLINE_COPY: LiveCopy,
    Function.ONLINE_BACKUP: Backup,
    Function.INCREMENTAL_BACKUP: IncrementalBackup,
    Function.MEMORY_SNAPSHOT: MemorySnapshot,
    Function.SCREEN: Screen,
    Function.SCREENSHOT: Screenshot,
    Function.CONSOLE_LOG: ConsoleLog,
    Function.SEND_KEY: SendKey,
    Function.LIVE_MIGRATION: LiveMigration,
    Function.ISO: CdromDrives,
    Function.ADOPTION: Adoption,
    Function.FIRMWARE_STATE: FirmwareStates,
}


class Stated(Protocol):
    """Has a driver's statement, e.g. a `Hypervisor`."""

    @property
    def info(self) -> DriverInfo: ...


def need(hypervisor: Stated, function: Function) -> None:
    """Raises FailedPreconditionError FUNCTION_NOT_SUPPORTED if the driver does not state the function."""
    if function not in hypervisor.info.functions:
        raise not_supported(function, hypervisor.info.type)


def live_migration(hypervisor: Hypervisor) -> LiveMigration:
    """Returns the migration part of a driver. Raises FailedPreconditionError FUNCTION_NOT_SUPPORTED."""
    need(hypervisor, Function.LIVE_MIGRATION)
    assert isinstance(hypervisor, LiveMigration)  # ensured by `registry.check_parts`
    return hypervisor
