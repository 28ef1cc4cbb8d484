"""What a hypervisor driver is to the rest of the agent.

A driver says what its hypervisor can be made to do, one step each; what is done with the steps (ask the guest, wait,
then pull the plug) is in `vms/` and `migration/`. Drivers know nothing of pools: `Paths` tells where a volume's file
is. Calls block; they are made from worker threads and may be made from several at once.

`Hypervisor` is the core that every driver has. What a driver may lack are the protocols after it, one a function: a
driver has their calls exactly when it states the function (`DriverInfo.functions`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Protocol, runtime_checkable

from ostler_common.hypervisors import Function, not_supported

from ostler_agent.hypervisors.info import DriverInfo
from ostler_agent.spec import DiskSpec, Key, VmInfo, VmSpec, VolumeRef

Paths = Callable[[VolumeRef], Path]


class Progress(Protocol):
    """What long work sees of the job it is part of (`jobs.JobContext`)."""

    def report(self, phase: str, done: int = 0, total: int = 0, percent: int | None = None) -> None:
        """Tells how far the work has come; done and total in bytes."""

    def check(self) -> None:
        """Raises CancelledError (or another error that ends the job) once the job is to stop."""


class VmEventKind(StrEnum):
    """What happened to a VM; the names are the wire's."""

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
    """Something that the hypervisor says happened. vm: as it is now; detail: the hypervisor's word for why."""

    kind: VmEventKind
    vm: VmInfo
    detail: str
    time: datetime


class Listener(Protocol):
    """Hears of VMs. Called from the driver's own thread: must not block, nor call the driver."""

    def vm_event(self, event: VmEvent) -> None:
        """Something happened to a VM."""

    def reconnected(self) -> None:
        """The hypervisor was out of reach and is back: anything may have happened meanwhile."""


@dataclass(frozen=True)
class VmSample:
    """Counters of an executing VM. guest_used_bytes: what its balloon says; 0 when it does not.

    dirty_rate_bytes_per_s: how fast the guest writes its memory, as last measured; 0 when it was not.
    """

    vm_id: str
    cpu_time_ns: int
    rss_bytes: int
    guest_used_bytes: int
    dirty_rate_bytes_per_s: int = 0


class Console(Protocol):
    """A VM's serial console, held by one at a time. Both ends may be used from different threads."""

    def read(self) -> bytes:
        """Waits for bytes from the guest; b"" when the console is over (VM stopped or moved away, `close`).

        Raises AbortedError CONSOLE_TAKEN when somebody else took it by force.
        """

    def write(self, data: bytes) -> None:
        """Hands bytes to the guest."""

    def close(self) -> None:
        """Lets go; repeating it is harmless."""


class Hypervisor(Protocol):
    """A driver at work. A VM is named by its UUID; NotFoundError VM_NOT_FOUND where it must exist and does not."""

    @property
    def info(self) -> DriverInfo:
        """What the driver states."""

    def close(self) -> None:
        """Lets go of the hypervisor; VMs run on."""

    def vm(self, vm_id: str) -> VmInfo:
        """The VM as it is; one that is not here has power state ABSENT."""

    def vms(self) -> list[VmInfo]:
        """Every VM that the hypervisor knows, managed or not."""

    def running(self, vm_id: str) -> bool:
        """Whether the VM executes here (or is paused in memory)."""

    def using(self, volume_id: str) -> str | None:
        """UUID of the executing VM that has the volume attached, if any."""

    def define(self, spec: VmSpec, paths: Paths) -> None:
        """Writes the definition in place of any older one; FailedPreconditionError VM_RUNNING when it executes."""

    def start(self, spec: VmSpec, paths: Paths) -> None:
        """Defines the VM and starts it with its keys in place; one that executes already is left alone.

        When it fails, no key stays behind.
        """

    def shut_down(self, vm_id: str) -> None:
        """Asks the guest to shut down and returns at once."""

    def power_off(self, vm_id: str) -> None:
        """Pulls the plug and takes the keys away; a VM that is stopped or not here is a success."""

    def delete(self, vm_id: str) -> None:
        """Forgets a stopped VM with its firmware's variables; one that is not here is a success.

        FailedPreconditionError VM_RUNNING when it executes.
        """

    def console(self, vm_id: str, force: bool) -> Console:
        """Connects to the serial console; FailedPreconditionError CONSOLE_BUSY unless force takes it over."""

    def samples(self) -> list[VmSample]:
        """The counters of every executing VM."""

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Tells the listener of events from now on; the result ends that."""


@runtime_checkable
class Reboot(Protocol):
    """Optional part of a driver: `Function.REBOOT`."""

    def reboot(self, vm_id: str, hard: bool) -> None:
        """Asks the guest to reboot, or resets it."""


@runtime_checkable
class HotPlug(Protocol):
    """Optional part of a driver: `Function.HOT_PLUG`. Without it a VM's disks are those of its latest definition."""

    def attach(self, vm_id: str, disk: DiskSpec, path: Path) -> None:
        """Attaches a disk now, if the VM executes, and for its next start. Attached already is a success."""

    def detach(self, vm_id: str, volume_id: str, key_id: str | None, timeout_s: float, progress: Progress) -> None:
        """Detaches a disk, now and for the next start, and takes its key away. Detached already is a success.

        Waits for the guest to let go: DeadlineExceededError DETACH_TIMEOUT, FailedPreconditionError DETACH_REFUSED.
        """


