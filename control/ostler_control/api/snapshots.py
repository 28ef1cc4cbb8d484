"""ostler.control.v1.SnapshotService."""

from __future__ import annotations

import grpc
from google.longrunning.operations_pb2 import Operation as LongRunning
from ostler.control.v1 import snapshot_pb2 as pb
from ostler.control.v1 import snapshot_pb2_grpc
from ostler_common.errors import UnimplementedError

from ostler_control.agents import Agents
from ostler_control.api.session import with_sessions
from ostler_control.keys import Keyring


@with_sessions
class SnapshotService(snapshot_pb2_grpc.SnapshotServiceServicer):
    def __init__(self, agents: Agents, keys: Keyring) -> None:
        self._agents = agents
        self._keys = keys

    def CreateSnapshot(self, request: pb.CreateSnapshotRequest, context: grpc.ServicerContext) -> LongRunning:
        raise UnimplementedError("not served yet", "NOT_SERVED")

    def GetSnapshot(self, request: pb.GetSnapshotRequest, context: grpc.ServicerContext) -> pb.Snapshot:
        raise UnimplementedError("not served yet", "NOT_SERVED")

    def ListSnapshots(
        self, request: pb.ListSnapshotsRequest, context: grpc.ServicerContext
    ) -> pb.ListSnapshotsResponse:
        raise UnimplementedError("not served yet", "NOT_SERVED")

    def DeleteSnapshot(self, request: pb.DeleteSnapshotRequest, context: grpc.ServicerContext) -> LongRunning:
        raise UnimplementedError("not served yet", "NOT_SERVED")

    def RevertVolume(self, request: pb.RevertVolumeRequest, context: grpc.ServicerContext) -> LongRunning:
        raise UnimplementedError("not served yet", "NOT_SERVED")

    def CreateSnapshotSchedule(
        self, request: pb.CreateSnapshotScheduleRequest, context: grpc.ServicerContext
    ) -> pb.SnapshotSchedule:
        raise UnimplementedError("not served yet", "NOT_SERVED")

    def ListSnapshotSchedules(
        self, request: pb.ListSnapshotSchedulesRequest, context: grpc.ServicerContext
    ) -> pb.ListSnapshotSchedulesResponse:
        raise UnimplementedError("not served yet", "NOT_SERVED")

    def DeleteSnapshotSchedule(
        self, request: pb.DeleteSnapshotScheduleRequest, context: grpc.ServicerContext
    ) -> pb.DeleteSnapshotScheduleResponse:
        raise UnimplementedError("not served yet", "NOT_SERVED")
