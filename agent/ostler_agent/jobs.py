"""Changing calls as jobs: idempotent by operation id, journalled, watched, cancelled, settled after a crash.

One operation id is one piece of work on this host. Its journal record is a JSON file that holds the request without
its secrets, what the work chose to remember, and the outcome. The stream of a call going away does not stop its job.
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
from functools import partial
from pathlib import Path

import structlog
from google.protobuf.message import Message
from ostler.types.v1 import job_pb2
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

HEARTBEAT_S = 5.0  # an unchanged job is told of again this often, so that a caller that went away is noticed
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
    """What a job's work holds: tells how far it is, asks whether to go on, remembers what recovery will need.

    facts: what this or an earlier attempt chose to remember. It can stand alone (`JobContext("name")`) where work
    runs outside of a job.
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
        """Tells how far the work is. phase: a few lower-case words; done, total: bytes of this phase.

        percent is of the whole work and never falls; None: done of total when total is known, else as it was.
        """
        if percent is None:
            percent = 100 * done // total if total else self._percent
        self._percent = max(self._percent, min(100, percent))
        self._changed(job_pb2.Progress(phase=phase, bytes_done=done, bytes_total=total, percent=self._percent))

    def check(self) -> None:
        """Raises CancelledError when the job is to stop (UnavailableError INTERRUPTED when the agent is to)."""
        if self._cancel_error:
            raise self._cancel_error

    def wait(self, seconds: float) -> None:
        """Sleeps; raises as `check` does as soon as the job is to stop."""
        self._cancelled.wait(seconds)
        self.check()

    def on_cancel(self, callback: Callable[[], None]) -> AbstractContextManager[None]:
        """Calls back once when the job is to stop: from the canceller's thread, or at once when it already is.

        The callback must be quick. Used as a context manager, leaving it takes the callback back: it is then not
        running and will never run.
        """
        with self._lock:
            if self._cancel_error:
                callback()
            else:
                self._callbacks.append(callback)
        return _Registration(self, callback)

    def remember(self, **facts: str) -> None:
        """Keeps facts (never secrets) in the journal for the kind's recovery; durable on return."""
        self.facts.update(facts)
        self._remember(facts)

    def cancel(self, error: OstlerError | None = None) -> None:
        """Asks the work to stop with an error; None: it was cancelled by a caller."""
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


