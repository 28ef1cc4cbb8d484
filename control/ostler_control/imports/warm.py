"""Warm imports: the disks are copied into their volumes while the VM runs, then what changed, round by round, until
little does; at the cut-over the guest is shut down, the last changes are copied, and the volumes converted in place.

A round's result is in the journal only when its blocks are durable, so that a round which was interrupted is done
again from the change ids of the one before.
"""

from __future__ import annotations

import contextlib
import datetime
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass

import structlog
from ostler.agent.v1 import conversion_pb2 as pb
from ostler.agent.v1 import volume_pb2
from ostler_common.errors import AbortedError, FailedPreconditionError, OstlerError

from ostler_control import events
from ostler_control.catalog.firmware import FIRMWARES
from ostler_control.database import session, transaction
from ostler_control.hosts.rows import address_of
from ostler_control.imports.disk_copy import DiskCopy, copy_of, run_copy
from ostler_control.imports.record import ImportInputs
from ostler_control.imports.rows import delete_imports
from ostler_control.imports.volumes_made import record_made
from ostler_control.imports.warm_rule import QuietRule, why_quiet
from ostler_control.imports.warm_source import (
    Snapshot,
    connected,
    frozen,
    release_source,
    shut_down_source,
    start_tracking,
)
from ostler_control.models import Vm, VmImport, Volume, WarmImport, now
from ostler_control.operations import Run, Undo
from ostler_control.operations.inputs import from_json, to_json
from ostler_control.vms.rows import load
from ostler_control.vmware.areas import Area, total_bytes
from ostler_control.vmware.changed_blocks import ALLOCATED, TrackingLostError, changed_areas, list_snapshots
from ostler_control.vmware.connection import Connection
from ostler_control.vmware.export import stream_count
from ostler_control.vmware.folder import DiskReader, datacenter_path
from ostler_control.vmware.inventory import Disk, Power, SourceVm
from ostler_control.vmware.read_inventory import read_vm
from ostler_control.volumes import wire
from ostler_control.volumes.create import delete_file

log = structlog.get_logger(__name__)

# The undo step that makes the source as it was.
RESTORE = "restore-source"
_TICK_S = 1.0
_MAX_CONVERSIONS = 3
# Shares of the whole, percent.
_FULL, _ROUND, _LAST, _CONVERT = (5, 60), (60, 70), (70, 75), (75, 92)


@dataclass(frozen=True)
class Round:
    """One copy of all disks. change_ids: by device key, where the next one begins; delta_bytes: what was read; full:
    whether that was everything."""

    change_ids: dict[str, str]
    delta_bytes: int
    full: bool


def import_warm(run: Run, undo: Undo, inputs: ImportInputs) -> SourceVm:
    """The part of the workflow `vm.import` that ends with converted volumes and a source that is off; `finish` is the
    other one."""
    assert inputs.warm is not None
    rule = QuietRule(inputs.warm.quiet_bytes, inputs.warm.max_rounds)
    undo.push(RESTORE, lambda: release_source(run, inputs))
    vm = from_json(SourceVm, run.step("inspect", lambda: _inspect(run, inputs)))
    run.step("track-changes", lambda: start_tracking(run, inputs, vm))
    for disk in inputs.disks:
        _push_delete(run, undo, inputs, disk.volume_id)
        run.step(f"create-{disk.volume_id}", lambda volume_id=disk.volume_id: _create(run, inputs, volume_id))  # type: ignore[misc]
    done = _round(run, inputs, "round-0", {}, _FULL)
    deltas: list[int] = []
    while not _cut_over_now(run, inputs, len(deltas), why_quiet(rule, deltas)):
        done = _round(run, inputs, f"round-{len(deltas) + 1}", done.change_ids, _ROUND)
        deltas.append(done.delta_bytes)
    run.step("shut-down", lambda: shut_down_source(run, inputs))
    _round(run, inputs, "round-last", done.change_ids, _LAST)
    for attempt in range(_MAX_CONVERSIONS):
        try:
            run.step(f"convert-{attempt}", lambda: _convert(run, inputs))
            break
        except OstlerError as error:
            if error.reason != "INTERRUPTED" or attempt + 1 == _MAX_CONVERSIONS:
                raise
            # The agent died half way: what virt-v2v changed is not known, so everything is copied again.
            _round(run, inputs, f"round-again-{attempt}", {}, _LAST)
    return vm


def finish(run: Run, inputs: ImportInputs) -> None:
    """At the very end, when nothing is undone any more: the source stays off, and what the import made there goes."""
    run.always("keep-source-off", lambda: _keep_off(run))
    run.always("release-source", lambda: _release(run, inputs))


def _keep_off(run: Run) -> None:
    """Before anything else can go wrong: whoever cleans up from now on must not start the source."""
    with transaction():
        WarmImport.update(shut_down=False).where(WarmImport.vm_import == run.id).execute()


