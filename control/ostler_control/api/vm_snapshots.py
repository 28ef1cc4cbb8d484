"""ostler.control.v1.VmSnapshotService."""

from __future__ import annotations

import grpc
from google.longrunning.operations_pb2 import Operation as LongRunning
from ostler.control.v1 import vm_snapshot_pb2 as pb
from ostler.control.v1 import vm_snapshot_pb2_grpc

from ostler_control import vm_snapshots
from ostler_control.api.caller import caller_of
from ostler_control.api.convert import vm_snapshots as convert
from ostler_control.api.convert.enums import from_enum
from ostler_control.api.labels import select
from ostler_control.api.paging import page
from ostler_control.api.requests import once
from ostler_control.api.resolve import resolve, visible
from ostler_control.api.session import with_sessions
from ostler_control.api.start_operation import start_operation
from ostler_control.caller import Caller
from ostler_control.catalog.names import is_id
from ostler_control.keys import Keyring
from ostler_control.models import Account, Vm, VmSnapshot, VmSnapshotSchedule


@with_sessions
class VmSnapshotService(vm_snapshot_pb2_grpc.VmSnapshotServiceServicer):
    def __init__(self, keys: Keyring) -> None:
        self._keys = keys

    def CreateVmSnapshot(self, request: pb.CreateVmSnapshotRequest, context: grpc.ServicerContext) -> LongRunning:
        caller = caller_of(context)
        vm = resolve(Vm, request.vm, "vm", caller=caller)
        wanted = vm_snapshots.NewVmSnapshot(vm, request.name, request.memory)
        return start_operation(caller, request, lambda: vm_snapshots.create(wanted, caller.actor, self._keys))

    def GetVmSnapshot(self, request: pb.GetVmSnapshotRequest, context: grpc.ServicerContext) -> pb.VmSnapshot:
        caller = caller_of(context)
        return convert.vm_snapshot(_find(request.vm_snapshot, caller), caller)

    def ListVmSnapshots(
        self, request: pb.ListVmSnapshotsRequest, context: grpc.ServicerContext
    ) -> pb.ListVmSnapshotsResponse:
        caller = caller_of(context)
        query = visible(VmSnapshot, caller)
        if request.account:
            query = query.where(VmSnapshot.account == resolve(Account, request.account, "account", caller=caller))
        if request.vm:
            query = query.where(VmSnapshot.vm_id == _vm_id(request.vm, caller))
        query = select(query, VmSnapshot, request.selector)
        found = page(query, VmSnapshot, request, scope=caller.actor, newest_first=True)
        rows = convert.vm_snapshots(found.rows, caller)
        return pb.ListVmSnapshotsResponse(vm_snapshots=rows, next_page_token=found.next_page_token)

    def DeleteVmSnapshot(self, request: pb.DeleteVmSnapshotRequest, context: grpc.ServicerContext) -> LongRunning:
        caller = caller_of(context)
        row = _find(request.vm_snapshot, caller)
        return start_operation(caller, request, lambda: vm_snapshots.delete(row, caller.actor))

    def RevertVm(self, request: pb.RevertVmRequest, context: grpc.ServicerContext) -> LongRunning:
        caller = caller_of(context)
        row = _find(request.vm_snapshot, caller)
        return start_operation(
            caller,
            request,
            lambda: vm_snapshots.revert(row, caller.actor, self._keys, disks_only=request.disks_only),
        )

    def CreateVmSnapshotSchedule(
        self, request: pb.CreateVmSnapshotScheduleRequest, context: grpc.ServicerContext
    ) -> pb.VmSnapshotSchedule:
        caller = caller_of(context)
        wanted = vm_snapshots.NewSchedule(
            vm=resolve(Vm, request.vm, "vm", caller=caller),
            interval=from_enum(pb.VmSnapshotSchedule.Interval, "", request.interval, "interval"),
            minute=request.minute,
            hour=request.hour,
            day=request.day,
            keep=request.keep,
        )
        row = once(VmSnapshotSchedule, caller, request, lambda: vm_snapshots.create_schedule(wanted, caller.actor))
        return convert.schedules([row], caller)[0]

    def ListVmSnapshotSchedules(
        self, request: pb.ListVmSnapshotSchedulesRequest, context: grpc.ServicerContext
    ) -> pb.ListVmSnapshotSchedulesResponse:
        caller = caller_of(context)
        query = visible(VmSnapshotSchedule, caller)
        if request.vm:
            query = query.where(VmSnapshotSchedule.vm == resolve(Vm, request.vm, "vm", caller=caller))
        query = select(query, VmSnapshotSchedule, request.selector)
        found = page(query, VmSnapshotSchedule, request, scope=caller.actor)
        rows = convert.schedules(found.rows, caller)
        return pb.ListVmSnapshotSchedulesResponse(schedules=rows, next_page_token=found.next_page_token)

    def DeleteVmSnapshotSchedule(
        self, request: pb.DeleteVmSnapshotScheduleRequest, context: grpc.ServicerContext
    ) -> pb.DeleteVmSnapshotScheduleResponse:
        caller = caller_of(context)
        row = resolve(VmSnapshotSchedule, request.schedule, "schedule", caller=caller)
        vm_snapshots.delete_schedule(row, caller.actor)
        return pb.DeleteVmSnapshotScheduleResponse()


def _find(ref: str, caller: Caller) -> VmSnapshot:
    return resolve(VmSnapshot, ref, "vm_snapshot", caller=caller)


def _vm_id(ref: str, caller: Caller) -> str:
    """The id of a VM; one that is gone is known by its id only."""
    return ref.lower() if is_id(ref) else resolve(Vm, ref, "vm", caller=caller).id
