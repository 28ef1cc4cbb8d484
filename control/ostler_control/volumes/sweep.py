"""Deleting what operations have left behind: files and keys of volumes that nothing needs any more.

Nothing is started while no host could do it, and after a failure there is a pause before the next attempt.
"""

from __future__ import annotations

import contextlib
import datetime
from dataclasses import dataclass

from ostler.agent.v1 import vm_pb2
from ostler.agent.v1 import volume_pb2 as agent_pb2
from ostler.types.v1 import vm_pb2 as types_pb2
from ostler_common.errors import OstlerError

from ostler_control.agents import HostAddress
from ostler_control.database import session, transaction
from ostler_control.events import SYSTEM
from ostler_control.hosts.rows import address_of, has_hosts, is_up, silent
from ostler_control.keys import Keyring
from ostler_control.models import Host, Operation, Vm, Volume, VolumeFile, new_id, now
from ostler_control.operations import Run, launch, lock_row, periodic, record_operation, workflow
from ostler_control.states import UNFINISHED_OPERATIONS
from ostler_control.volumes import files, host_jobs, matrix, wire
from ostler_control.volumes.exchange import cancel_mirror
from ostler_control.volumes.rows import load, running_host, vm_of

_RETRY_PAUSE = datetime.timedelta(minutes=1)


@dataclass(frozen=True)
class SweepInputs:
    """mirror: host `host_id` must first say which of two files VM `vm_id` uses."""

    file_id: str
    mirror: bool
    host_id: str
    vm_id: str


@periodic
def sweep(_: Keyring) -> None:
    """Starts a `volume.sweep` for every file whose operation is over, if a host can do the work."""
    with session():
        unfinished = Operation.select(Operation.id).where(Operation.state.in_(UNFINISHED_OPERATIONS))
        left = list(VolumeFile.select().where(VolumeFile.operation_id.not_in(unfinished)))
    for file in left:
        with contextlib.suppress(OstlerError):  # its volume is busy, or no host can do it now
            _start(file)


def _start(file: VolumeFile) -> None:
    with transaction():
        last = Operation.get_or_none(Operation.id == file.operation_id)
        if last is not None and last.verb == "volume.sweep" and last.end_time and last.end_time > now() - _RETRY_PAUSE:
            return
        mirror_host_id = files.host_with_unresolved_mirror(file)
        operation_id = new_id()
        unclaimed = (VolumeFile.id == file.id) & (VolumeFile.operation_id == file.operation_id)
        if VolumeFile.update(operation_id=operation_id).where(unclaimed).execute() != 1:
            return  # another replica was faster
        volume = Volume.get_or_none(Volume.id == file.volume_id)
        vm = vm_of(volume) if volume is not None else None
        host = _mirror_host(mirror_host_id) if vm is not None else None
        also = _lock_users(file, volume, vm, host)
        if has_hosts(file.pool_id):
            host_jobs.check_host_available(file.pool, file.role == "key")
        inputs = SweepInputs(
            file_id=file.id,
            mirror=host is not None,
            host_id=host.id if host is not None else "",
            vm_id=vm.id if vm is not None else "",
        )
        operation = record_operation("volume.sweep", file, SYSTEM, inputs, also=also, operation_id=operation_id)
    launch(operation)


def _mirror_host(host_id: str) -> Host | None:
    """The host that is to be asked. Raises FailedPreconditionError HOST_SILENT when it cannot answer."""
    host = Host.get_or_none((Host.id == host_id) & ~Host.removed)
    if host is not None and not is_up(host):
        raise silent(host, "and only it knows which file is current")
    return host


def _lock_users(file: VolumeFile, volume: Volume | None, vm: Vm | None, host: Host | None) -> list[Vm | Volume]:
    """Locks what the sweep must hold: nothing for a mere file."""
    if volume is None or (file.role != "key" and host is None):
        return []
    locked: list[Vm | Volume] = [lock_row(vm)] if vm is not None else []
    locked.append(lock_row(volume))
    if file.role == "key":
        matrix.check(matrix.Operation.REKEY, volume, vm is not None and running_host(vm) is not None)
    return locked


@workflow("volume.sweep")
def _sweep(run: Run) -> None:
    inputs = run.read(SweepInputs)
    file_id = inputs.file_id
    role: str = run.step("find-role", lambda: _role(file_id))
    if role == "key":
        run.step("remove-key", lambda: remove_key(run, file_id))
        return
    if inputs.mirror:
        file_id = run.step("resolve-mirror", lambda: _resolve_mirror(run, inputs, role))
    run.step("remove", lambda: files.remove(run, file_id))


def _role(file_id: str) -> str:
    file = files.load_or_none(file_id)
    return file.role if file is not None else ""


def _resolve_mirror(run: Run, inputs: SweepInputs, role: str) -> str:
    """The VM's host is back: it ends the mirror, or completes the switch to the new file. Returns the id of the file
    that is to be deleted."""
    file = files.load_or_none(inputs.file_id)
    if file is None:
        return inputs.file_id
    volume = load(file.volume_id)
    if role == "incoming":
        new_file_is_current = cancel_mirror(run, inputs.host_id, inputs.vm_id, volume, file)
        return _switch_back(volume, file) if new_file_is_current else file.id
    pivot = agent_pb2.PivotVolumeRequest(
        operation=run.ref(), vm_id=inputs.vm_id, source=wire.plain_ref(file), target=wire.plain_ref(volume)
    )
    host = address_of(inputs.host_id)
    try:
        run.job(host, lambda agent: agent.volumes.PivotVolume, pivot)
    except OstlerError as error:
        if error.reason != "MIRROR_MISSING":
            raise
        if _is_executing(run, host, inputs.vm_id):  # with the old file alone: that one is current
            return _switch_back(volume, file)
    return file.id


def _switch_back(volume: Volume, file: VolumeFile) -> str:
    """Makes the file the volume's; returns the id of the one that it replaces."""
    replaced = volume.file_id
    files.switch(volume.id, file.id)
    return replaced


def _is_executing(run: Run, host: HostAddress, vm_id: str) -> bool:
    info = run.agents.call(host, lambda agent: agent.vms.GetVm, vm_pb2.GetVmRequest(vm_id=vm_id))
    return info.power_state in (types_pb2.POWER_STATE_RUNNING, types_pb2.POWER_STATE_PAUSED)


def remove_key(run: Run, file_id: str) -> None:
    """Inside a step: makes a host remove a further key from its volume's header, then destroys it."""
    file = files.load_or_none(file_id)
    if file is None:
        return
    with session():
        volume = Volume.get_or_none(Volume.id == file.volume_id)
    if volume is not None:
        _remove_from_header(run, volume, file)
    files.forget(run, file_id)


def _remove_from_header(run: Run, volume: Volume, key: VolumeFile) -> None:
    with session():
        if not has_hosts(volume.pool_id):
            return
        host_id = host_jobs.choose_for(run, volume)
    request = agent_pb2.RemoveVolumeKeyRequest(
        operation=run.ref(), volume=wire.keyed_ref(volume, run.keys), old_key=wire.key(key, run.keys)
    )
    run.job(address_of(host_id), lambda agent: agent.volumes.RemoveVolumeKey, request)
