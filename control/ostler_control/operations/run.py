"""What a workflow's body works with: journaled steps, their undo steps, jobs on hosts, progress.

A body is plain code between steps. Everything that has an effect, or an answer that may differ the next time, is in a
step; after a crash the body runs again from the top, and finished steps return their recorded results. Between steps
nothing waits: a finished step is recorded when the next one begins.
"""

from __future__ import annotations

import contextlib
import math
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import structlog
from ostler.types.v1 import job_pb2
from ostler_common import tracing
from ostler_common.errors import CancelledError, InternalError, NotFoundError, OstlerError

from ostler_control.agents import Agent, Agents, HostAddress, JobCall, JobRequest, run_job, watch_job
from ostler_control.keys import Keyring
from ostler_control.operations import records
from ostler_control.operations.inputs import from_json
from ostler_control.operations.interrupts import Interrupts, StoppedError
from ostler_control.operations.journal import Journal
from ostler_control.outage import outage, wait_out

log = structlog.get_logger(__name__)

# Any: whatever JSON can hold.
Json = Any
T = TypeVar("T")
R = TypeVar("R", bound=JobRequest)

_REPORT_INTERVAL_S, _QUICK_S = 0.5, 0.2
# Whether another replica has taken over is asked after each job that lasted longer.
_LONG_S = 1.0
_LOST_HOST_DIVISOR = 12


