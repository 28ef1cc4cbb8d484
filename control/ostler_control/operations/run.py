"""What a workflow's body works with: journalled steps, their undoing, jobs on hosts, progress.

A body is plain code between steps. Everything that has an effect, or an answer that may differ the next time, is in a
step; the body runs again from the top after a crash, and finished steps then bring their recorded results.
"""

from __future__ import annotations

import contextlib
import json
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import structlog
from dbos import DBOS
from ostler.types.v1 import job_pb2
from ostler_common.errors import CancelledError, InternalError, NotFoundError, OstlerError
from peewee import InterfaceError, OperationalError

from ostler_control.agents import Agent, Agents, HostAddress, run_job, watch_job
from ostler_control.keys import Keyring
from ostler_control.operations import records
from ostler_control.operations.inputs import from_json
from ostler_control.operations.interrupts import Interrupts, StoppedError

log = structlog.get_logger(__name__)

Json = Any
T = TypeVar("T")

_DATABASE_PATIENCE_S = 60.0
_REPORT_INTERVAL_S = 0.5
_LESS_PATIENCE = 12


@dataclass
class Run:
    """One attempt at an operation. inputs_json: as recorded, see `read`; templates: directory of the template files."""

    id: str
    attempt: int
    resource_id: str
    user: str
    inputs_json: str
    agents: Agents
    keys: Keyring
    templates: Path
    interrupts: Interrupts
    _step: str = ""
    _always: bool = False
    _lost: set[str] = field(default_factory=set)
    _reported: tuple[float, str, int] = field(default=(0.0, "", 0))

    def read(self, inputs: type[T]) -> T:
        """The workflow's inputs, as `record_operation` kept them."""
        return from_json(inputs, self.inputs_json)

    @property
    def inputs(self) -> dict[str, Json]:
        """The same for workflows that have no dataclass yet."""
        return json.loads(self.inputs_json)  # type: ignore[no-any-return]

    def step(self, name: str, body: Callable[[], Json]) -> Json:
        """Does something once, as far as the journal can tell. `body` bears to be repeated after a crash at any line.

        Its answer is JSON: ids and sizes, never a secret.

        Raises the body's OstlerError; CancelledError instead of beginning once the operation is to be cancelled.
        """
        return self._journalled(name, body, always=False)

    def always(self, name: str, body: Callable[[], Json]) -> Json:
        """A step that is done even when the operation is to be cancelled: one that takes something back, or comes after
        the point of no return."""
        return self._journalled(name, body, always=True)

    @contextlib.contextmanager
    def undoing(self) -> Iterator[Undo]:
        """Collects what undoes the steps inside; does it, last first, when the block fails."""
        undo = Undo(self)
        try:
            yield undo
        except OstlerError as error:
            undo.run(error)
            raise
        except Exception as error:
            undo.run(bug(f"operation {self.id}", error))
            raise

    def ref(self) -> job_pb2.OperationRef:
        """What the agent's call of the present step carries; a step makes at most one such call."""
        return job_pb2.OperationRef(id=f"{self.id}.{self._step}", attempt=self.attempt)

    def job(
        self, host: HostAddress, method: Callable[[Agent], Any], request: Any, share: tuple[int, int] = (0, 100)
    ) -> job_pb2.JobUpdate:
        """Inside a step: has a host's agent do a job, see `agents.run_job`. share: its part of the whole, percent."""

        def on_progress(progress: job_pb2.Progress) -> None:
            low, high = share
            percent = low + (high - low) * min(progress.percent, 100) // 100
            self._report(progress.phase, progress.bytes_done, progress.bytes_total, percent)

        try:
            if not self._always and records.attempt_and_cancel(self.id)[1]:
                return self._cancel_unstarted(host, request.operation.id, on_progress)
            return run_job(self.agents, host, method, request, on_progress, self, self._patience_s(host))
        except OstlerError as error:
            if error.reason == "HOST_UNREACHABLE":
                self._lost.add(host.host_id)
            if error.reason == "STALE_ATTEMPT" and records.attempt_and_cancel(self.id)[0] != self.attempt:
                raise StoppedError from None
            raise

    def phase(self, phase: str, percent: int) -> None:
        """Shows what is being done now."""
        self._report(phase, 0, 0, percent)

    def progress(self, phase: str, bytes_done: int, bytes_total: int, share: tuple[int, int]) -> None:
        """Shows how far a step of this process's own has come. share: its part of the whole, percent."""
        low, high = share
        percent = low + (high - low) * bytes_done // max(bytes_total, 1)
        self._report(phase, bytes_done, bytes_total, min(percent, high))

    def check(self) -> None:
        """Inside a step that lasts, now and then: raises CancelledError, or StoppedError as `pause` does."""
        self.pause(0)
        if records.attempt_and_cancel(self.id)[1]:
            raise cancelled()

    @contextlib.contextmanager
    def waiting(self, cancel: Callable[[], None], stop: Callable[[], object]) -> Iterator[None]:
        """For `agents.run_job`."""

        def stop_waiting() -> None:
            stop()

        with self.interrupts.job(self.id, (lambda: None) if self._always else cancel, stop_waiting):
            yield

    def pause(self, seconds: float) -> None:
        """For `agents.run_job`; raises StoppedError when the process ends or another try has taken over."""
        if self.interrupts.stopping.wait(seconds) or records.attempt_and_cancel(self.id)[0] != self.attempt:
            raise StoppedError

    def _patience_s(self, host: HostAddress) -> float:
        """A host that was waited for in vain is not waited for as long at every further step."""
        return self.agents.unreachable_limit_s / (_LESS_PATIENCE if host.host_id in self._lost else 1)

    def _cancel_unstarted(
        self, host: HostAddress, job_id: str, on_progress: Callable[[job_pb2.Progress], None]
    ) -> job_pb2.JobUpdate:
        """The wish to cancel came before this try: an earlier one may have begun the job."""
        if self.attempt > 1:
            with contextlib.suppress(NotFoundError):
                return watch_job(self.agents, host, job_id, on_progress, self, self._patience_s(host))
        raise cancelled()

    def _journalled(self, name: str, body: Callable[[], Json], *, always: bool) -> Json:
        def attempt() -> dict[str, Json]:
            self._step, self._always = name, always
            try:
                self._check(cancellable=not always)
                return {"value": _patiently(body, self.pause)}
            except OstlerError as error:
                return {"error": records.error_json(error)}
            except Exception as error:
                return {"error": records.error_json(bug(f"step {name} of operation {self.id}", error))}

        if self.interrupts.stopping.is_set():
            raise StoppedError
        try:
            outcome = DBOS.run_step({"name": name}, attempt)
        except Exception:
            if self.interrupts.stopping.is_set():  # the journal was closed meanwhile
                raise StoppedError from None
            raise
        if "error" in outcome:
            raise records.error_from_json(outcome["error"])
        return outcome["value"]

    def _check(self, *, cancellable: bool) -> None:
        attempt, cancel = records.attempt_and_cancel(self.id)
        if attempt != self.attempt:
            raise StoppedError
        # In a later try an earlier one may have begun this very step: then `job` finds out what became of it.
        if cancel and cancellable and self.attempt == 1:
            raise cancelled()

    def _report(self, phase: str, bytes_done: int, bytes_total: int, percent: int) -> None:
        when, last_phase, last_percent = self._reported
        percent = max(percent, last_percent)
        if phase == last_phase and time.monotonic() - when < _REPORT_INTERVAL_S:
            return
        self._reported = (time.monotonic(), phase, percent)
        records.report(self.id, phase, bytes_done, bytes_total, percent)


