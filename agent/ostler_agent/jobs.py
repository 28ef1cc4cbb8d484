"""Runs changing calls as jobs: idempotent by operation id, journaled, watchable, cancellable, resolved after a crash.

One operation id is one job on this host. Its journal record is a JSON file with the request (without secrets), facts
for recovery, and the outcome. A job continues if its call's stream breaks.
"""

from __future__ import annotations

import errno
import os
import re
import threading
import time
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog
from google.protobuf.message import Message
from ostler.types.v1 import job_pb2
from ostler_common import tracing
from ostler_common.errors import (
    CancelledError,
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    OstlerError,
    ResourceExhaustedError,
    UnavailableError,
    bad_field,
    from_status,
    to_status,
)
from ostler_common.redaction import redacted

from ostler_agent.journal import Journal, Record, digest

log = structlog.get_logger(__name__)

HEARTBEAT_S = 5.0  # repeats an unchanged update this often, to detect callers that are gone
RETENTION_S = 7 * 24 * 3600
PRUNE_INTERVAL_S = 3600.0
RESUME_INTERVAL_S = 1.0
_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_RESULT_FIELDS = {
    field.message_type.full_name: field.name
    for field in job_pb2.JobUpdate.DESCRIPTOR.oneofs_by_name["result"].fields
    if field.message_type
}

JobFunction = Callable[["JobContext"], Message | None]
Recover = Callable[[Record], Message | None]
Resume = Callable[[Record, "JobContext"], Message | None]


class JobContext:
    """A job as its function sees it: reports progress, checks for cancellation, stores facts for recovery.

    facts: stored by this or an earlier attempt. Outside of a job, use `JobContext("name")`.
    """

    def __init__(
        self,
        operation_id: str,
        *,
        facts: Mapping[str, str] = types.MappingProxyType({}),
        changed: Callable[[job_pb2.Progress], None] = lambda progress: None,
        remember: Callable[[dict[str, str]], None] = lambda facts: None,
    ) -> None:
        self.operation_id = operation_id
        self.facts = dict(facts)
        self._changed = changed
        self._remember = remember
        self._percent = 0
        self._cancel_error: OstlerError | None = None
        self._cancelled = threading.Event()
        self._callbacks: list[Callable[[], None]] = []
        self._lock = threading.RLock()

    def report(self, phase: str, done: int = 0, total: int = 0, percent: int | None = None) -> None:
        """Reports progress. phase: a few lower-case words; done, total: bytes of this phase.

        percent: of the whole job, never falls; None: done / total if total is known, else unchanged.
        """
        if percent is None:
            percent = 100 * done // total if total else self._percent
        self._percent = max(self._percent, min(100, percent))
        self._changed(job_pb2.Progress(phase=phase, bytes_done=done, bytes_total=total, percent=self._percent))

    def check(self) -> None:
        """Raises CancelledError if the job must stop (UnavailableError INTERRUPTED if the agent stops)."""
        if self._cancel_error:
            raise self._cancel_error

    def wait(self, seconds: float) -> None:
        """Sleeps; raises like `check` as soon as the job must stop."""
        self._cancelled.wait(seconds)
        self.check()

    def on_cancel(self, callback: Callable[[], None]) -> AbstractContextManager[None]:
        """Calls back once when the job must stop: from the canceller's thread, or at once if it must stop already.

        The callback must be quick. Leaving the returned context unregisters it: then it is not running and never runs.
        """
        with self._lock:
            if self._cancel_error:
                callback()
            else:
                self._callbacks.append(callback)
        return _Registration(self, callback)

    def remember(self, **facts: str) -> None:
        """Stores facts (never secrets) in the journal for recovery; durable on return."""
        self.facts.update(facts)
        self._remember(facts)

    def cancel(self, error: OstlerError | None = None) -> None:
        """Asks the job to stop with an error; None: a caller cancelled it."""
        with self._lock:
            if self._cancel_error:
                return
            self._cancel_error = error or CancelledError("the operation was cancelled", "CANCELLED")
            self._cancelled.set()
            callbacks, self._callbacks = self._callbacks, []
            for callback in callbacks:
                try:
                    callback()
                except Exception:
                    log.exception("a cancel callback failed", operation=self.operation_id)

    def _forget(self, callback: Callable[[], None]) -> None:
        with self._lock:
            if callback in self._callbacks:
                self._callbacks.remove(callback)


