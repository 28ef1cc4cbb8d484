"""The driver for KVM and QEMU through libvirt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import libvirt
import structlog
from ostler_common.io_limits import IoLimits
from ostler_common.secret import Secret

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
    VmEventKind,
    VmSample,
)
from ostler_agent.hypervisors.foreign import ForeignVm
from ostler_agent.hypervisors.guest import GuestInfo
from ostler_agent.hypervisors.libvirt import (
    adoption,
    backup,
    cdrom_drives,
    devices,
    disk_limits,
    domains,
    guest_addresses,
    guest_agent,
    inventory,
    migrate,
    mirror,
    nic_devices,
    resize,
    samples,
    saved_memory,
    screen,
    screenshot,
)
from ostler_agent.hypervisors.libvirt.addresses import check, own
from ostler_agent.hypervisors.libvirt.connection import Connection
from ostler_agent.hypervisors.libvirt.console import LibvirtConsole
from ostler_agent.hypervisors.libvirt.console_log import ConsoleLogs, FileReader
from ostler_agent.hypervisors.libvirt.dirty import DirtyRates
from ostler_agent.hypervisors.libvirt.errors import translated
from ostler_agent.hypervisors.libvirt.events import Events
from ostler_agent.hypervisors.libvirt.firmware_files import FirmwareFiles
from ostler_agent.hypervisors.libvirt.info import INFO
from ostler_agent.hypervisors.libvirt.locks import VmLocks
from ostler_agent.hypervisors.libvirt.resets import Resets
from ostler_agent.hypervisors.libvirt.secrets import Secrets
from ostler_agent.hypervisors.libvirt.session import Session
from ostler_agent.hypervisors.libvirt.stalls import Stalls
from ostler_agent.hypervisors.toolkit.console import Consoles, SocketConsole
from ostler_agent.spec import DiskSpec, FirmwareCopy, FirmwareState, Freeze, Key, NicSpec, VmInfo, VmSpec, VolumeRef

log = structlog.get_logger(__name__)


class LibvirtDriver:
    """Implements `base.Hypervisor` and all its optional parts.

    uri: libvirt's, "qemu:///system". domain_type: "auto" (kvm if libvirt lists it), "kvm", "qemu". logs: of the VMs'
    consoles, firmware: of the VMs; None: in the usual directories.
    """

    info = INFO

    def __init__(
        self,
        uri: str = "qemu:///system",
        domain_type: str = "auto",
        logs: ConsoleLogs | None = None,
        firmware: FirmwareFiles | None = None,
    ) -> None:
        self._events = Events(self.vm, self._changed)
        self._connection = Connection(uri, self._opened)
        connect = self._connection.get
        self._logs = logs or ConsoleLogs()
        self._firmware = firmware or FirmwareFiles()
        self._session = Session(connect, VmLocks(), Secrets(connect), self._events, domain_type, self._logs)
        # VMs whose keys arrive before they do. A late event of an earlier, failed migration must not remove the keys.
        self._expected: set[str] = set()
        self._dirty_rates = DirtyRates()
        self._screens = Consoles("screen")
        self._cleaner = ThreadPoolExecutor(1, thread_name_prefix="vm-keys")
        self._stalls = Stalls(connect)
        self._resets = Resets()

    def open(self) -> None:
        """Connects, now or as soon as libvirt is available; first removes keys that no VM uses."""
        self._logs.open()
        self._connection.open()
        self._stalls.start()

    def close(self) -> None:
        """Disconnects; VMs keep running."""
        self._stalls.stop()
        self._screens.close()
        self._logs.close()
        self._connection.close()
        self._events.close()
        self._cleaner.shutdown()

    @property
    def connection(self) -> Any:
        """Returns the open virConnect. Raises UnavailableError LIBVIRT_UNAVAILABLE."""
        return self._connection.get()

    # -- Hypervisor

    def vm(self, vm_id: str) -> VmInfo:
        with translated(f"inspecting VM {vm_id}"):
            domain = inventory.find(self.connection, vm_id)
            return inventory.absent(vm_id) if domain is None else inventory.describe(domain)

    def vms(self) -> list[VmInfo]:
        with translated("listing VMs"):
            return [inventory.describe(domain) for domain in self.connection.listAllDomains()]

    def running(self, vm_id: str) -> bool:
        with translated(f"inspecting VM {vm_id}"):
            domain = inventory.find(self.connection, vm_id)
            return domain is not None and inventory.is_active(domain)

    def using(self, volume_id: str) -> str | None:
        with translated(f"finding the user of volume {volume_id}"):
            for domain in _active(self.connection):
                if any(volume_id in disk.volume_ids for disk in inventory.active_disks(domain)):
                    vm_id: str = domain.UUIDString()
                    return vm_id
        return None

    def define(self, spec: VmSpec, paths: Paths) -> None:
        with self._session.locks.hold(spec.vm_id):
            domains.define(self._session, spec, paths)

    def start(self, spec: VmSpec, paths: Paths) -> None:
        self._expected.discard(spec.vm_id)
        with self._session.locks.hold(spec.vm_id):
            domains.start(self._session, spec, paths)

    def shut_down(self, vm_id: str) -> None:
        domains.shut_down(self._session, vm_id)

    def power_off(self, vm_id: str) -> None:
        domains.power_off(self._session, vm_id)

    def reboot(self, vm_id: str, hard: bool) -> None:
        domains.reboot(self._session, self._resets, vm_id, hard)

    def delete(self, vm_id: str) -> None:
        domains.delete(self._session, vm_id)
        with self._session.locks.hold(vm_id):
            if not self.running(vm_id):
                self._firmware.delete(vm_id)  # a copy for a start that did not come

    def attach(self, vm_id: str, disk: DiskSpec, path: Path) -> None:
        with self._session.locks.hold(vm_id):
            devices.attach(self._session, vm_id, disk, path)

    def detach(self, vm_id: str, volume_id: str, key_id: str | None, timeout_s: float, progress: Progress) -> None:
        devices.detach(self._session, vm_id, volume_id, key_id, timeout_s, progress)

    def attach_nic(self, vm_id: str, nic: NicSpec) -> None:
        with self._session.locks.hold(vm_id):
            nic_devices.attach(self._session, vm_id, nic)

    def detach_nic(self, vm_id: str, mac: str, timeout_s: float, progress: Progress) -> None:
        nic_devices.detach(self._session, vm_id, mac, timeout_s, progress)

    def limit_disk(self, vm_id: str, volume_id: str, limits: IoLimits) -> None:
        with self._session.locks.hold(vm_id):
            disk_limits.limit(self._session, vm_id, volume_id, limits)

    def set_nic_link(self, vm_id: str, mac: str, up: bool) -> None:
        with self._session.locks.hold(vm_id):
            nic_devices.set_link(self._session, vm_id, mac, up)

    def change_cdrom(self, vm_id: str, drive: int, path: Path | None) -> None:
        with self._session.locks.hold(vm_id):
            cdrom_drives.change(self._session, vm_id, drive, path)

    def guest_addresses(self, vm_id: str) -> list[SeenAddress]:
        return guest_addresses.read(self._session, vm_id)

    def guest_info(self, vm_id: str) -> GuestInfo:
        return guest_agent.info(self._session, vm_id)

    def set_guest_time(self, vm_id: str) -> None:
        guest_agent.set_time(self._session, vm_id)

    def set_guest_password(self, vm_id: str, user: str, password: Secret) -> None:
        guest_agent.set_password(self._session, vm_id, user, password)

    def set_guest_ssh_keys(self, vm_id: str, user: str, keys: Sequence[str], *, keep_others: bool) -> None:
        guest_agent.set_ssh_keys(self._session, vm_id, user, keys, keep_others=keep_others)

    def shut_down_guest(self, vm_id: str) -> None:
        guest_agent.shut_down(self._session, vm_id)

    def resize(self, vm_id: str, cpus: int, memory_bytes: int) -> None:
        with self._session.locks.hold(vm_id):
            resize.resize(self._session, vm_id, cpus, memory_bytes)

    def grow_disk(self, vm_id: str, volume_id: str, size_bytes: int) -> None:
        devices.grow(self._session, vm_id, volume_id, size_bytes)

    def console(self, vm_id: str, force: bool) -> LibvirtConsole:
        return LibvirtConsole(self._session, vm_id, force)

    def console_log(self, vm_id: str) -> FileReader:
        domains.get(self._session, vm_id)
        return self._logs.reader(vm_id)

    def send_key(self, vm_id: str, codes: Sequence[int]) -> None:
        domains.send_key(self._session, vm_id, codes)

    def open_screen(self, vm_id: str, force: bool) -> SocketConsole:
        return self._screens.hold(vm_id, screen.connect(self._session, vm_id), force)

    def screenshot(self, vm_id: str) -> bytes:
        return screenshot.screenshot(self._session, vm_id)

    def samples(self) -> list[VmSample]:
        return samples.samples(self.connection, self._dirty_rates)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        return self._events.subscribe(listener)

    # -- LiveMigration (the other optional parts are above)

    def addresses(self, host: str) -> Addresses:
        return own(host)

    def check_addresses(self, addresses: Addresses) -> None:
        check(addresses)

    def install_keys(self, vm_id: str, keys: Sequence[Key]) -> None:
        self._expected.add(vm_id)
        with self._session.locks.hold(vm_id):
            self._session.secrets.install(vm_id, keys)

    def remove_keys(self, vm_id: str, key_ids: Sequence[str]) -> None:
        self._expected.discard(vm_id)
        with self._session.locks.hold(vm_id):
            if not self.running(vm_id):
                self._session.secrets.remove(vm_id, key_ids)

    def migrate(
        self, vm_id: str, destination: Destination, limits: MigrationLimits, progress: Progress
    ) -> MigrationReport:
        report = migrate.migrate(self._session, vm_id, destination, limits, progress)
        self.delete(vm_id)  # its keys, and what remains of its definition
        return report

    def await_migration(self, vm_id: str, timeout_s: float, progress: Progress) -> MigrationOutcome:
        outcome = migrate.await_migration(self._session, vm_id, timeout_s, progress)
        if outcome is MigrationOutcome.MOVED:
            self.delete(vm_id)
        return outcome

    # -- LiveCopy

    def copy_disk(self, vm_id: str, volume_id: str, target: VolumeRef, path: Path, progress: Progress) -> Freeze:
        return backup.copy_disks(self._session, vm_id, [DiskCopy(volume_id, target, path)], progress)

    def end_copy(self, vm_id: str, key_id: str | None, path: Path) -> None:
        backup.end_copy(self._session, vm_id, key_id, path)

    def mirror_disk(self, vm_id: str, volume_id: str, target: VolumeRef, path: Path, progress: Progress) -> None:
        mirror.mirror_disk(self._session, vm_id, volume_id, target, path, progress)

    def mirror_state(self, vm_id: str, source: VolumeRef, target: VolumeRef) -> MirrorState:
        return mirror.mirror_state(self._session, vm_id, source, target)

    def pivot_disk(self, vm_id: str, source: VolumeRef, target: VolumeRef) -> None:
        mirror.pivot_disk(self._session, vm_id, source, target)

    def cancel_mirror(self, vm_id: str, source: VolumeRef, target: VolumeRef) -> None:
        mirror.cancel_mirror(self._session, vm_id, source, target)

    # -- Backup

    def copy_disks(self, vm_id: str, copies: Sequence[DiskCopy], progress: Progress) -> Freeze:
        return backup.copy_disks(self._session, vm_id, copies, progress)

    def copy_increments(
        self, vm_id: str, copies: Sequence[DiskCopy], backup_id: str, progress: Progress
    ) -> tuple[Freeze, Mapping[str, str]]:
        return backup.copy_increments(self._session, vm_id, copies, backup_id, progress)

    def end_copies(self, vm_id: str, copies: Sequence[DiskCopy]) -> None:
        backup.end_copies(self._session, vm_id, copies)

    # -- MemorySnapshot

    def copy_with_memory(self, vm_id: str, memory: Path, copies: Sequence[DiskCopy], progress: Progress) -> Freeze:
        return saved_memory.copy_with_memory(self._session, vm_id, memory, copies, progress)

    def end_save(self, vm_id: str, copies: Sequence[DiskCopy]) -> None:
        saved_memory.end_save(self._session, vm_id, copies)

    def restore(self, spec: VmSpec, paths: Paths, memory: Path) -> None:
        self._expected.discard(spec.vm_id)
        with self._session.locks.hold(spec.vm_id):
            saved_memory.restore(self._session, spec, paths, memory)

    # -- FirmwareStates

    def read_firmware_state(self, vm_id: str) -> FirmwareState:
        return self._firmware.read(vm_id)

    def place_firmware_state(self, vm_id: str, copy: FirmwareCopy) -> None:
        with self._session.locks.hold(vm_id):
            if not self.running(vm_id):
                self._firmware.place(vm_id, copy)

    # -- Adoption

    def describe(self, vm: str) -> ForeignVm:
        return adoption.describe(self._session, vm)

    def adopt(self, vm_id: str, title: str, volumes: Mapping[Path, str]) -> None:
        adoption.adopt(self._session, vm_id, title, volumes)

    def release(self, vm_id: str) -> None:
        adoption.release(self._session, vm_id)

    # -- internals

    def _opened(self, connection: Any, again: bool) -> Callable[[], None]:
        """Prepares a new connection before its first use: registers for events, removes keys that no VM uses."""
        deregister = self._events.register(connection)
        secrets = Secrets(lambda: connection)
        if again:
            for vm_id in secrets.owners():
                self._remove_keys(vm_id)
            self._events.reconnected()
            return deregister
        with translated("deleting the console logs of VMs that are gone"):
            self._logs.sweep({domain.UUIDString() for domain in connection.listAllDomains()})
        with translated("removing unused keys"):
            removed = secrets.remove_unused(
                {key_id for domain in _active(connection) for key_id in inventory.active_keys(domain)}
            )
        if removed:
            log.info("removed unused keys", keys=removed)
        return deregister

    def _changed(self, vm_id: str, kind: VmEventKind, detail: str) -> None:
        """Removes the keys of a VM that stopped or migrated away, whatever the cause, and closes its screen."""
        if (kind, detail) == (VmEventKind.STARTED, "migrated"):
            self._expected.discard(vm_id)
        elif kind in (VmEventKind.STOPPED, VmEventKind.CRASHED, VmEventKind.MIGRATED):
            self._screens.close_of(vm_id)
            self._remove_keys(vm_id)

    def _remove_keys(self, vm_id: str) -> None:
        """Runs in another thread, because a start may hold the VM's lock."""
        if vm_id not in self._expected:
            self._cleaner.submit(self._forget_keys, vm_id)

    def _forget_keys(self, vm_id: str) -> None:
        try:
            domains.remove_unused_keys(self._session, vm_id)
        except Exception:
            log.exception("cannot remove keys", vm=vm_id)


def _active(connection: Any) -> list[Any]:
    return list(connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE))
