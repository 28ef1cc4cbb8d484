"""Growing a volume, also under a running VM."""

from __future__ import annotations

from typing import Any

from ostler.agent.v1 import volume_pb2
from ostler_common.errors import FailedPreconditionError, bad_field
from ostler_common.hypervisors import Function
from ostler_common.units import format_size

from ostler_control.database import session, transaction
from ostler_control.hosts.choose import worker
from ostler_control.hosts.rows import address_of
from ostler_control.hypervisors import rules
from ostler_control.models import Operation, Volume
from ostler_control.operations import Work, begin, workflow
from ostler_control.volumes import matrix, wire
from ostler_control.volumes.create import check_size
from ostler_control.volumes.files import check_settled
from ostler_control.volumes.rows import check_vm_at_rest, load, take_with_vm


def check_ready(volume: Any) -> None:
    """Raises FailedPreconditionError VOLUME_STATE unless the volume is whole, MIRROR_UNRESOLVED while it is not known
    which of its files is."""
    if volume.state != "ready":
        raise FailedPreconditionError(
            f"volume {volume.name} is {volume.state}" + (f" ({volume.state_reason})" if volume.state_reason else ""),
            "VOLUME_STATE",
            {"volume": volume.id, "state": volume.state},
        )
    check_settled([volume])


def grow(volume: Any, size_bytes: int, user: str) -> Operation:
    """Records the operation that grows a volume.

    Raises InvalidArgumentError, or FailedPreconditionError VOLUME_STATE, CANNOT_SHRINK, NO_CAPABLE_HOST, HOST_SILENT,
    FUNCTION_NOT_SUPPORTED.
    """
    vm, volume = take_with_vm(volume)
    check_ready(volume)
    check_size("size_bytes", size_bytes)
    if size_bytes < volume.size_bytes:
        raise FailedPreconditionError(
            f"volume {volume.name} has {format_size(volume.size_bytes)} and cannot shrink: its end would be lost",
            "CANNOT_SHRINK",
        )
    if size_bytes == volume.size_bytes:
        raise bad_field("size_bytes", "is the size that the volume has already", "INVALID_SIZE")
    host = check_vm_at_rest(vm) if vm else None
    matrix.check(matrix.Operation.GROW, volume, host is not None)
    if host is not None:
        rules.need(Function.ONLINE_GROW, host)
    else:
        worker(volume.pool, bool(volume.passphrase_id), lambda _: 0)
    inputs = {"size_bytes": size_bytes, "vm_id": volume.vm_id, "host_id": host.id if host else ""}
    return begin("volume.grow", volume, user, inputs, also=[vm] if vm else [])


@workflow("volume.grow")
def _grow(work: Work) -> None:
    with work.undoing() as undo:
        host_id: str = work.inputs["host_id"] or work.step("choose", lambda: choose_worker(work))
        # A host that went away in the middle may have grown the file or not: what it says afterwards is the truth.
        undo.push("measure", lambda: _measure(work, host_id))
        work.step("grow", lambda: _grow_file(work, host_id))


def choose_worker(work: Work) -> str:
    """Inside a step: the host to work on the operation's volume."""
    with session():
        volume = load(work.resource_id)
        host_id: str = worker(volume.pool, bool(volume.passphrase_id), work.agents.busy).id
        return host_id


def _grow_file(work: Work, host_id: str) -> None:
    volume = load(work.resource_id)
    request = volume_pb2.GrowVolumeRequest(
        operation=work.ref(),
        volume=wire.keyed_ref(volume, work.keys),
        size_bytes=work.inputs["size_bytes"],
        vm_id=work.inputs["vm_id"] if work.inputs["host_id"] else "",
    )
    update = work.job(address_of(host_id), lambda agent: agent.volumes.GrowVolume, request)
    _record(volume, update.volume.virtual_size_bytes)


def _measure(work: Work, host_id: str) -> None:
    volume = load(work.resource_id)
    request = volume_pb2.GetVolumeRequest(volume=wire.keyed_ref(volume, work.keys))
    info = work.agents.call(address_of(host_id), lambda agent: agent.volumes.GetVolume, request)
    _record(volume, info.virtual_size_bytes)


def _record(volume: Any, size_bytes: int) -> None:
    # Never less than was known: a size of 0 would be an agent's mistake.
    with transaction():
        Volume.update(size_bytes=size_bytes).where(
            (Volume.id == volume.id) & (Volume.size_bytes <= size_bytes)
        ).execute()
