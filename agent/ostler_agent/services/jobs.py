"""JobService."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
from ostler.agent.v1 import job_pb2, job_pb2_grpc
from ostler.types.v1 import job_pb2 as types_pb2

from ostler_agent.jobs import Jobs


class JobService(job_pb2_grpc.JobServiceServicer):
    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    def GetJob(self, request: job_pb2.GetJobRequest, context: grpc.ServicerContext) -> types_pb2.JobUpdate:
        return self._jobs.get(request.operation_id)

    def WatchJob(
        self, request: job_pb2.WatchJobRequest, context: grpc.ServicerContext
    ) -> Iterator[types_pb2.JobUpdate]:
        return self._jobs.watch(request.operation_id)

    def CancelJob(self, request: job_pb2.CancelJobRequest, context: grpc.ServicerContext) -> job_pb2.CancelJobResponse:
        self._jobs.cancel(request.operation_id)
        return job_pb2.CancelJobResponse()