@runtime_checkable
class OnlineGrow(Protocol):
    """Optional part of a driver: `Function.ONLINE_GROW`."""

    def grow_disk(self, vm_id: str, volume_id: str, size_bytes: int) -> None:
        """Grows a disk of an executing VM, file and guest's view; never shrinks."""


@runtime_checkable
class Screenshot(Protocol):
    """Optional part of a driver: `Function.SCREENSHOT`."""

    def screenshot(self, vm_id: str) -> bytes:
        """A picture of the screen, PNG."""


class MirrorState(StrEnum):
    """How far a mirror of a disk is. PIVOTED: the VM has it for its disk."""

    NONE = "none"
    COPYING = "copying"
    READY = "ready"
    PIVOTED = "pivoted"


@runtime_checkable
class LiveCopy(Protocol):
    """Optional part of a driver, `Function.ONLINE_COPY`: what an executing VM's disk holds, in another volume too.

    A target is an image of the disk's size that was made for this and is empty; its key is put in place, and taken
    away with it. Copies and mirrors go on when the agent dies: `end_copy` and `cancel_mirror` are for its next life.
    AbortedError DISK_BUSY while something of the kind is under way already, or the VM is moving.
    """

    def copy_disk(self, vm_id: str, volume_id: str, target: VolumeRef, path: Path, progress: Progress) -> None:
        """Writes a disk into the target as it is at one moment, while the guest goes on.

        When it raises, nothing writes to the target any more, and the VM executes unless its guest stopped meanwhile
        (FailedPreconditionError VM_STOPPED). ResourceExhaustedError POOL_FULL, AbortedError COPY_FAILED.
        """

    def end_copy(self, vm_id: str, key_id: str | None, path: Path) -> None:
        """Ends a `copy_disk` to that path which an earlier life of the agent began; none is a success."""

    def mirror_disk(self, vm_id: str, volume_id: str, target: VolumeRef, path: Path, progress: Progress) -> None:
        """Returns once the target holds all that the disk does, and gets each of the guest's writes before it is done.

        When it raises, there is no mirror, and the VM executes unless its guest stopped meanwhile
        (FailedPreconditionError VM_STOPPED). AbortedError MIRROR_FAILED.
        """

    def mirror_state(self, vm_id: str, source: VolumeRef, target: VolumeRef) -> MirrorState:
        """How far it is; NONE also when the VM is stopped and has the source for its disk, or is not here."""

    def pivot_disk(self, vm_id: str, source: VolumeRef, target: VolumeRef) -> None:
        """Has the VM, and its definition, use the mirror alone; the source's key is taken away. Repeating is harmless.

        FailedPreconditionError MIRROR_NOT_READY, MIRROR_MISSING.
        """

    def cancel_mirror(self, vm_id: str, source: VolumeRef, target: VolumeRef) -> None:
        """Ends a mirror; none is a success. FailedPreconditionError PIVOTED when the VM has the target for its disk."""