def _release(run: Run, inputs: ImportInputs) -> None:
    """The VM runs here: a vCenter that does not answer now is no reason to fail. Then `sweep` does this later."""
    try:
        release_source(run, inputs)
    except OstlerError as error:
        log.warning("the source of an import is cleaned up later", operation=run.id, reason=error.reason)
        return
    with transaction():
        delete_imports(VmImport.id == run.id)


def request_cut_over(vm: Vm, actor: str) -> None:
    """Within a transaction: has a warm import cut over. Raises FailedPreconditionError NOT_A_WARM_IMPORT."""
    mine = VmImport.select(VmImport.id).where(VmImport.vm_id == vm.id)
    if not WarmImport.update(cut_over=True).where(WarmImport.vm_import.in_(mine)).execute():
        raise FailedPreconditionError(
            "no warm import of this VM is under way (ostler operation list)", "NOT_A_WARM_IMPORT", {"vm": vm.id}
        )
    events.record("vm.import.cut-over", events.Outcome.SUCCEEDED, actor, "vm", vm.id, vm.name, account_id=vm.account_id)


def _push_delete(run: Run, undo: Undo, inputs: ImportInputs, volume_id: str) -> None:
    undo.push(f"delete-{volume_id}", lambda: delete_file(run, inputs.conversion_host_id, volume_id))


def _inspect(run: Run, inputs: ImportInputs) -> str:
    """The VM as it is now; its disks are still those that volumes were made for."""
    with connected(run, inputs) as connection:
        vm = read_vm(connection, inputs.source_ref)
        foreign = set(list_snapshots(connection, vm.ref)) - set(list_snapshots(connection, vm.ref, run.id))
    if vm.power is not Power.ON or foreign:
        what = "has snapshots" if foreign else f"is {vm.power}"
        raise FailedPreconditionError(
            f"VM {vm.name} {what} now, so that it cannot be imported warm", "SOURCE_CHANGED", {"vm": vm.name}
        )
    _check_disks(inputs, vm.disks)
    return to_json(vm)


def _check_disks(inputs: ImportInputs, disks: tuple[Disk, ...]) -> None:
    if [disk.key for disk in disks] != [disk.key for disk in inputs.disks]:
        raise AbortedError("the VM has other disks than when the import began; import it again", "SOURCE_CHANGED")


def _create(run: Run, inputs: ImportInputs, volume_id: str) -> None:
    with session():
        volume = Volume.get_by_id(volume_id)
        request = volume_pb2.CreateVolumeRequest(
            operation=run.ref(),
            volume=wire.keyed_ref(volume, run.keys, inputs.iter_time_ms),
            size_bytes=volume.size_bytes,
            provisioning=wire.PROVISIONINGS[volume.provisioning],
        )
    run.job(address_of(inputs.conversion_host_id), lambda agent: agent.volumes.CreateVolume, request, (2, 5))


def _cut_over_now(run: Run, inputs: ImportInputs, rounds: int, quiet: str) -> bool:
    """Whether the guest is shut down now; else another round is due, at once or after a while."""
    decided: bool = run.step(f"decide-{rounds}", lambda: _decide(run, inputs, quiet))
    return decided


def _decide(run: Run, inputs: ImportInputs, quiet: str) -> bool:
    assert inputs.warm is not None
    planned = inputs.warm.cut_over_time
    if not quiet or inputs.warm.auto:
        return _is_requested(run) or _is_due(planned) or bool(quiet)
    when = f" at {planned[:16].replace('T', ' ')} UTC" if planned else ""
    run.phase(f"waiting for the cut-over{when}: {quiet}", _ROUND[1])
    end = time.monotonic() + inputs.warm.interval_s
    while time.monotonic() < end:
        if _is_requested(run) or _is_due(planned):
            return True
        if not planned:
            _check_patience(run, inputs.warm.wait_s)
        run.check()
        run.pause(_TICK_S)
    return False


def _is_due(planned: str) -> bool:
    """Whether the moment that was chosen for the cut-over has come."""
    return bool(planned) and now() >= datetime.datetime.fromisoformat(planned)


def _is_requested(run: Run) -> bool:
    with session():
        return bool(WarmImport.get(WarmImport.vm_import == run.id).cut_over)


def _check_patience(run: Run, wait_s: int) -> None:
    with session():
        since = VmImport.get_by_id(run.id).create_time
    if now() - since > datetime.timedelta(seconds=wait_s):
        raise AbortedError(
            f"nobody asked for the cut-over within {wait_s // 3600} h, so the import was undone", "CUT_OVER_TIMEOUT"
        )


def _round(run: Run, inputs: ImportInputs, name: str, change_ids: Mapping[str, str], share: tuple[int, int]) -> Round:
    return from_json(Round, run.step(name, lambda: to_json(_copy_round(run, inputs, change_ids, share))))


