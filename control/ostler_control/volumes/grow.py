"""Growing a volume, also under a running VM."""

from __future__ import annotations

from typing import Any

from ostler.agent.v1 import volume_pb2
from ostler_common.errors import FailedPreconditionError, bad_field
from ostler_common.hypervisors import Function
from ostler_common.units import format_size

from ostler_control.database import session, transaction
from ostler_control.hosts.choose import choose_host
from ostler_control.hosts.rows import address_of
from ostler_control.hypervisors import rules
from ostler_control.models import Operation, Volume
from ostler_control.operations import Run, record_operation, workflow
from ostler_control.volumes import matrix, wire
from ostler_control.volumes.create import check_size
from ostler_control.volumes.files import check_mirrors_resolved
from ostler_control.volumes.rows import load, lock_with_vm, running_host


def check_ready(volume: Any) -> None:
    """Raises FailedPreconditionError VOLUME_STATE unless the volume is whole, MIRROR_UNRESOLVED while it is not known
    which of its files is."""
    if volume.state != "ready":
        raise FailedPreconditionError(
            f"volume {volume.name} is {volume.state}" + (f" ({volume.state_reason})" if volume.state_reason else ""),
            "VOLUME_STATE",
            {"volume": volume.id, "state": volume.state},
        )
    check_mirrors_resolved([volume])


def grow(volume: Any, size_bytes: int, user: str) -> Operation:
    """Records the operation that grows a volume.

    Raises InvalidArgumentError, or FailedPreconditionError VOLUME_STATE, CANNOT_SHRINK, NO_CAPABLE_HOST, HOST_SILENT,
    FUNCTION_NOT_SUPPORTED.
    """
    vm, volume = lock_with_vm(volume)
    check_ready(volume)
    check_size("size_bytes", size_bytes)
    if size_bytes < volume.size_bytes:
        raise FailedPreconditionError(
            f"volume {volume.name} has {format_size(volume.size_bytes)} and cannot shrink: its end would be lost",
            "CANNOT_SHRINK",
        )
    if size_bytes == volume.size_bytes:
        raise bad_field("size_bytes", "is the size that the volume has already", "INVALID_SIZE")
    host = running_host(vm) if vm else None
    matrix.check(matrix.Operation.GROW, volume, host is not None)
    if host is not None:
        rules.need(Function.ONLINE_GROW, host)
    else:
        choose_host(volume.pool, bool(volume.passphrase_id), lambda _: 0)
    inputs = {"size_bytes": size_bytes, "vm_id": volume.vm_id, "host_id": host.id if host else ""}
    return record_operation("volume.grow", volume, user, inputs, also=[vm] if vm else [])


@workflow("volume.grow")
def _grow(run: Run) -> None:
    with run.undoing() as undo:
        host_id: str = run.inputs["host_id"] or run.step("choose", lambda: choose_worker(run))
        # A host that went away in the middle may have grown the file or not: what it says afterwards is the truth.
        undo.push("measure", lambda: _measure(run, host_id))
        run.step("grow", lambda: _grow_file(run, host_id))


def choose_worker(run: Run) -> str:
    """Inside a step: the host to work on the operation's volume."""
    with session():
        volume = load(run.resource_id)
        host_id: str = choose_host(volume.pool, bool(volume.passphrase_id), run.agents.busy).id
        return host_id


def _grow_file(run: Run, host_id: str) -> None:
    volume = load(run.resource_id)
    request = volume_pb2.GrowVolumeRequest(
        operation=run.ref(),
        volume=wire.keyed_ref(volume, run.keys),
        size_bytes=run.inputs["size_bytes"],
        vm_id=run.inputs["vm_id"] if run.inputs["host_id"] else "",
    )
    update = run.job(address_of(host_id), lambda agent: agent.volumes.GrowVolume, request)
    _record(volume, update.volume.virtual_size_bytes)


def _measure(run: Run, host_id: str) -> None:
    volume = load(run.resource_id)
    request = volume_pb2.GetVolumeRequest(volume=wire.keyed_ref(volume, run.keys))
    info = run.agents.call(address_of(host_id), lambda agent: agent.volumes.GetVolume, request)
    _record(volume, info.virtual_size_bytes)


def _record(volume: Any, size_bytes: int) -> None:
    # Never less than was known: a size of 0 would be an agent's mistake.
    with transaction():
        Volume.update(size_bytes=size_bytes).where(
            (Volume.id == volume.id) & (Volume.size_bytes <= size_bytes)
        ).execute()
