"""What an agent says of its jobs until it dies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
from ostler.types.v1 import job_pb2
from ostler_agent.services.jobs import JobService

from tests.fakes.faults import Errors
from tests.fakes.life import Life


def while_alive(
    life: Life, number: int, updates: Iterator[job_pb2.JobUpdate], context: grpc.ServicerContext
) -> Iterator[job_pb2.JobUpdate]:
    """What an agent says of a job until it dies."""
    for update in updates:
        if life.is_over(number):
            context.abort(grpc.StatusCode.UNAVAILABLE, "the agent died")
        yield update


class JobsOfLife(JobService):
    """The JobService of an agent in one of its lives, with errors mapped as its server does."""

    def __init__(self, life: Life) -> None:
        super().__init__(life.jobs)
        self._life, self._number = life, life.number

    def WatchJob(self, request: Any, context: grpc.ServicerContext) -> Iterator[job_pb2.JobUpdate]:
        with Errors(context):
            yield from while_alive(self._life, self._number, super().WatchJob(request, context), context)

    def GetJob(self, request: Any, context: grpc.ServicerContext) -> job_pb2.JobUpdate:
        with Errors(context):
            update = super().GetJob(request, context)
            return next(while_alive(self._life, self._number, iter([update]), context))

    def CancelJob(self, request: Any, context: grpc.ServicerContext) -> Any:
        with Errors(context):
            return super().CancelJob(request, context)