def _copy_round(run: Run, inputs: ImportInputs, change_ids: Mapping[str, str], share: tuple[int, int]) -> Round:
    """Copies all disks as they are now, or what changed since the change ids; returns once it is durable."""
    phase = "copying changes" if change_ids else "copying the disks"
    run.phase(phase, share[0])
    with connected(run, inputs) as connection, frozen(run, inputs, connection) as snapshot:
        _check_disks(inputs, snapshot.disks)
        vm = read_vm(connection, inputs.source_ref)
        copies = [
            _plan(run, inputs, connection, snapshot, disk, volume_id, change_ids.get(str(disk.key), ""))
            for disk, volume_id in zip(snapshot.disks, (disk.volume_id for disk in inputs.disks), strict=True)
        ]
        _copy_all(run, inputs, connection, datacenter_path(connection, vm.host_ref), snapshot, copies, share, phase)
    return Round(
        {str(disk.key): disk.change_id for disk in snapshot.disks},
        sum(total_bytes(copy.areas) for copy in copies),
        any(copy.full for copy in copies),
    )


def _plan(
    run: Run,
    inputs: ImportInputs,
    connection: Connection,
    snapshot: Snapshot,
    disk: Disk,
    volume_id: str,
    change_id: str,
) -> DiskCopy:
    with session():
        volume = Volume.get_by_id(volume_id)
        target = wire.keyed_ref(volume, run.keys, inputs.iter_time_ms)
    if disk.capacity_bytes > volume.size_bytes:
        raise AbortedError(
            f"{disk.label} has grown beyond its volume since the import began; import the VM again", "DISK_RESIZED"
        )
    if change_id:
        try:
            areas = changed_areas(connection, inputs.source_ref, snapshot.ref, disk, change_id)
            return copy_of(areas, disk.capacity_bytes, target, full=False)
        except TrackingLostError as error:
            log.warning("a disk is copied in full again", operation=run.id, disk=disk.label, why=str(error))
            run.phase(f"copying {disk.label} in full again: vCenter lost track of its changes", 0)
    try:
        areas = changed_areas(connection, inputs.source_ref, snapshot.ref, disk, ALLOCATED)
    except TrackingLostError:  # this datastore does not know what is in use
        areas = [Area(0, disk.capacity_bytes)]
    return copy_of(areas, disk.capacity_bytes, target, full=True)


class _Count:
    """Bytes read by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.bytes = 0

    def add(self, count: int) -> None:
        with self._lock:
            self.bytes += count


def _copy_all(
    run: Run,
    inputs: ImportInputs,
    connection: Connection,
    datacenter: str,
    snapshot: Snapshot,
    copies: list[DiskCopy],
    share: tuple[int, int],
    phase: str,
) -> None:
    host = address_of(inputs.conversion_host_id)
    total = sum(total_bytes(copy.areas) for copy in copies)
    stop, count = threading.Event(), _Count()

    def copy_disk(disk: Disk, copy: DiskCopy) -> None:
        if copy.areas or copy.full:
            with DiskReader(connection, disk, datacenter, stop) as reader:
                run_copy(run.agents, host, copy, reader, stop, count.add)

    with _pool(stream_count(inputs.streams, len(copies)), stop) as pool:
        left = {pool.submit(copy_disk, disk, copy) for disk, copy in zip(snapshot.disks, copies, strict=True)}
        while left:
            ended, left = wait(left, timeout=_TICK_S, return_when=FIRST_COMPLETED)
            for future in ended:
                future.result()
            run.check()
            run.progress(phase, count.bytes, total, share)


@contextlib.contextmanager
def _pool(threads: int, stop: threading.Event) -> Iterator[ThreadPoolExecutor]:
    """Threads that are told to stop, and waited for, when the block ends early."""
    with ThreadPoolExecutor(threads, thread_name_prefix="warm-copy") as pool:
        try:
            yield pool
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


def _convert(run: Run, inputs: ImportInputs) -> None:
    with session():
        volumes = [Volume.get_by_id(disk.volume_id) for disk in inputs.disks]
    request = pb.ConvertVolumesRequest(
        operation=run.ref(),
        disks=[
            pb.GuestVolume(
                key=str(disk.key),
                volume=wire.keyed_ref(volume, run.keys, inputs.iter_time_ms),
                provisioning=wire.PROVISIONINGS[volume.provisioning],
            )
            for disk, volume in zip(inputs.disks, volumes, strict=True)
        ],
        firmware=FIRMWARES[load(run.resource_id).firmware],
        timeout_s=inputs.timeout_s,
    )
    host = address_of(inputs.conversion_host_id)
    update = run.job(host, lambda agent: agent.conversion.ConvertVolumes, request, _CONVERT)
    record_made(run, inputs, volumes, update.conversion_report)