class _Registration:
    def __init__(self, job: JobContext, callback: Callable[[], None]) -> None:
        self._job, self._callback = job, callback

    def __enter__(self) -> None:
        return None

    def __exit__(self, *exc: object) -> None:
        self._job._forget(self._callback)


@dataclass(frozen=True)
class RunningJob:
    """A running job as metrics show it."""

    operation_id: str
    kind: str
    progress: job_pb2.Progress


class _Running:
    """A running job: its record, its newest update, and the streams that wait for the next update."""

    def __init__(self, record: Record, journal: Journal) -> None:
        self.record = record
        self._journal = journal
        self.moved = threading.Condition()
        self.version = 0
        self.update = job_pb2.JobUpdate(operation_id=record.id, state=job_pb2.JobUpdate.RUNNING)
        self.update.progress.phase = "starting"
        self.context = JobContext(record.id, facts=record.facts, changed=self._progress, remember=self._remember)

    def publish(self, update: job_pb2.JobUpdate) -> None:
        with self.moved:
            self.update = update
            self.version += 1
            self.moved.notify_all()

    def updates(self) -> Iterator[job_pb2.JobUpdate]:
        """Yields the newest update whenever it changes, up to the final one."""
        seen = -1
        while True:
            with self.moved:
                self.moved.wait_for(lambda: self.version != seen, HEARTBEAT_S)  # noqa: B023 (called within this turn)
                update, seen = self.update, self.version
            yield update
            if update.state != job_pb2.JobUpdate.RUNNING:
                return

    def _progress(self, progress: job_pb2.Progress) -> None:
        self.publish(job_pb2.JobUpdate(operation_id=self.record.id, state=job_pb2.JobUpdate.RUNNING, progress=progress))

    def _remember(self, facts: dict[str, str]) -> None:
        with self.moved:
            # Replaced, not changed in place: another thread may be writing the record.
            self.record.facts = {**self.record.facts, **facts}
            self._journal.save(self.record)


