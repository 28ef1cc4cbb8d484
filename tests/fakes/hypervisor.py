"""A hypervisor in memory, behind the drivers' protocol, that does as it is told to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ostler_agent.hypervisors.base import (
    Addresses,
    Destination,
    DiskCopy,
    Listener,
    MigrationLimits,
    MigrationOutcome,
    MigrationReport,
    MirrorState,
    Paths,
    Progress,
    SeenAddress,
    VmSample,
)
from ostler_agent.hypervisors.foreign import ForeignVm
from ostler_agent.hypervisors.guest import GuestInfo
from ostler_agent.hypervisors.libvirt.addresses import check, own
from ostler_agent.hypervisors.libvirt.info import INFO
from ostler_agent.spec import (
    DiskSpec,
    FirmwareCopy,
    FirmwareState,
    Freeze,
    Key,
    NicSpec,
    PowerState,
    VmInfo,
    VmSpec,
    VolumeRef,
)
from ostler_common.errors import FailedPreconditionError, NotFoundError, OstlerError
from ostler_common.io_limits import IoLimits
from ostler_common.secret import Secret


@dataclass
class FakeConsole:
    """Says what it is told, then echoes what is written until it is closed."""

    said: list[bytes]
    written: bytes = b""
    closed: bool = False

    def read(self) -> bytes:
        return self.said.pop(0) if self.said and not self.closed else b""

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True


@dataclass
class FakeLog:
    """A console log that grows as it is told."""

    printed: list[bytes]

    def read(self) -> bytes:
        return self.printed.pop(0) if self.printed else b""


class FakeHypervisor:
    """known: the VMs by id; specs: as they were defined last; keys: ids of keys in place by VM; done: the steps that
    changed something, in order.

    info: what it states; obeys: whether guests shut down when asked; error: raised by the next step that changes
    something.
    """

    def __init__(self) -> None:
        self.info = INFO
        self.known: dict[str, VmInfo] = {}
        self.specs: dict[str, VmSpec] = {}
        self.keys: dict[str, set[str]] = {}
        self.done: list[str] = []
        self.obeys = True
        self.error: OstlerError | None = None
        self.outcome = MigrationOutcome.MOVED
        self.mirror = MirrorState.NONE
        self.foreign: ForeignVm | None = None  # what it describes
        self.old_names: dict[Path, str] = {}  # of the VM adopted last
        self.listeners: list[Listener] = []
        self.counters: list[VmSample] = []
        self.terminal = FakeConsole([])
        self.printed: list[bytes] = []  # what each read of a console log returns
        self.claims: list[SeenAddress] = []
        self.firmware: dict[str, FirmwareState] = {}
        self.freeze = Freeze(False, "no guest agent is connected")
        self.guest: GuestInfo | None = None  # none: no guest agent is connected

    def close(self) -> None:
        self.done.append("close")

    def add(self, vm_id: str, state: PowerState = PowerState.RUNNING, *, managed: bool = True) -> VmInfo:
        info = VmInfo(vm_id, "guest", state, 1, 128 << 20, (), managed)
        self.known[vm_id] = info
        return info

    def vm(self, vm_id: str) -> VmInfo:
        return self.known.get(vm_id, VmInfo(vm_id, "", PowerState.ABSENT, 0, 0, (), managed=False))

    def vms(self) -> list[VmInfo]:
        return list(self.known.values())

    def running(self, vm_id: str) -> bool:
        return self.vm(vm_id).power_state in (PowerState.RUNNING, PowerState.PAUSED)

    def using(self, volume_id: str) -> str | None:
        return next((vm.vm_id for vm in self.vms() if volume_id in vm.volume_ids), None)

    def define(self, spec: VmSpec, paths: Paths) -> None:
        self._do("define")
        self._put(spec, PowerState.STOPPED)

    def start(self, spec: VmSpec, paths: Paths) -> None:
        self._do("start")
        self._put(spec, PowerState.RUNNING)

    def shut_down(self, vm_id: str) -> None:
        self._do("shut_down")
        if self.obeys:
            self._set(vm_id, PowerState.STOPPED)

    def power_off(self, vm_id: str) -> None:
        if self.running(vm_id):
            self._do("power_off")
            self._set(vm_id, PowerState.STOPPED)

    def reboot(self, vm_id: str, hard: bool) -> None:
        self._do("reset" if hard else "reboot")

    def delete(self, vm_id: str) -> None:
        self._do("delete")
        self.known.pop(vm_id, None)

    def attach(self, vm_id: str, disk: DiskSpec, path: Path) -> None:
        self._do("attach")
        info = self.known[vm_id]
        self.known[vm_id] = replace(info, volume_ids=(*info.volume_ids, disk.volume.volume_id))

    def detach(self, vm_id: str, volume_id: str, key_id: str | None, timeout_s: float, progress: Progress) -> None:
        self._do("detach")

    def attach_nic(self, vm_id: str, nic: NicSpec) -> None:
        self._do("attach_nic")

    def detach_nic(self, vm_id: str, mac: str, timeout_s: float, progress: Progress) -> None:
        self._do("detach_nic")

    def limit_disk(self, vm_id: str, volume_id: str, limits: IoLimits) -> None:
        self._do("limit_disk")

    def set_nic_link(self, vm_id: str, mac: str, up: bool) -> None:
        self._do("set_nic_link")

    def change_cdrom(self, vm_id: str, drive: int, path: Path | None) -> None:
        self._do(f"change_cdrom {drive} {path.name if path else ''}".strip())

    def read_firmware_state(self, vm_id: str) -> FirmwareState:
        return self.firmware.get(vm_id, FirmwareState())

    def place_firmware_state(self, vm_id: str, copy: FirmwareCopy) -> None:
        self._do("place_firmware_state")
        self.firmware[vm_id] = copy.state

    def guest_addresses(self, vm_id: str) -> list[SeenAddress]:
        return self.claims

    def guest_info(self, vm_id: str) -> GuestInfo:
        return self._ask_guest("guest_info")

    def set_guest_time(self, vm_id: str) -> None:
        self._ask_guest("set_guest_time")

    def set_guest_password(self, vm_id: str, user: str, password: Secret) -> None:
        self._ask_guest(f"set_guest_password {user} {password}")

    def set_guest_ssh_keys(self, vm_id: str, user: str, keys: Sequence[str], *, keep_others: bool) -> None:
        self._ask_guest(f"set_guest_ssh_keys {user} {len(keys)} {keep_others}")

    def shut_down_guest(self, vm_id: str) -> None:
        self._ask_guest("shut_down_guest")
        self._set(vm_id, PowerState.STOPPED)

    def _ask_guest(self, what: str) -> GuestInfo:
        if self.guest is None:
            raise FailedPreconditionError("no guest agent", "GUEST_AGENT_MISSING")
        self._do(what)
        return self.guest

    def resize(self, vm_id: str, cpus: int, memory_bytes: int) -> None:
        self._do("resize")
        self.known[vm_id] = replace(self.known[vm_id], cpus=cpus, memory_bytes=memory_bytes)

    def grow_disk(self, vm_id: str, volume_id: str, size_bytes: int) -> None:
        self._do("grow_disk")

    def console(self, vm_id: str, force: bool) -> FakeConsole:
        if vm_id not in self.known:
            raise NotFoundError("no such VM", "VM_NOT_FOUND")
        return self.terminal

    def console_log(self, vm_id: str) -> FakeLog:
        if vm_id not in self.known:
            raise NotFoundError("no such VM", "VM_NOT_FOUND")
        return FakeLog(self.printed)

    def send_key(self, vm_id: str, codes: Sequence[int]) -> None:
        self._do(f"send_key {list(codes)}")

    def open_screen(self, vm_id: str, force: bool) -> FakeConsole:
        return self.console(vm_id, force)

    def screenshot(self, vm_id: str) -> bytes:
        return b"\x89PNG\r\n\x1a\n"

    def samples(self) -> list[VmSample]:
        return self.counters

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        self.listeners.append(listener)
        return lambda: self.listeners.remove(listener)

    def describe(self, vm: str) -> ForeignVm:
        if self.foreign is None or vm not in (self.foreign.vm_id, self.foreign.name):
            raise NotFoundError("no such VM", "VM_NOT_FOUND")
        return self.foreign

    def adopt(self, vm_id: str, title: str, volumes: Mapping[Path, str]) -> None:
        self._do("adopt")
        self.known[vm_id] = replace(self.known[vm_id], managed=True, name=title)
        self.old_names = dict(volumes)

    def release(self, vm_id: str) -> None:
        self._do("release")
        if vm_id in self.known:
            self.known[vm_id] = replace(self.known[vm_id], managed=False)

    def addresses(self, host: str) -> Addresses:
        return own(host)

    def check_addresses(self, addresses: Addresses) -> None:
        check(addresses)

    def install_keys(self, vm_id: str, keys: Sequence[Key]) -> None:
        self._do("install_keys")
        self.keys.setdefault(vm_id, set()).update(key.key_id for key in keys)

    def remove_keys(self, vm_id: str, key_ids: Sequence[str]) -> None:
        self.keys.get(vm_id, set()).difference_update(key_ids)

    def migrate(
        self, vm_id: str, destination: Destination, limits: MigrationLimits, progress: Progress
    ) -> MigrationReport:
        self._do("migrate")
        del self.known[vm_id]
        return MigrationReport(elapsed_ms=1000, downtime_ms=20)

    def await_migration(self, vm_id: str, timeout_s: float, progress: Progress) -> MigrationOutcome:
        return self.outcome

    def copy_disk(self, vm_id: str, volume_id: str, target: VolumeRef, path: Path, progress: Progress) -> Freeze:
        self._do("copy_disk")
        return self.freeze

    def end_copy(self, vm_id: str, key_id: str | None, path: Path) -> None:
        self._do("end_copy")

    def copy_disks(self, vm_id: str, copies: Sequence[DiskCopy], progress: Progress) -> Freeze:
        self._do("copy_disks")
        return self.freeze

    def end_copies(self, vm_id: str, copies: Sequence[DiskCopy]) -> None:
        self._do("end_copies")

    def copy_increments(
        self, vm_id: str, copies: Sequence[DiskCopy], backup_id: str, progress: Progress
    ) -> tuple[Freeze, Mapping[str, str]]:
        self._do("copy_increments")
        return self.freeze, {}

    def copy_with_memory(self, vm_id: str, memory: Path, copies: Sequence[DiskCopy], progress: Progress) -> Freeze:
        self._do("copy_with_memory")
        return self.freeze

    def end_save(self, vm_id: str, copies: Sequence[DiskCopy]) -> None:
        self._do("end_save")

    def restore(self, spec: VmSpec, paths: Paths, memory: Path) -> None:
        self._do("restore")
        self._put(spec, PowerState.RUNNING)

    def mirror_disk(self, vm_id: str, volume_id: str, target: VolumeRef, path: Path, progress: Progress) -> None:
        self._do("mirror_disk")
        self.mirror = MirrorState.READY

    def mirror_state(self, vm_id: str, source: VolumeRef, target: VolumeRef) -> MirrorState:
        return self.mirror

    def pivot_disk(self, vm_id: str, source: VolumeRef, target: VolumeRef) -> None:
        self._do("pivot_disk")
        self.mirror = MirrorState.PIVOTED

    def cancel_mirror(self, vm_id: str, source: VolumeRef, target: VolumeRef) -> None:
        self._do("cancel_mirror")
        self.mirror = MirrorState.NONE

    def _do(self, step: str) -> None:
        if self.error:
            error, self.error = self.error, None
            raise error
        self.done.append(step)

    def _put(self, spec: VmSpec, state: PowerState) -> None:
        self.specs[spec.vm_id] = spec
        volumes = tuple(disk.volume.volume_id for disk in spec.disks)
        self.known[spec.vm_id] = VmInfo(spec.vm_id, spec.name, state, spec.cpus, spec.memory_bytes, volumes, True)

    def _set(self, vm_id: str, state: PowerState) -> None:
        self.known[vm_id] = replace(self.known[vm_id], power_state=state)
