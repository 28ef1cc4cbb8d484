"""Removing what operations have left behind: files and keys of volumes that are neither needed nor gone.

Nothing is done while no host could do it, and after a failure only now and then.
"""

from __future__ import annotations

import contextlib
import datetime
from typing import Any

from ostler.agent.v1 import vm_pb2
from ostler.agent.v1 import volume_pb2 as agent_pb2
from ostler.types.v1 import vm_pb2 as types_pb2
from ostler_common.errors import OstlerError

from ostler_control.agents import HostAddress
from ostler_control.database import session, transaction
from ostler_control.events import SYSTEM
from ostler_control.hosts.choose import choose_host
from ostler_control.hosts.rows import address_of, has_hosts, is_up, silent
from ostler_control.models import Host, Operation, Volume, VolumeFile, new_id, now
from ostler_control.operations import Run, chore, launch, lock_row, record_operation, workflow
from ostler_control.operations.records import UNENDED
from ostler_control.volumes import files, matrix, wire
from ostler_control.volumes.rows import running_host, vm_of

_PAUSE = datetime.timedelta(minutes=1)


@chore
def sweep() -> None:
    """Begins a `volume.sweep` for every file whose operation is over, where a host can do what is to be done."""
    with session():
        working = Operation.select(Operation.id).where(Operation.state.in_(UNENDED))
        left: list[Any] = list(VolumeFile.select().where(VolumeFile.operation_id.not_in(working)))
    for file in left:
        with contextlib.suppress(OstlerError):  # it is busy, or no host can do it now
            _begin(file)


def _begin(file: Any) -> None:
    with transaction():
        last: Any = Operation.get_or_none(Operation.id == file.operation_id)
        if last is not None and last.verb == "volume.sweep" and last.end_time > now() - _PAUSE:
            return
        host: Any = Host.get_or_none((Host.id == files.host_with_unresolved_mirror(file)) & ~Host.removed)
        operation_id = new_id()
        mine = (VolumeFile.id == file.id) & (VolumeFile.operation_id == file.operation_id)
        if VolumeFile.update(operation_id=operation_id).where(mine).execute() != 1:
            return  # another replica was faster
        volume = Volume.get_or_none(Volume.id == file.volume_id)
        vm = vm_of(volume) if volume is not None else None
        if vm is None:
            host = None
        elif host is not None and not is_up(host):
            raise silent(host, "and only it knows which file is the right one")
        also: list[Any] = []
        if volume is not None and (file.role == "key" or host is not None):
            also = [lock_row(row) for row in (vm, volume) if row is not None]
            if file.role == "key":
                matrix.check(matrix.Operation.REKEY, volume, vm is not None and running_host(vm) is not None)
        if has_hosts(file.pool_id):
            choose_host(file.pool, file.role == "key", lambda _: 0)
        file.name = volume.name if volume is not None else ""
        wanted = {
            "file_id": file.id,
            "mirror": host is not None,
            "host_id": host.id if host is not None else "",
            "vm_id": vm.id if vm is not None else "",
        }
        operation = record_operation("volume.sweep", file, SYSTEM, wanted, also=also, operation_id=operation_id)
    launch(operation)


@workflow("volume.sweep")
def _sweep(run: Run) -> None:
    file_id: str = run.inputs["file_id"]
    role: str = run.step("look", lambda: _role(file_id))
    if role == "key":
        run.step("remove-key", lambda: remove_key(run, file_id))
        return
    if run.inputs["mirror"]:
        file_id = run.step("settle", lambda: _settle(run, file_id, role))
    run.step("remove", lambda: files.remove(run, file_id))


def _role(file_id: str) -> str:
    file = files.load_or_none(file_id)
    return file.role if file is not None else ""


def _settle(run: Run, file_id: str, role: str) -> str:
    """The VM's host is there again: it ends the mirror, or goes on with the new file as it was told. Answers the file
    that is to go."""
    file = files.load_or_none(file_id)
    if file is None:
        return file_id
    volume = _volume(file)
    vm_id, host = run.inputs["vm_id"], address_of(run.inputs["host_id"])
    if role == "incoming":
        cancel = agent_pb2.CancelMirrorRequest(
            operation=run.ref(), vm_id=vm_id, source=wire.plain_ref(volume), target=wire.plain_ref(file)
        )
        try:
            run.job(host, lambda agent: agent.volumes.CancelMirror, cancel)
        except OstlerError as error:
            if error.reason != "PIVOTED":
                raise
            files.switch(volume.id, file_id)
            return str(volume.file_id)
        return file_id
    pivot = agent_pb2.PivotVolumeRequest(
        operation=run.ref(), vm_id=vm_id, source=wire.plain_ref(file), target=wire.plain_ref(volume)
    )
    try:
        run.job(host, lambda agent: agent.volumes.PivotVolume, pivot)
    except OstlerError as error:
        if error.reason != "MIRROR_MISSING":
            raise
        if _executes(run, host, vm_id):  # it has gone on with the old file alone: that one is the right one
            files.switch(volume.id, file_id)
            return str(volume.file_id)
    return file_id


def _executes(run: Run, host: HostAddress, vm_id: str) -> bool:
    info = run.agents.call(host, lambda agent: agent.vms.GetVm, vm_pb2.GetVmRequest(vm_id=vm_id))
    return info.power_state in (types_pb2.POWER_STATE_RUNNING, types_pb2.POWER_STATE_PAUSED)


def _volume(file: Any) -> Any:
    with session():
        return Volume.get_by_id(file.volume_id)


def remove_key(run: Run, file_id: str) -> None:
    """Inside a step: has a host see to it that a further key no longer opens its volume's file, then destroys it."""
    file = files.load_or_none(file_id)
    if file is None:
        return
    with session():
        volume: Any = Volume.get_or_none(Volume.id == file.volume_id)
        needed = volume is not None and has_hosts(volume.pool_id)
        host_id = choose_host(volume.pool, True, run.agents.busy).id if needed else ""
    if host_id:
        request = agent_pb2.RemoveVolumeKeyRequest(operation=run.ref(), volume=wire.keyed_ref(volume, run.keys))
        request.old_key.CopyFrom(wire.key(file, run.keys))
        run.job(address_of(host_id), lambda agent: agent.volumes.RemoveVolumeKey, request)
    files.forget(run, file_id)