@dataclass
class Run:
    """One attempt at an operation. inputs_json: as recorded, see `read`; templates: directory of the template files."""

    id: str
    attempt: int
    resource_id: str
    user: str
    inputs_json: str
    journal: Journal
    agents: Agents
    keys: Keyring
    templates: Path
    interrupts: Interrupts
    _step: str = ""
    _always: bool = False
    _in_step: bool = False
    _writes: list[Callable[[], None]] = field(default_factory=list)
    # Blocks of `undoing` that were left while rows of a step in them were not written yet.
    _left: list[Undo] = field(default_factory=list)
    _checked_s: float = -math.inf
    _lost: set[str] = field(default_factory=set)
    _reported: tuple[float, str, int] = field(default=(0.0, "", 0))

    def read(self, inputs: type[T]) -> T:
        """The workflow's inputs, as `record_operation` kept them."""
        return from_json(inputs, self.inputs_json)

    def step(self, name: str, body: Callable[[], T]) -> T:
        """Runs the body and journals its result, so that it runs once unless the process dies inside. The body must be
        idempotent after a crash at any line.

        Its result is JSON (ids and sizes, never a secret): a tuple comes back as a list, an enum as its text.

        Raises the body's OstlerError; CancelledError, without a start, once a cancel was requested.
        """
        return self._journaled(name, body, always=False)

    def defer_write(self, write: Callable[[], None]) -> None:
        """At the end of a step: has the rows that the step changes written in the transaction that records the step, or
        the operation's end: one transaction and one wait for the disk less, and an attempt that was overtaken writes
        nothing. Nobody may count on them before the next step begins."""
        assert self._in_step
        self._writes.append(write)

    def write_rows(self) -> None:
        """Has the rows of the last step written now. Raises what keeps them from it, while the undo steps can run."""
        if self.journal.writes:
            wait_out(lambda: self._check(cancellable=False), self.interrupts.sleep)

    def always(self, name: str, body: Callable[[], T]) -> T:
        """A step that runs even when a cancel was requested: one that undoes something, or comes after the point of no
        return."""
        return self._journaled(name, body, always=True)

    @contextlib.contextmanager
    def undoing(self) -> Iterator[Undo]:
        """Collects undo steps; runs them, last first, when the block fails."""
        undo = Undo(self)
        try:
            yield undo
            if self.journal.writes:
                self._left.append(undo)
        except OstlerError as error:
            undo.run(error)
            raise
        except Exception as error:
            undo.run(bug(f"operation {self.id}", error))
            raise

    def undo_lost(self, error: OstlerError) -> None:
        """When a bug has kept the rows of a finished step from being written, and the blocks around it were left in the
        belief that it has succeeded: runs their undo steps."""
        while self._left and self.journal.rows_lost:
            self._left.pop(0).run(error)

    def ref(self) -> job_pb2.OperationRef:
        """The operation as the agent's call of the present step carries it; a step makes at most one such call."""
        return job_pb2.OperationRef(id=f"{self.id}.{self._step}", attempt=self.attempt)

    def job(
        self,
        host: HostAddress,
        method: Callable[[Agent], Callable[[R], JobCall]],
        request: R,
        share: tuple[int, int] = (0, 100),
        patience_s: float = math.inf,
        on_return: Callable[[], None] = lambda: None,
        was_lost: bool = False,
    ) -> job_pb2.JobUpdate:
        """Inside a step: runs a job on a host, see `agents.run_job`. share: its part of the operation, percent;
        patience_s: tries a host that does not answer for no longer than that."""

        def on_progress(progress: job_pb2.Progress) -> None:
            low, high = share
            percent = low + (high - low) * min(progress.percent, 100) // 100
            # A job that is over at once needs no report; of others the agent repeats its progress.
            if time.monotonic() - begin_s >= _QUICK_S:
                self._report(progress.phase, progress.bytes_done, progress.bytes_total, percent)

        begin_s = time.monotonic()

        try:
            if not self._always and self._cancelled_since_check():
                return self._cancel_unstarted(host, request.operation.id, on_progress)
            patience_s = min(patience_s, self._patience_s(host))
            update = run_job(self.agents, host, method, request, on_progress, self, patience_s, on_return, was_lost)
            if time.monotonic() - begin_s >= _LONG_S:
                self.pause(0)  # what the step does with the answer may undo what has been done since
            return update
        except OstlerError as error:
            if error.reason == "HOST_UNREACHABLE":
                self._lost.add(host.host_id)
            if error.reason == "STALE_ATTEMPT" and self._attempt_and_cancel()[0] != self.attempt:
                raise StoppedError from None
            raise

    def phase(self, phase: str, percent: int) -> None:
        """Shows what the operation does now."""
        self._report(phase, 0, 0, percent)

    def progress(self, phase: str, bytes_done: int, bytes_total: int, share: tuple[int, int]) -> None:
        """Shows how far a step of this process's own has come. share: its part of the whole, percent."""
        low, high = share
        percent = low + (high - low) * bytes_done // max(bytes_total, 1)
        self._report(phase, bytes_done, bytes_total, min(percent, high))

    def check(self) -> None:
        """Inside a step that lasts, now and then: raises CancelledError, or StoppedError as `pause` does."""
        self.pause(0)
        if self._attempt_and_cancel()[1]:
            raise cancelled()

    @contextlib.contextmanager
    def waiting(self, cancel: Callable[[], None], stop: Callable[[], object]) -> Iterator[None]:
        """For `agents.run_job`."""

        def stop_waiting() -> None:
            stop()

        with self.interrupts.job(self.id, (lambda: None) if self._always else cancel, stop_waiting):
            yield

    def pause(self, seconds: float) -> None:
        """For `agents.run_job`; raises StoppedError when the process ends or another attempt has taken over."""
        self.interrupts.sleep(seconds)
        if self._attempt_and_cancel()[0] != self.attempt:
            raise StoppedError

    def cancel_requested(self) -> bool:
        """For `agents.run_job`."""
        return not self._always and self._attempt_and_cancel()[1]

    def _attempt_and_cancel(self) -> tuple[int, bool]:
        """`records.attempt_and_cancel`; nothing new while the database cannot tell."""
        try:
            return records.attempt_and_cancel(self.id)
        except Exception as error:
            if outage(error) is None:
                raise
            return self.attempt, False

    def _cancelled_since_check(self) -> bool:
        """Whether a cancel was requested since the step began. Just after that nothing is asked: a cancel that comes in
        between reaches the job, as one that comes later does."""
        fresh = self.attempt == 1 and time.monotonic() - self._checked_s < _QUICK_S
        return not fresh and self._attempt_and_cancel()[1]

    def _patience_s(self, host: HostAddress) -> float:
        """A host that stayed unreachable once gets less time at every further step."""
        return self.agents.unreachable_limit_s / (_LOST_HOST_DIVISOR if host.host_id in self._lost else 1)

    def _cancel_unstarted(
        self, host: HostAddress, job_id: str, on_progress: Callable[[job_pb2.Progress], None]
    ) -> job_pb2.JobUpdate:
        """The cancel came before this attempt: an earlier one may have started the job."""
        if self.attempt > 1:
            with contextlib.suppress(NotFoundError):
                return watch_job(self.agents, host, job_id, on_progress, self, self._patience_s(host))
        raise cancelled()

    def _journaled(self, name: str, body: Callable[[], T], *, always: bool) -> T:
        def checked() -> T:
            self._check(cancellable=not always)
            self._writes = []  # an attempt that met an outage may have left some
            with tracing.span(f"step {name}", operation=self.id, attempt=self.attempt):
                return body()

        def attempt() -> dict[str, Json]:
            assert not self._in_step, f"step {name} begins inside of step {self._step}"
            self._step, self._always, self._in_step = name, always, True
            try:
                found: dict[str, Json] = {"value": wait_out(checked, self.interrupts.sleep)}
                self.journal.finished(name, found, self._writes)
            except OstlerError as error:
                found = {"error": records.error_json(error)}
                self.journal.finished(name, found)
            except Exception as error:
                found = {"error": records.error_json(bug(f"step {name} of operation {self.id}", error))}
                self.journal.finished(name, found)
            finally:
                self._in_step = False
            return found

        if self.interrupts.stopping.is_set():
            with contextlib.suppress(Exception):  # what is not written is done again
                self.journal.look()
            raise StoppedError
        outcome = self.journal.recorded(name) or attempt()
        if "error" in outcome:
            raise records.error_from_json(outcome["error"])
        value: T = outcome["value"]
        return value

    def _check(self, *, cancellable: bool) -> None:
        attempt, cancel = self.journal.look()
        if not self.journal.rows_lost:
            self._left.clear()
        if attempt != self.attempt:
            raise StoppedError
        # An earlier attempt may have started this very step: then `job` finds out what became of it.
        if cancel and cancellable and self.attempt == 1:
            raise cancelled()
        self._checked_s = time.monotonic()

    def _report(self, phase: str, bytes_done: int, bytes_total: int, percent: int) -> None:
        when, last_phase, last_percent = self._reported
        percent = max(percent, last_percent)
        if phase == last_phase and time.monotonic() - when < _REPORT_INTERVAL_S:
            return
        self._reported = (time.monotonic(), phase, percent)
        try:
            records.report(self.id, phase, bytes_done, bytes_total, percent)
        except Exception as error:
            if outage(error) is None:  # progress may be lost
                raise


