"""Runs operations in threads (`starter`): each from its first step or after the last one that an earlier attempt has
finished (`journal`). What is to run, and whose it is, is in the database.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path

import structlog
from ostler_common import tracing
from ostler_common.errors import FailedPreconditionError, OstlerError

from ostler_control import settings
from ostler_control.agents import Agents
from ostler_control.database import is_sqlite, session
from ostler_control.keys import Keyring
from ostler_control.models import Operation, new_id, now
from ostler_control.operations import journal, records, replicas, waiting
from ostler_control.operations.interrupts import Interrupts, StoppedError
from ostler_control.operations.run import Run, bug
from ostler_control.operations.starter import Starter
from ostler_control.operations.starts import starting
from ostler_control.operations.verbs import body_of, periodic_tasks
from ostler_control.outage import log_failure, outage, wait_out
from ostler_control.periodic import Periodic

log = structlog.get_logger(__name__)

_TICK_S = 0.5
_TICKS_PER_SWEEP = 20
_TICKS_PER_PRUNING = 7200
_STOP_GRACE_S = 5.0
_MAX_TRACES = 10_000
# How many operations of a kind run at once unless configured.
DEFAULT_LIMIT = 64


def replica_id(state_dir: Path) -> str:
    """This control process's id, the same after a restart: by it the database knows whose operations are whose."""
    path = state_dir / "replica_id"
    if not path.exists():  # else nothing is written: the disk may be full
        part = path.with_suffix(f".{os.getpid()}")
        try:
            part.write_text(new_id())
            with contextlib.suppress(FileExistsError):
                os.link(part, path)  # the first writer wins
        finally:
            part.unlink(missing_ok=True)
    return path.read_text().strip()


class _Heartbeat(Periodic):
    """Beats and adopts, on a connection of its own: neither long work nor a crowd of callers may make this replica look
    silent."""

    def __init__(self, beat: Callable[[], None], adopt: Callable[[], None]) -> None:
        super().__init__("heartbeat", replicas.BEAT_S)
        self._beat, self._adopt = beat, adopt

    def work(self) -> None:
        """Returns when the connection is lost, so that the next call opens another one."""
        try:
            with session():
                while True:
                    self._beat()
                    self._adopt()
                    self.pause(replicas.BEAT_S)
        except Exception as error:
            if outage(error) is None:
                raise


