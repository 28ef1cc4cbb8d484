"""ostler.control.v1.SnapshotService."""

from __future__ import annotations

import grpc
from google.longrunning.operations_pb2 import Operation as LongRunning
from ostler.control.v1 import snapshot_pb2 as pb
from ostler.control.v1 import snapshot_pb2_grpc

from ostler_control import snapshots
from ostler_control.agents import Agents
from ostler_control.api.caller import caller_of
from ostler_control.api.convert import volumes as convert_volumes
from ostler_control.api.convert.enums import from_enum
from ostler_control.api.labels import select
from ostler_control.api.paging import page
from ostler_control.api.requests import once
from ostler_control.api.resolve import optional, resolve, visible
from ostler_control.api.session import with_sessions
from ostler_control.api.start_operation import admins_only, start_operation
from ostler_control.caller import Caller
from ostler_control.catalog.names import is_id
from ostler_control.database import transaction
from ostler_control.keys import Keyring
from ostler_control.models import Account, Pool, Snapshot, SnapshotSchedule, Volume


@with_sessions
class SnapshotService(snapshot_pb2_grpc.SnapshotServiceServicer):
    def __init__(self, agents: Agents, keys: Keyring) -> None:
        self._agents = agents
        self._keys = keys

    def CreateSnapshot(self, request: pb.CreateSnapshotRequest, context: grpc.ServicerContext) -> LongRunning:
        caller = caller_of(context)
        admins_only(caller, pool=request.pool)
        volume = resolve(Volume, request.volume, "volume", caller=caller)
        wanted = snapshots.NewSnapshot(volume, request.name, optional(Pool, request.pool, "pool"))
        return start_operation(caller, request, lambda: snapshots.create(wanted, caller.actor))

    def GetSnapshot(self, request: pb.GetSnapshotRequest, context: grpc.ServicerContext) -> pb.Snapshot:
        caller = caller_of(context)
        return convert_volumes.snapshot(resolve(Snapshot, request.snapshot, "snapshot", caller=caller), caller)

    def ListSnapshots(
        self, request: pb.ListSnapshotsRequest, context: grpc.ServicerContext
    ) -> pb.ListSnapshotsResponse:
        caller = caller_of(context)
        query = visible(Snapshot, caller)
        if request.account:
            query = query.where(Snapshot.account == resolve(Account, request.account, "account", caller=caller))
        if request.volume:
            query = query.where(Snapshot.volume_id == _volume_id(request.volume, caller))
        query = select(query, Snapshot, request.selector)
        found = page(query, Snapshot, request, scope=caller.actor, newest_first=True)
        rows = convert_volumes.snapshots(found.rows, caller)
        return pb.ListSnapshotsResponse(snapshots=rows, next_page_token=found.next_page_token)

    def DeleteSnapshot(self, request: pb.DeleteSnapshotRequest, context: grpc.ServicerContext) -> LongRunning:
        caller = caller_of(context)
        row = resolve(Snapshot, request.snapshot, "snapshot", caller=caller)
        return start_operation(caller, request, lambda: snapshots.delete(row, caller.actor))

    def ForgetSnapshot(self, request: pb.ForgetSnapshotRequest, context: grpc.ServicerContext) -> pb.Snapshot:
        caller = caller_of(context)
        row = resolve(Snapshot, request.snapshot, "snapshot", caller=caller)
        answer = convert_volumes.snapshot(row, caller)
        with transaction():
            snapshots.forget(row, caller.actor, validate_only=request.validate_only)
        return answer

    def RevertVolume(self, request: pb.RevertVolumeRequest, context: grpc.ServicerContext) -> LongRunning:
        caller = caller_of(context)
        row = resolve(Snapshot, request.snapshot, "snapshot", caller=caller)
        return start_operation(caller, request, lambda: snapshots.revert(row, caller.actor, self._keys))

    def CreateSnapshotSchedule(
        self, request: pb.CreateSnapshotScheduleRequest, context: grpc.ServicerContext
    ) -> pb.SnapshotSchedule:
        caller = caller_of(context)
        wanted = snapshots.NewSchedule(
            volume=resolve(Volume, request.volume, "volume", caller=caller),
            interval=from_enum(pb.SnapshotSchedule.Interval, "", request.interval, "interval"),
            minute=request.minute,
            hour=request.hour,
            day=request.day,
            keep=request.keep,
        )
        row = once(SnapshotSchedule, caller, request, lambda: snapshots.create_schedule(wanted, caller.actor))
        return convert_volumes.snapshot_schedules([row], caller)[0]

    def ListSnapshotSchedules(
        self, request: pb.ListSnapshotSchedulesRequest, context: grpc.ServicerContext
    ) -> pb.ListSnapshotSchedulesResponse:
        caller = caller_of(context)
        query = visible(SnapshotSchedule, caller)
        if request.volume:
            query = query.where(SnapshotSchedule.volume == resolve(Volume, request.volume, "volume", caller=caller))
        query = select(query, SnapshotSchedule, request.selector)
        found = page(query, SnapshotSchedule, request, scope=caller.actor)
        rows = convert_volumes.snapshot_schedules(found.rows, caller)
        return pb.ListSnapshotSchedulesResponse(schedules=rows, next_page_token=found.next_page_token)

    def DeleteSnapshotSchedule(
        self, request: pb.DeleteSnapshotScheduleRequest, context: grpc.ServicerContext
    ) -> pb.DeleteSnapshotScheduleResponse:
        caller = caller_of(context)
        row = resolve(SnapshotSchedule, request.schedule, "schedule", caller=caller)
        snapshots.delete_schedule(row, caller.actor)
        return pb.DeleteSnapshotScheduleResponse()


def _volume_id(ref: str, caller: Caller) -> str:
    """The id of a volume; one that is gone is known by its id only."""
    return ref.lower() if is_id(ref) else resolve(Volume, ref, "volume", caller=caller).id