class Undo:
    """The undo steps of a workflow. error: why they run; None until they do."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._steps: list[tuple[str, Callable[[], Json]]] = []
        self._failed: set[str] = set()
        self.error: OstlerError | None = None

    def push(self, name: str, body: Callable[[], Json]) -> None:
        """Call it before the step: `body` undoes it, also when it was done by half or not at all."""
        self._steps.append((name, body))

    def clear(self) -> None:
        """Forgets the undo steps: the work so far is to stay, with its rows."""
        self._run.write_rows()
        self._steps.clear()

    def failed(self, *names: str) -> bool:
        """In an undo step that runs later: whether one of these has failed."""
        return not self._failed.isdisjoint(names)

    def run(self, error: OstlerError) -> None:
        """Runs all, last first; logs one that fails and goes on with the others."""
        self.error = error
        while self._steps:
            name, body = self._steps.pop()
            try:
                self._run.always(name, body)
            except OstlerError as failure:
                self._failed.add(name)
                log.warning("undoing failed", operation=self._run.id, step=name, reason=failure.reason)


def bug(what: str, error: Exception) -> InternalError:
    """The error for an unexpected exception. Its text may hold anything, so neither the log nor the journal gets it."""
    kind = type(error).__name__
    log.error("failed by a bug", what=what, kind=kind, traceback="".join(traceback.format_tb(error.__traceback__)))
    return InternalError(f"{what} failed by a bug ({kind}); the log has the details", "INTERNAL")


def cancelled() -> CancelledError:
    """The error of an operation that was cancelled."""
    return CancelledError("cancelled on request; everything done so far was undone", "CANCELLED")