class Engine:
    """Runs operations. One per process: `launch` finds it."""

    def __init__(
        self,
        replica: str,
        agents: Agents,
        keys: Keyring,
        templates: Path,
        address: str = "",
        limit: int = DEFAULT_LIMIT,
    ) -> None:
        """templates: directory of the templates' files; address: of this replica, for people; limit: how many
        operations of a kind run at once, see `starter`."""
        self.agents = agents
        self.keys = keys
        self.templates = templates
        self.interrupts = Interrupts()
        self._starter = Starter(self.run, limit)
        self._replica = replica
        self._address = address
        self._thread: threading.Thread | None = None
        self._heartbeat = _Heartbeat(self._beat, self._adopt)
        self._traces_lock = threading.Lock()
        # The spans that began operations which have not run yet. Only in memory: after a restart, or on another
        # replica, an operation begins a trace of its own.
        self._traces: dict[str, str] = {}

    def start(self) -> None:
        """Goes on with what this replica had under way, and starts what nobody has started yet."""
        global _engine
        assert _engine is None, "an engine runs already"
        _engine = self
        self.keys.sweep()
        self._beat()
        self._go_on()
        self._sweep(unstarted_age_s=0)
        self._starter.start()  # now, for hundreds of operations would leave the queries above no connection
        self._thread = threading.Thread(target=self._look_after, name="operations", daemon=True)
        self._thread.start()
        self._heartbeat.start()

    def stop(self) -> None:
        """Leaves everything that is running; the next start, or another replica, resumes it."""
        global _engine
        self.interrupts.stop()
        self._starter.stop()
        if self._thread is not None:
            self._thread.join()
            self._heartbeat.stop()
        self._starter.wait_until_idle(_STOP_GRACE_S)
        _engine = None

    def launch(self, operation: Operation) -> None:
        """Starts what `record_operation` has recorded, once its transaction has committed: now, or when enough others
        have ended. Idempotent."""
        if trace := tracing.parent():
            with self._traces_lock:
                if len(self._traces) >= _MAX_TRACES:
                    self._traces.clear()
                self._traces[operation.id] = trace
        self._starter.put(operation.id, operation.verb)

    def cancel(self, operation_id: str, actor: str = "") -> None:
        """Requests an operation's cancellation; one that is over stays as it is. actor: see `request_cancel`."""
        records.request_cancel(operation_id, actor)
        self.interrupts.cancel(operation_id)
        self._starter.hurry(operation_id)

    def wait(
        self,
        operation_id: str,
        timeout_s: float | None,
        wanted: Callable[[], bool] = lambda: True,
        find: Callable[[], Operation] | None = None,
    ) -> Operation:
        """The operation once it is over, or as it is after `timeout_s`, or once `wanted` is false, or this engine
        stops. NotFoundError when there is none. find: see `waiting.wait`."""
        return waiting.wait(operation_id, timeout_s, lambda: wanted() and not self.interrupts.stopping.is_set(), find)

    def forget(self, operation_id: str, actor: str) -> None:
        """Deletes an operation that is over, with its journal; FailedPreconditionError when it is not, or is needed."""
        if not records.forget(Operation.id == operation_id, actor):
            raise FailedPreconditionError(
                f"operation {operation_id} is not over, or its VM is still migrating", "OPERATION_NEEDED"
            )

    def prune(self, retention: datetime.timedelta) -> int:
        """Forgets operations that ended longer ago; returns how many."""
        return len(records.forget(Operation.end_time < now() - retention))

    def run(self, operation_id: str) -> None:
        """One attempt at an operation, the first or a later one."""
        operation = wait_out(lambda: records.enter(operation_id, self._replica), self.interrupts.sleep)
        if operation is None:
            return
        recorded: list[journal.Step] = []
        if operation.attempt > 1:
            recorded = wait_out(lambda: journal.read(operation_id), self.interrupts.sleep)
        run = Run(
            id=operation.id,
            attempt=operation.attempt,
            resource_id=operation.resource_id,
            user=operation.user,
            inputs_json=operation.inputs,
            journal=journal.Journal(operation, recorded),
            agents=self.agents,
            keys=self.keys,
            templates=self.templates,
            interrupts=self.interrupts,
        )
        with starting(operation.verb, operation.resource_id):
            self._carry_out(run, operation.verb)
        waiting.ended(operation.id)

    def _carry_out(self, run: Run, verb: str) -> None:
        """From here to the operation's end."""
        error: OstlerError | None = None
        with self._traces_lock:
            trace = self._traces.pop(run.id, "")
        try:
            with tracing.continued(trace), tracing.span(f"operation {verb}", operation=run.id):
                body_of(verb)(run)
        except OstlerError as failure:
            error = failure
        except Exception as failure:
            error = bug(f"operation {run.id} ({verb})", failure)
        if error is not None:
            run.undo_lost(error)
        self._finish(run, error)

    def _finish(self, run: Run, error: OstlerError | None) -> None:
        """Records the operation's end, with the rows of its last step."""

        def finish() -> bool:
            return records.finish(run.id, run.attempt, error, run.journal.writes)

        try:
            finished = wait_out(finish, self.interrupts.sleep)
        except Exception as failure:
            if not run.journal.writes:
                raise
            error = bug(f"recording the end of operation {run.id}", failure)
            run.journal.fail_step(error)
            run.undo_lost(error)
            finished = wait_out(finish, self.interrupts.sleep)
        if not finished:
            raise StoppedError

    def _go_on(self) -> None:
        """Runs what this replica has under way and no thread of this process runs: the process was killed, it has just
        adopted an operation, or another replica has given one back by dying."""
        for operation in replicas.own(self._replica):
            self._starter.put(operation.id, operation.verb, under_way=True)

    def _look_after(self) -> None:
        ticks = 0
        while not self.interrupts.stopping.wait(_TICK_S):
            ticks += 1
            try:
                if waiting_for_hosts := self.interrupts.waiting():
                    for operation_id in records.to_be_cancelled(waiting_for_hosts):
                        self.interrupts.cancel(operation_id)
                if ticks % _TICKS_PER_SWEEP == 0:
                    self._sweep()
                if ticks % _TICKS_PER_PRUNING == 0:
                    with session():
                        retention = settings.events.EVENT_RETENTION.get()
                    self.prune(datetime.timedelta(days=retention))
            except Exception as error:
                log_failure("looking after the operations failed; it is tried again", error)
            if ticks % _TICKS_PER_SWEEP == 0:
                _run_periodic(self.keys)

    def _beat(self) -> None:
        replicas.beat(self._replica, self._address, self.keys.provider.local_versions())

    def _sweep(self, unstarted_age_s: float = 10.0) -> None:
        """Starts what was recorded and never started: what a dead process had queued and, as far as there is room, what
        queues at another replica. `records.enter` knows which of two came first."""
        unknown = [row for row in replicas.unstarted(unstarted_age_s) if not self._starter.knows(row.id)]
        if unstarted_age_s and not is_sqlite():
            random.shuffle(unknown)  # else replicas would run after the same
            unknown = [row for number, row in enumerate(unknown) if number < self._starter.room(row.verb)]
        for operation in unknown:
            self.launch(operation)

    def _adopt(self) -> None:
        """Goes on with what silent replicas have left."""
        for operation_id in replicas.adopt(self._replica):
            log.warning("going on with an operation of a silent replica", operation=operation_id)
        self._go_on()


def launch(operation: Operation) -> None:
    """`Engine.launch` of this process's engine; without one the operation waits for the next engine's start."""
    if _engine is None:
        return
    try:
        _engine.launch(operation)
    except Exception:  # it is recorded already, so its caller must not take it for failed
        log.exception("an operation could not be started now; the next sweep starts it", operation=operation.id)


def _run_periodic(keys: Keyring) -> None:
    for task in periodic_tasks():
        try:
            task(keys)
        except Exception as error:
            log_failure("a periodic task failed; it is tried again", error)


_engine: Engine | None = None