class Jobs:
    """All jobs of this agent.

    Call `on_recover` for every kind, then `recover`, then serve.
    """

    def __init__(self, journal_dir: Path) -> None:
        self._journal = Journal(journal_dir)
        self._running: dict[str, _Running] = {}
        self._recover: dict[str, Recover] = {}
        self._resume: dict[str, Resume] = {}
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._stopping = False
        self._next_prune = 0.0
        self._deferred: set[str] = set()

    def run(
        self, operation: job_pb2.OperationRef, kind: str, request: Message, work: JobFunction
    ) -> Iterator[job_pb2.JobUpdate]:
        """Starts the job, attaches to it, or replays its recorded outcome; returns its updates.

        work: runs in its own thread and returns the job's result (a message of JobUpdate's `result`) or None. kind:
        e.g. "volume.create". Raises InvalidArgumentError (INVALID_FIELD; OPERATION_ID_REUSED), FailedPreconditionError
        (STALE_ATTEMPT), UnavailableError (AGENT_STOPPING).
        """
        if not _ID.fullmatch(operation.id):
            raise bad_field("operation.id", "must be 1 to 128 of A-Z a-z 0-9 . _ -")
        if operation.attempt < 1:
            raise bad_field("operation.attempt", "must be 1 or more")
        with self._lock:
            job = self._running.get(operation.id)
            record = job.record if job else self._resolved_record(operation.id)
            if record:
                _check_same_request(record, operation, kind, digest(request))
            if record and operation.attempt > record.attempt:
                again = not job and record.state in ("FAILED", "CANCELLED")
                record.attempt = operation.attempt
                if not again:
                    self._journal.save(record)
            else:
                again = record is None
            if job:
                return job.updates()
            if record and not again:
                return iter([record.update()])
            if self._stopping:
                raise UnavailableError("the agent is stopping (try again in a moment)", "AGENT_STOPPING")
            self._prune()
            facts = record.facts if record else {}
            record = Record.begin(operation.id, operation.attempt, kind, digest(request), redacted(request))
            record.facts.update(facts)
            self._journal.save(record)
            job = _Running(record, self._journal)
            self._start(job, work)
        return job.updates()

    def get(self, operation_id: str) -> job_pb2.JobUpdate:
        """Returns a job's newest update. Raises NotFoundError (JOB_NOT_FOUND)."""
        return next(self.watch(operation_id))

    def watch(self, operation_id: str) -> Iterator[job_pb2.JobUpdate]:
        """Yields a job's updates up to its final one. Raises NotFoundError (JOB_NOT_FOUND)."""
        with self._lock:
            job = self._running.get(operation_id)
            if job:
                return job.updates()
            record = self._resolved_record(operation_id) if _ID.fullmatch(operation_id) else None
        if record is None:
            raise NotFoundError(f"this host has no job {operation_id}", "JOB_NOT_FOUND", {"operation": operation_id})
        return iter([record.update()])

    def running(self) -> list[RunningJob]:
        """The jobs that are running."""
        with self._lock:
            return [RunningJob(job.record.id, job.record.kind, job.update.progress) for job in self._running.values()]

    def cancel(self, operation_id: str) -> None:
        """Asks a job to stop and undo its changes; no effect on a finished job. Raises NotFoundError JOB_NOT_FOUND."""
        with self._lock:
            job = self._running.get(operation_id)
        if job:
            job.context.cancel()
        else:
            self.get(operation_id)

    def on_recover(self, kind: str, recover: Recover) -> None:
        """Registers the function that resolves jobs of this kind which the agent's death interrupted.

        It undoes partial changes and raises the error to record, or returns the result if the job was in fact complete.
        Jobs of a kind without such a function are recorded as FAILED, INTERRUPTED.
        """
        self._recover[kind] = recover

    def on_resume(self, kind: str, resume: Resume) -> None:
        """Like `on_recover`, for work that continues without the agent: runs as the job again and waits for the end.

        It can be watched and cancelled like any job, and does not delay the agent's start.
        """
        self._resume[kind] = resume

    def recover(self) -> None:
        """Resolves or resumes every job that an earlier run of the agent left running. Call once, before serving."""
        with self._lock:
            for operation_id in self._journal.ids():
                record = self._journal.load(operation_id)
                resume = self._resume.get(record.kind) if record and record.state == "RUNNING" else None
                if record and resume:
                    self._start(_Running(record, self._journal), partial(_resumed, resume, record))
                else:
                    self._resolve_or_defer(operation_id)

    def resolve_deferred(self) -> None:
        """Resolves the jobs that `recover` deferred because a pool's password was missing."""
        with self._lock:
            for operation_id in list(self._deferred - self._running.keys()):
                self._resolve_or_defer(operation_id)

    def stop(self, timeout_s: float) -> None:
        """Refuses new jobs, waits for running jobs, then interrupts them and waits for their undo."""
        with self._lock:
            self._stopping = True
            self._idle.wait_for(lambda: not self._running, timeout_s)
            left = list(self._running.values())
        for job in left:
            job.context.cancel(interrupted())
        with self._lock:
            self._idle.wait_for(lambda: not self._running, timeout_s)

    def _start(self, job: _Running, work: JobFunction) -> None:
        self._running[job.record.id] = job
        threading.Thread(
            target=self._work, args=(job, work, tracing.parent()), name=f"job-{job.record.id}", daemon=True
        ).start()

    def _work(self, job: _Running, work: JobFunction, trace: str) -> None:
        """trace: of the call that starts it."""

        def traced() -> Message | None:
            with tracing.continued(trace), tracing.span(f"job {job.record.kind}", operation=job.record.id):
                return work(job.context)

        with structlog.contextvars.bound_contextvars(operation=job.record.id, kind=job.record.kind):
            final = _outcome(job.record.id, traced)
            self._finish(job.record, final)
        with self._lock:
            # In one step for new calls and for watchers: nobody attaches to a finished job.
            del self._running[job.record.id]
            job.publish(final)
            self._idle.notify_all()

    def _finish(self, record: Record, final: job_pb2.JobUpdate) -> None:
        record.end(final)
        try:
            self._journal.save(record)
        except OSError:
            # The caller still gets the outcome; after a restart, recovery determines it again.
            log.exception("cannot write the journal")
        log.info("job ended", kind=record.kind, operation=record.id, state=record.state, error=final.error.message)

    def _resolved_record(self, operation_id: str) -> Record | None:
        """The record of a job that is not running. Resolves a record of an earlier run that still says RUNNING.

        Raises UnavailableError (POOL_NEEDS_CREDENTIALS) if that must wait for a pool's password.
        """
        record = self._journal.load(operation_id)
        if record and record.state == "RUNNING":
            found = record
            final = _outcome(record.id, lambda: self._recover.get(found.kind, _fail_interrupted)(found))
            if final.state == job_pb2.JobUpdate.FAILED:
                error = from_status(final.error)
                if error.reason == "POOL_NEEDS_CREDENTIALS":
                    self._deferred.add(operation_id)
                    # Like an unreachable agent: the caller tries again.
                    raise UnavailableError(error.message, error.reason, error.metadata)
            self._deferred.discard(operation_id)
            self._finish(record, final)
        return record

    def _resolve_or_defer(self, operation_id: str) -> None:
        try:
            self._resolved_record(operation_id)
        except UnavailableError as error:
            log.info("job deferred", operation=operation_id, why=str(error))

    def _prune(self) -> None:
        now = time.monotonic()
        if now >= self._next_prune:
            self._next_prune = now + PRUNE_INTERVAL_S
            self._journal.prune(time.time() - RETENTION_S, keep=self._running.keys())


