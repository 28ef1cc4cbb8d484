"""Limiting a volume's I/O, also under a running VM."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from ostler.agent.v1 import vm_pb2 as agent_pb2
from ostler_common.hypervisors import Function
from ostler_common.io_limits import IoLimits, to_message

from ostler_control.catalog import disk_io
from ostler_control.database import session, transaction
from ostler_control.hosts.rows import address_of
from ostler_control.hypervisors import rules
from ostler_control.models import Operation, Volume
from ostler_control.operations import Run, Undo, record_operation, workflow
from ostler_control.volumes import matrix
from ostler_control.volumes.grow import check_ready
from ostler_control.volumes.rows import load, lock_with_vm, running_host

_RESTORE = "restore"


@dataclass(frozen=True)
class LimitInputs:
    """The fields of `IoLimits`; own: they become the volume's own, else those of its offering hold; vm_id: what the
    volume is attached to; host_id: where that VM runs; "" for none."""

    iops: int
    bytes_per_s: int
    burst_iops: int
    burst_bytes_per_s: int
    burst_s: int
    own: bool
    vm_id: str
    host_id: str

    @property
    def limits(self) -> IoLimits:
        return IoLimits(self.iops, self.bytes_per_s, self.burst_iops, self.burst_bytes_per_s, self.burst_s)


def limit(volume: Volume, limits: IoLimits | None, user: str) -> Operation:
    """Records the operation that limits a volume's I/O. limits: None: as its disk offering says.

    Raises FailedPreconditionError VOLUME_STATE, VM_STATE, HOST_SILENT, FUNCTION_NOT_SUPPORTED.
    """
    vm, volume = lock_with_vm(volume)
    check_ready(volume)
    host = running_host(vm) if vm else None
    matrix.check(matrix.Operation.LIMIT, volume, host is not None)
    if host is not None:
        rules.need(Function.IO_LIMITS, host)
    elif vm is not None:
        rules.need_of_type(Function.IO_LIMITS, vm.hypervisor_type)
    wanted = disk_io.of_offerings([volume.disk_offering_id]).get(volume.disk_offering_id or "", disk_io.DEFAULT).limits
    inputs = LimitInputs(
        **asdict(wanted if limits is None else limits),
        own=limits is not None,
        vm_id=volume.vm_id,
        host_id=host.id if host else "",
    )
    return record_operation("volume.limit", volume, user, inputs, also=[vm] if vm else [])


@workflow("volume.limit")
def _limit(run: Run) -> None:
    inputs = run.read(LimitInputs)
    with run.undoing() as undo:
        undo.push("record-failure", lambda: _record_failure(run, undo))
        if inputs.host_id:
            undo.push(_RESTORE, lambda: _restore(run, inputs))
            run.step("limit", lambda: _limit_on_host(run, inputs, inputs.limits))
        run.step("record", lambda: _record(run, inputs))


def _limit_on_host(run: Run, inputs: LimitInputs, limits: IoLimits) -> None:
    request = agent_pb2.LimitDiskRequest(
        operation=run.ref(), vm_id=inputs.vm_id, volume_id=load(run.resource_id).file_id, limits=to_message(limits)
    )
    run.job(address_of(inputs.host_id), lambda agent: agent.vms.LimitDisk, request)


def _restore(run: Run, inputs: LimitInputs) -> None:
    """What the rows say is what it had."""
    with session():
        had = disk_io.of_volume(load(run.resource_id)).limits
    _limit_on_host(run, inputs, had)


def _record(run: Run, inputs: LimitInputs) -> None:
    with transaction():
        disk_io.set_own(load(run.resource_id), inputs.limits if inputs.own else None)
        Volume.update(state_reason="").where(Volume.id == run.resource_id).execute()


def _record_failure(run: Run, undo: Undo) -> None:
    if undo.failed(_RESTORE):
        with transaction():
            reason = f"may have other limits than shown: {undo.error}; limit it again"
            Volume.update(state_reason=reason).where(Volume.id == run.resource_id).execute()