@dataclass(frozen=True)
class Addresses:
    """Where a host takes VMs that move to it, in the words of the driver that both hosts have.

    hypervisor_uri: of its hypervisor; migrate_uri: for the memory; disks_uri: for the disks' data, "" when none moves.
    """

    hypervisor_uri: str
    migrate_uri: str
    disks_uri: str


@dataclass(frozen=True)
class Destination:
    """Where a VM moves to and what differs there.

    tls_name: of the certificate that QEMU shows over there.
    paths: file of each volume over there by volume id; keys: id of each encrypted volume's key over there by volume id;
    bridges: by MAC; moved: volumes whose data moves too.
    """

    addresses: Addresses
    tls_name: str
    paths: Mapping[str, Path]
    keys: Mapping[str, str]
    bridges: Mapping[str, str]
    moved: Sequence[str] = ()


@dataclass(frozen=True)
class MigrationLimits:
    """How a move may go. bandwidth_bytes_per_s 0: no limit."""

    max_downtime_ms: int = 300
    timeout_s: int = 3600
    bandwidth_bytes_per_s: int = 0
    auto_converge: bool = True


@dataclass(frozen=True)
class MigrationReport:
    """How a move went."""

    elapsed_ms: int = 0
    downtime_ms: int = 0
    transferred_bytes: int = 0
    dirty_rate_bytes_per_s: int = 0


class MigrationOutcome(StrEnum):
    """What the source's hypervisor says of a VM that was moving."""

    MOVED = "moved"
    RUNNING_HERE = "running-here"
    STOPPED_HERE = "stopped-here"


@runtime_checkable
class LiveMigration(Protocol):
    """Optional part of a driver, `Function.LIVE_MIGRATION`: moving running VMs to another host with the same driver."""

    def addresses(self, host: str) -> Addresses:
        """Where this host takes VMs. host: what other hosts reach it by, as its certificate says; IPv6 in brackets."""

    def check_addresses(self, addresses: Addresses) -> None:
        """Raises InvalidArgumentError for an address that no VM is sent to, as one where it would travel in clear."""

    def install_keys(self, vm_id: str, keys: Sequence[Key]) -> None:
        """Puts keys in place for a VM that is to come."""

    def remove_keys(self, vm_id: str, key_ids: Sequence[str]) -> None:
        """Takes keys away unless the VM executes here."""

    def migrate(
        self, vm_id: str, destination: Destination, limits: MigrationLimits, progress: Progress
    ) -> MigrationReport:
        """Moves a running VM. When it returns the VM is gone from here; when it raises the VM executes here still,
        unless its guest stopped meanwhile (FailedPreconditionError VM_STOPPED).

        DeadlineExceededError MIGRATION_TIMEOUT, CancelledError, AbortedError MIGRATION_FAILED.
        """

    def await_migration(self, vm_id: str, timeout_s: float, progress: Progress) -> MigrationOutcome:
        """Waits for a move begun earlier to end, stops it after the timeout, and tells how it ended."""


# Functions that are calls, with the calls.
PARTS: Mapping[Function, type] = {
    Function.REBOOT: Reboot,
    Function.HOT_PLUG: HotPlug,
    Function.ONLINE_GROW: OnlineGrow,
    Function.ONLINE_COPY: LiveCopy,
    Function.SCREENSHOT: Screenshot,
    Function.LIVE_MIGRATION: LiveMigration,
}


class Stated(Protocol):
    """Something that says what its driver states, e.g. a `Hypervisor`."""

    @property
    def info(self) -> DriverInfo: ...


def need(hypervisor: Stated, function: Function) -> None:
    """Raises FailedPreconditionError FUNCTION_NOT_SUPPORTED when the driver does not state the function."""
    if function not in hypervisor.info.functions:
        raise not_supported(function, hypervisor.info.type)


def live_migration(hypervisor: Hypervisor) -> LiveMigration:
    """The part that moves VMs. Raises FailedPreconditionError FUNCTION_NOT_SUPPORTED."""
    need(hypervisor, Function.LIVE_MIGRATION)
    assert isinstance(hypervisor, LiveMigration)  # `registry.check_parts` has made sure
    return hypervisor