def interrupted() -> OstlerError:
    """The error of a job that the agent's end interrupted and whose changes were undone."""
    return UnavailableError("the agent stopped during this operation and undid its changes (try again)", "INTERRUPTED")


def _resumed(resume: Resume, record: Record, job: JobContext) -> Message | None:
    """Resumes a job that continues without the agent; waits for a pool's password, which arrives after the start."""
    while True:
        try:
            return resume(record, job)
        except UnavailableError as error:
            if error.reason != "POOL_NEEDS_CREDENTIALS":
                raise
            log.info("job deferred", operation=record.id, why=str(error))
            job.wait(RESUME_INTERVAL_S)


def _fail_interrupted(record: Record) -> None:
    raise interrupted()


def _check_same_request(record: Record, operation: job_pb2.OperationRef, kind: str, request_digest: str) -> None:
    facts = {"operation": operation.id, "attempt": str(operation.attempt), "seen": str(record.attempt)}
    if (record.kind, record.digest) != (kind, request_digest):
        raise InvalidArgumentError(
            f"operation {operation.id} started with another request (use a new operation id)",
            "OPERATION_ID_REUSED",
            facts,
        )
    if operation.attempt < record.attempt:
        raise FailedPreconditionError(
            f"attempt {operation.attempt} of operation {operation.id} is stale: attempt {record.attempt} has started",
            "STALE_ATTEMPT",
            facts,
        )


def _outcome(operation_id: str, work: Callable[[], Message | None]) -> job_pb2.JobUpdate:
    """Runs the function and returns the final update with its result or error."""
    update = job_pb2.JobUpdate(operation_id=operation_id)
    try:
        result = work()
        update.state = job_pb2.JobUpdate.SUCCEEDED
        update.progress.percent = 100
        if result is not None:
            getattr(update, _RESULT_FIELDS[result.DESCRIPTOR.full_name]).CopyFrom(result)
    except CancelledError as error:
        update.state = job_pb2.JobUpdate.CANCELLED
        update.error.CopyFrom(to_status(error))
    except Exception as error:
        update.state = job_pb2.JobUpdate.FAILED
        update.error.CopyFrom(to_status(as_ostler_error(error)))
    return update


def as_ostler_error(error: Exception) -> OstlerError:
    """The error to report to a caller. An error that is not an OstlerError is a bug or the system's; logs it."""
    if isinstance(error, OstlerError):
        return error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceExhaustedError(
            f"no space left for {error.filename or 'a file'} (free some space, then try again)", "POOL_FULL"
        )
    log.error("unexpected error", exc_info=error)
    what = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else type(error).__name__
    return InternalError(f"the agent failed: {what} (see its log)", "INTERNAL")
