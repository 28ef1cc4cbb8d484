"""Follows a job on a host to its end, however often the connection breaks.

An agent's job continues without its caller, and the agent is idempotent by the operation's id: sending the same call
again attaches to the running job, or returns its recorded outcome. gRPC itself never repeats these calls.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

import grpc
from ostler.agent.v1 import job_pb2
from ostler.types.v1 import job_pb2 as types_job_pb2
from ostler_common.errors import OstlerError, UnavailableError, from_rpc_error, from_status

from ostler_control.agents.client import Agent, Agents, HostAddress, broken, unreachable

JobUpdate = types_job_pb2.JobUpdate


class JobCall(Protocol):
    """A running call whose answers are job updates."""

    def __iter__(self) -> Iterator[JobUpdate]: ...

    def cancel(self) -> object:
        """Ends the call, not the job."""


class JobRequest(Protocol):
    """A request that starts a job."""

    @property
    def operation(self) -> types_job_pb2.OperationRef: ...


R = TypeVar("R", bound=JobRequest)
Begin = Callable[[Agent], JobCall]
OnProgress = Callable[[types_job_pb2.Progress], None]
OnReturn = Callable[[], None]

# An agent repeats its update every 5 s: without any for so long the connection is broken, and the caller attaches anew.
SILENCE_S = 20.0
# Once a cancel was requested, an agent that is not heard for so long is not waited for.
CANCEL_LIMIT_S = 8.0
_MIN_PAUSE_S, _MAX_PAUSE_S = 0.2, 3.0
_CANCEL_DEADLINE_S = 10.0


class JobControl(Protocol):
    """How the caller of a job ends its wait."""

    def waiting(self, cancel: Callable[[], None], stop: Callable[[], object]) -> AbstractContextManager[None]:
        """While inside, `cancel` cancels the job on its host, and `stop` ends the wait."""

    def cancel_requested(self) -> bool:
        """Whether the job is to be canceled."""

    def pause(self, seconds: float) -> None:
        """Sleeps; raises when the wait is to end."""


def run_job(
    agents: Agents,
    host: HostAddress,
    method: Callable[[Agent], Callable[[R], JobCall]],
    request: R,
    on_progress: OnProgress,
    control: JobControl,
    unreachable_limit_s: float,
    on_return: OnReturn = lambda: None,
    was_lost: bool = False,
) -> JobUpdate:
    """Runs a job on a host and returns its last update, with the result.

    method: one that answers with job updates, e.g. `lambda agent: agent.vms.StartVm`; request: has an `operation`;
    on_return: called as soon as the host answers after a call that broke, or at all if it was lost before.
    Raises the job's OstlerError (CancelledError when it was cancelled), or UnavailableError HOST_UNREACHABLE when the
    host has not answered for `unreachable_limit_s`: then the outcome is unknown.
    """
    job_id: str = request.operation.id
    begin: Begin = lambda agent: method(agent)(request)  # noqa: E731
    return _follow(agents, host, job_id, begin, on_progress, control, unreachable_limit_s, on_return, was_lost)


def watch_job(
    agents: Agents,
    host: HostAddress,
    job_id: str,
    on_progress: OnProgress,
    control: JobControl,
    unreachable_limit_s: float,
) -> JobUpdate:
    """Waits for a job that was started before; like `run_job`, but NotFoundError when the host has no such job."""
    request = job_pb2.WatchJobRequest(operation_id=job_id)
    begin: Begin = lambda agent: agent.jobs.WatchJob(request)  # noqa: E731
    return _follow(agents, host, job_id, begin, on_progress, control, unreachable_limit_s)


def _follow(
    agents: Agents,
    host: HostAddress,
    job_id: str,
    begin: Begin,
    on_progress: OnProgress,
    control: JobControl,
    unreachable_limit_s: float,
    on_return: OnReturn = lambda: None,
    was_lost: bool = False,
) -> JobUpdate:
    heard_at = time.monotonic()
    pause_s = _MIN_PAUSE_S
    silence_s = min(SILENCE_S, unreachable_limit_s)
    while True:
        try:
            for update in _updates(agents, host, job_id, begin, control, silence_s):
                heard_at, pause_s = time.monotonic(), _MIN_PAUSE_S
                if was_lost:
                    on_return()
                    was_lost = False
                if update.state == JobUpdate.RUNNING:
                    on_progress(update.progress)
                elif update.state == JobUpdate.SUCCEEDED:
                    return update
                else:
                    raise from_status(update.error)
            error: OstlerError = UnavailableError("the stream ended before the job", "RPC")
        except grpc.RpcError as rpc_error:
            error = from_rpc_error(rpc_error)
            if not broken(error):
                raise error from None
        was_lost = True
        limit_s = min(unreachable_limit_s, CANCEL_LIMIT_S) if control.cancel_requested() else unreachable_limit_s
        if time.monotonic() - heard_at >= limit_s:
            raise unreachable(host, error) if error.reason == "RPC" else error
        control.pause(pause_s * random.uniform(0.5, 1.0))
        pause_s = min(pause_s * 2, _MAX_PAUSE_S)
        agents.forget(host)


def _updates(
    agents: Agents, host: HostAddress, job_id: str, begin: Begin, control: JobControl, silence_s: float
) -> Iterator[JobUpdate]:
    """The job's updates over one connection, which is given up when it is silent for `silence_s`."""
    agent = agents.at(host)
    request = job_pb2.CancelJobRequest(operation_id=job_id)

    # gRPC cancels a call that nobody refers to any more.
    sent: deque[object] = deque(maxlen=4)
    call = begin(agent)
    try:
        with agents.job(host), agents.silence.watching(call, silence_s) as watched:

            def cancel() -> None:
                # Not waited for: the job's own stream tells what became of it. Lost ones are sent again.
                sent.append(agent.jobs.CancelJob.future(request, timeout=_CANCEL_DEADLINE_S))
                watched.expect_within(CANCEL_LIMIT_S)

            with control.waiting(cancel, call.cancel):
                for update in call:
                    watched.heard()
                    yield update
    finally:
        call.cancel()
