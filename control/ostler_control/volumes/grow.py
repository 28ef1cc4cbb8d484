"""Growing a volume, also under a running VM."""

from __future__ import annotations

from dataclasses import dataclass

from ostler.agent.v1 import volume_pb2
from ostler_common.errors import FailedPreconditionError, bad_field
from ostler_common.hypervisors import Function
from ostler_common.units import format_size

from ostler_control.catalog.quotas import Resources, check_quota
from ostler_control.database import transaction
from ostler_control.hosts.rows import address_of
from ostler_control.hypervisors import rules
from ostler_control.models import Operation, Volume
from ostler_control.operations import Run, record_operation, workflow
from ostler_control.states import VolumeState
from ostler_control.volumes import host_jobs, matrix, wire
from ostler_control.volumes.files import check_mirrors_resolved
from ostler_control.volumes.new_volume import check_size
from ostler_control.volumes.rows import load, lock_with_vm, running_host


@dataclass(frozen=True)
class GrowInputs:
    """size_bytes: the new size; vm_id: what the volume is attached to; host_id: where that VM runs; "" for none."""

    size_bytes: int
    vm_id: str
    host_id: str


def check_ready(volume: Volume) -> None:
    """Raises FailedPreconditionError VOLUME_STATE unless the volume is complete, MIRROR_UNRESOLVED while it is not
    known which of its files its VM used last."""
    if volume.state != VolumeState.READY:
        raise FailedPreconditionError(
            f"volume {volume.name} is {volume.state}" + (f" ({volume.state_reason})" if volume.state_reason else ""),
            "VOLUME_STATE",
            {"volume": volume.id, "state": volume.state},
        )
    check_mirrors_resolved([volume])


def grow(volume: Volume, size_bytes: int, user: str) -> Operation:
    """Records the operation that grows a volume.

    Raises InvalidArgumentError, or FailedPreconditionError VOLUME_STATE, CANNOT_SHRINK, NO_CAPABLE_HOST, HOST_SILENT,
    FUNCTION_NOT_SUPPORTED; ResourceExhaustedError QUOTA_EXCEEDED.
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
        raise bad_field("size_bytes", "the volume already has this size", "INVALID_SIZE")
    check_quota(volume.account_id, Resources(storage_bytes=size_bytes - volume.size_bytes))
    host = running_host(vm) if vm else None
    matrix.check(matrix.Operation.GROW, volume, host is not None)
    if host is not None:
        rules.need(Function.ONLINE_GROW, host)
    else:
        host_jobs.check_host_available(volume.pool, bool(volume.passphrase_id))
    inputs = GrowInputs(size_bytes, volume.vm_id, host.id if host else "")
    return record_operation("volume.grow", volume, user, inputs, also=[vm] if vm else [])


@workflow("volume.grow")
def _grow(run: Run) -> None:
    inputs = run.read(GrowInputs)
    with run.undoing() as undo:
        host_id: str = inputs.host_id or run.step("choose", lambda: host_jobs.choose_for(run, load(run.resource_id)))
        # A host that was lost in the middle may have grown the file or not: what it reports afterwards is the truth.
        undo.push("measure", lambda: _measure(run, host_id))
        run.step("grow", lambda: _grow_file(run, host_id, inputs))


def _grow_file(run: Run, host_id: str, inputs: GrowInputs) -> None:
    volume = load(run.resource_id)
    request = volume_pb2.GrowVolumeRequest(
        operation=run.ref(),
        volume=wire.keyed_ref(volume, run.keys),
        size_bytes=inputs.size_bytes,
        vm_id=inputs.vm_id if inputs.host_id else "",
    )
    update = run.job(address_of(host_id), lambda agent: agent.volumes.GrowVolume, request)
    _record_size(volume, update.volume.virtual_size_bytes)


def _measure(run: Run, host_id: str) -> None:
    volume = load(run.resource_id)
    request = volume_pb2.GetVolumeRequest(volume=wire.keyed_ref(volume, run.keys))
    info = run.agents.call(address_of(host_id), lambda agent: agent.volumes.GetVolume, request)
    _record_size(volume, info.virtual_size_bytes)


def _record_size(volume: Volume, size_bytes: int) -> None:
    # Never less than was known: a size of 0 would be an agent's mistake.
    with transaction():
        Volume.update(size_bytes=size_bytes).where(
            (Volume.id == volume.id) & (Volume.size_bytes <= size_bytes)
        ).execute()