class _Running:
    """A job that runs: its record, its newest update, and those who wait for the next."""

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
        """The newest update whenever there is a newer one, up to the final one."""
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
            # Replaced, not changed: another thread may be writing the record just now.
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

        work runs in a thread of its own and returns the message that is the job's result (VolumeInfo, VmInfo, ...,
        one of JobUpdate's) or None. kind: "volume.create" and the like. Raises InvalidArgumentError (INVALID_FIELD;
        OPERATION_ID_REUSED), FailedPreconditionError (STALE_ATTEMPT), UnavailableError (AGENT_STOPPING).
        """
        if not _ID.fullmatch(operation.id):
            raise bad_field("operation.id", "must be 1 to 128 of A-Z a-z 0-9 . _ -")
        if operation.attempt < 1:
            raise bad_field("operation.attempt", "must be 1 or more")
        with self._lock:
            job = self._running.get(operation.id)
            record = job.record if job else self._settled(operation.id)
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
        """Where a job stands. Raises NotFoundError (JOB_NOT_FOUND)."""
        return next(self.watch(operation_id))

    def watch(self, operation_id: str) -> Iterator[job_pb2.JobUpdate]:
        """A job's updates up to its final one. Raises NotFoundError (JOB_NOT_FOUND)."""
        with self._lock:
            job = self._running.get(operation_id)
            if job:
                return job.updates()
            record = self._settled(operation_id) if _ID.fullmatch(operation_id) else None
        if record is None:
            raise NotFoundError(f"this host knows no job {operation_id}", "JOB_NOT_FOUND", {"operation": operation_id})
        return iter([record.update()])

    def cancel(self, operation_id: str) -> None:
        """Asks a job to stop and undo; one that is over is left alone. Raises NotFoundError (JOB_NOT_FOUND)."""
        with self._lock:
            job = self._running.get(operation_id)
        if job:
            job.context.cancel()
        else:
            self.get(operation_id)

    def on_recover(self, kind: str, recover: Recover) -> None:
        """Names the function that finds out how a job of this kind ended when the agent died in the middle of it.

        It undoes what is half done and raises the error to record, or returns the result if the work was in fact
        complete. A kind without one is recorded as FAILED, INTERRUPTED.
        """
        self._recover[kind] = recover

    def on_resume(self, kind: str, resume: Resume) -> None:
        """Like `on_recover` for work that goes on without the agent: the job runs again, with this to wait for its end.

        It is watched and cancelled like any other job, and holds up nobody.
        """
        self._resume[kind] = resume

    def recover(self) -> None:
        """Settles or resumes every job that an earlier life of the agent left running. Call once, before serving."""
        with self._lock:
            for operation_id in self._journal.ids():
                record = self._journal.load(operation_id)
                resume = self._resume.get(record.kind) if record and record.state == "RUNNING" else None
                if record and resume:
                    self._start(_Running(record, self._journal), partial(_resumed, resume, record))
                else:
                    self._resolve_or_defer(operation_id)

    def resolve_deferred(self) -> None:
        """Settles what `recover` had to leave because a pool's password was not there yet."""
        with self._lock:
            for operation_id in list(self._deferred - self._running.keys()):
                self._resolve_or_defer(operation_id)

    def stop(self, timeout_s: float) -> None:
        """Takes no more jobs, gives those that run the time to end, then interrupts them and waits for their undo."""
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
        threading.Thread(target=self._work, args=(job, work), name=f"job-{job.record.id}", daemon=True).start()

    def _work(self, job: _Running, work: JobFunction) -> None:
        with structlog.contextvars.bound_contextvars(operation=job.record.id, kind=job.record.kind):
            final = _outcome(job.record.id, lambda: work(job.context))
            self._finish(job.record, final)
        with self._lock:
            # At once for those who ask anew and for those who watch: nobody attaches to a job that is over.
            del self._running[job.record.id]
            job.publish(final)
            self._idle.notify_all()

    def _finish(self, record: Record, final: job_pb2.JobUpdate) -> None:
        record.end(final)
        try:
            self._journal.save(record)
        except OSError:
            # The caller still hears the outcome; after a restart recovery finds it out again.
            log.exception("the journal could not be written")
        log.info("job over", kind=record.kind, operation=record.id, state=record.state, error=final.error.message)

    def _settled(self, operation_id: str) -> Record | None:
        """The record of a job that does not run; one that says it runs is from an earlier life and is settled now.

        Raises UnavailableError (POOL_NEEDS_CREDENTIALS) when that has to wait.
        """
        record = self._journal.load(operation_id)
        if record and record.state == "RUNNING":
            found = record
            final = _outcome(record.id, lambda: self._recover.get(found.kind, _fail_interrupted)(found))
            if final.state == job_pb2.JobUpdate.FAILED:
                error = from_status(final.error)
                if error.reason == "POOL_NEEDS_CREDENTIALS":
                    self._deferred.add(operation_id)
                    # As if the agent were away: the caller tries again in a moment.
                    raise UnavailableError(error.message, error.reason, error.metadata)
            self._deferred.discard(operation_id)
            self._finish(record, final)
        return record

    def _resolve_or_defer(self, operation_id: str) -> None:
        try:
            self._settled(operation_id)
        except UnavailableError as error:
            log.info("a job is settled later", operation=operation_id, why=str(error))

    def _prune(self) -> None:
        now = time.monotonic()
        if now >= self._next_prune:
            self._next_prune = now + PRUNE_INTERVAL_S
            self._journal.prune(time.time() - RETENTION_S, keep=self._running.keys())


def interrupted() -> OstlerError:
    """The error of a job that the agent's end cut short, with what it had begun undone."""
    return UnavailableError(
        "the agent stopped in the middle of this operation, which was undone (try again)", "INTERRUPTED"
    )


def _resumed(resume: Resume, record: Record, job: JobContext) -> Message | None:
    """Settles a job that goes on without the agent; a pool's password comes once the agent serves, and is awaited."""
    while True:
        try:
            return resume(record, job)
        except UnavailableError as error:
            if error.reason != "POOL_NEEDS_CREDENTIALS":
                raise
            log.info("a job is settled later", operation=record.id, why=str(error))
            job.wait(RESUME_INTERVAL_S)


def _fail_interrupted(record: Record) -> None:
    raise interrupted()


def _check_same_request(record: Record, operation: job_pb2.OperationRef, kind: str, request_digest: str) -> None:
    facts = {"operation": operation.id, "attempt": str(operation.attempt), "seen": str(record.attempt)}
    if (record.kind, record.digest) != (kind, request_digest):
        raise InvalidArgumentError(
            f"operation {operation.id} was begun with another request (use a new operation id)",
            "OPERATION_ID_REUSED",
            facts,
        )
    if operation.attempt < record.attempt:
        raise FailedPreconditionError(
            f"attempt {operation.attempt} of operation {operation.id} is stale: attempt {record.attempt} was seen",
            "STALE_ATTEMPT",
            facts,
        )


def _outcome(operation_id: str, work: Callable[[], Message | None]) -> job_pb2.JobUpdate:
    """Runs work and puts its result or error in a final update."""
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
    """The error to tell a caller: what is no OstlerError is a bug or the system's, and is logged here."""
    if isinstance(error, OstlerError):
        return error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceExhaustedError(
            f"no space is left for {error.filename or 'a file'} (free some, then try again)", "POOL_FULL"
        )
    log.error("unexpected error", exc_info=error)
    what = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else type(error).__name__
    return InternalError(f"the agent failed: {what} (its log says more)", "INTERNAL")