class Undo:
    """What takes back the steps that were begun. error: why; None while all is well."""

    def __init__(self, run: Run) -> None:
        self._work = run
        self._steps: list[tuple[str, Callable[[], Json]]] = []
        self._failed: set[str] = set()
        self.error: OstlerError | None = None

    def push(self, name: str, body: Callable[[], Json]) -> None:
        """Before a step is begun: `body` undoes it, also when it was only half done or not at all."""
        self._steps.append((name, body))

    def clear(self) -> None:
        """All is well so far: nothing of it is to be undone any more."""
        self._steps.clear()

    def failed(self, *names: str) -> bool:
        """In a body that runs later: whether undoing one of these failed."""
        return not self._failed.isdisjoint(names)

    def run(self, error: OstlerError) -> None:
        """Undoes all, last first; one that fails is logged and does not keep the others from being tried."""
        self.error = error
        while self._steps:
            name, body = self._steps.pop()
            try:
                self._work.always(name, body)
            except OstlerError as failure:
                self._failed.add(name)
                log.warning("undoing failed", operation=self._work.id, step=name, reason=failure.reason)


def bug(what: str, error: Exception) -> InternalError:
    """The error for a foreign exception. Its text may hold anything, so neither the log nor the journal gets it."""
    kind = type(error).__name__
    log.error("failed by a bug", what=what, kind=kind, traceback="".join(traceback.format_tb(error.__traceback__)))
    return InternalError(f"{what} failed by a bug ({kind}); the log has the details", "INTERNAL")


def cancelled() -> CancelledError:
    """The error of an operation that was cancelled."""
    return CancelledError("cancelled on request; what had been begun was undone", "CANCELLED")


def _patiently(body: Callable[[], Json], pause: Callable[[float], None]) -> Json:
    """Repeats a step's body while the database is away."""
    end = time.monotonic() + _DATABASE_PATIENCE_S
    while True:
        try:
            return body()
        except (OperationalError, InterfaceError):
            if time.monotonic() > end:
                raise
            pause(1.0)
