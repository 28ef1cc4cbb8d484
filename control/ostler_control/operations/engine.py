"""Runs operations as durable workflows of DBOS.

The journal is a file beside the database, or a schema of the same PostgreSQL. A workflow's id is its operation's, and
its only input; one function runs all verbs.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import structlog
from dbos import DBOS, DBOSConfig, DBOSPortableJSONSerializer, SetWorkflowID
from ostler_common import tracing
from ostler_common.errors import FailedPreconditionError, OstlerError
from sqlalchemy.engine import make_url

from ostler_control import settings
from ostler_control.agents import Agents
from ostler_control.database import postgresql_options, session
from ostler_control.keys import Keyring
from ostler_control.models import Operation, new_id, now
from ostler_control.operations import full_journal, journal_log, records, replicas, waiting  # noqa: F401
from ostler_control.operations.interrupts import Interrupts, StoppedError
from ostler_control.operations.run import Run, bug
from ostler_control.operations.starter import Starter
from ostler_control.operations.verbs import body_of, periodic_tasks
from ostler_control.outage import outage, wait_out
from ostler_control.periodic import Periodic
from ostler_control.state_dir import StateDir

log = structlog.get_logger(__name__)

_TICK_S = 0.5
_TICKS_PER_SWEEP = 20
_TICKS_PER_PRUNING = 7200
_STOP_GRACE_S = 5.0
_MAX_TRACES = 10_000
# How many operations of a kind run at once unless configured.
DEFAULT_LIMIT = 64
# How long a resumed operation may take until its thread starts.
_RESUME_S = 30.0
# The journal's schema on PostgreSQL.
JOURNAL_SCHEMA = "dbos"
# Connections to a journal on PostgreSQL, beside `database.MAX_CONNECTIONS`, one that listens and the replica lock's.
JOURNAL_CONNECTIONS = 8


@dataclass(frozen=True)
class Journal:
    """Where the workflows' steps are kept."""

    url: str

    @classmethod
    def beside(cls, database_url: str, state_dir: Path) -> Journal:
        """The journal that belongs to a database."""
        if database_url.startswith("sqlite:"):
            return cls(f"sqlite:///{StateDir(state_dir).journal}")
        url = make_url(database_url.replace("postgres://", "postgresql://", 1))
        options = postgresql_options(url.query.get("options"))
        return cls(url.update_query_dict({"options": options}).render_as_string(hide_password=False))

    @property
    def shared(self) -> bool:
        """Whether several replicas may work on it."""
        return not self.url.startswith("sqlite:")


def replica_id(state_dir: Path) -> str:
    """This control process's id, the same after a restart: by it the journal knows whose workflows are whose."""
    path = state_dir / "replica_id"
    with contextlib.suppress(FileExistsError):
        part = path.with_suffix(f".{os.getpid()}")
        part.write_text(new_id())
        try:
            os.link(part, path)  # the first writer wins
        finally:
            part.unlink()
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
    """Runs operations. One per process: DBOS is a singleton."""

    def __init__(
        self,
        journal: Journal,
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
        self._starter = Starter(_start_workflow, limit)
        self._journal = journal
        self._replica = replica
        self._address = address
        self._thread: threading.Thread | None = None
        self._heartbeat = _Heartbeat(self._beat, self._adopt if journal.shared else lambda: None)
        # Operations that this process runs now, and the signal that one has ended.
        self._active: Counter[str] = Counter()
        self._active_lock = threading.Lock()
        self._idle = threading.Condition(self._active_lock)
        self._left: set[str] = set()
        # When this process resumed an operation lately.
        self._resumed: dict[str, float] = {}
        # The spans that began operations which have not run yet. Only in memory: after a restart, or on another
        # replica, an operation begins a trace of its own.
        self._traces: dict[str, str] = {}

    def start(self) -> None:
        """Opens the journal, resumes what this replica had started, and starts what nobody has started yet."""
        global _engine
        assert _engine is None, "an engine runs already"
        _engine = self
        self.keys.sweep()
        self._beat()
        # DBOS logs to the console by itself, and at its own level.
        logging.getLogger("dbos").addHandler(logging.NullHandler())
        config: DBOSConfig = {
            "name": "ostler",
            "system_database_url": self._journal.url,
            "dbos_system_schema": JOURNAL_SCHEMA,
            "application_version": "1",  # else every new build would abandon the workflows of the last one
            "executor_id": self._replica,
            "log_level": "ERROR",
            "enable_otlp": False,
            "sys_db_pool_size": JOURNAL_CONNECTIONS,
            "serializer": DBOSPortableJSONSerializer(),  # ids and sizes only: nothing is ever unpickled
        }
        DBOS(config=config)
        DBOS.launch()
        self._starter.start()
        self._restart_unknown()
        self._sweep(unstarted_age_s=0)
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
        with self._idle:
            self._idle.wait_for(lambda: not self._active, _STOP_GRACE_S)
        DBOS.destroy()
        _engine = None

    def launch(self, operation: Operation) -> None:
        """Starts what `record_operation` has recorded, once its transaction has committed: now, or when enough others
        have ended. Idempotent."""
        if trace := tracing.parent():
            with self._active_lock:
                if len(self._traces) >= _MAX_TRACES:
                    self._traces.clear()
                self._traces[operation.id] = trace
        self._starter.put(operation.id, operation.verb)

    def cancel(self, operation_id: str, actor: str = "") -> None:
        """Requests an operation's cancellation; one that is over stays as it is. actor: see `request_cancel`."""
        records.request_cancel(operation_id, actor)
        self.interrupts.cancel(operation_id)
        self._starter.hurry(operation_id)

    def wait(self, operation_id: str, timeout_s: float | None, wanted: Callable[[], bool] = lambda: True) -> Operation:
        """The operation once it is over, or as it is after `timeout_s`, or once `wanted` is false, or this engine
        stops. NotFoundError when there is none."""
        return waiting.wait(operation_id, timeout_s, lambda: wanted() and not self.interrupts.stopping.is_set())

    def forget(self, operation_id: str, actor: str) -> None:
        """Deletes an operation that is over, with its journal; FailedPreconditionError when it is not, or is needed."""
        forgotten = records.forget(Operation.id == operation_id, actor)
        if not forgotten:
            raise FailedPreconditionError(
                f"operation {operation_id} is not over, or its VM is still migrating", "OPERATION_NEEDED"
            )
        DBOS.delete_workflows(forgotten)

    def prune(self, retention: datetime.timedelta) -> int:
        """Forgets operations that ended longer ago; returns how many."""
        forgotten = records.forget(Operation.end_time < now() - retention)
        for begin in range(0, len(forgotten), 100):
            DBOS.delete_workflows(forgotten[begin : begin + 100])
        return len(forgotten)

    def run(self, operation_id: str) -> None:
        """One attempt at an operation, the first or a later one."""
        with self._active_lock:
            self._active[operation_id] += 1
        try:
            with full_journal.waited_for():
                self._attempt(operation_id)
        finally:
            with self._active_lock:
                self._active[operation_id] -= 1
                self._active += Counter()  # drops zeros
                self._idle.notify_all()

    def _attempt(self, operation_id: str) -> None:
        operation = wait_out(lambda: records.enter(operation_id, self._replica), self.interrupts.sleep)
        if operation is None:
            return
        run = Run(
            id=operation.id,
            attempt=operation.attempt,
            resource_id=operation.resource_id,
            user=operation.user,
            inputs_json=operation.inputs,
            agents=self.agents,
            keys=self.keys,
            templates=self.templates,
            interrupts=self.interrupts,
        )
        error: OstlerError | None = None
        with self._active_lock:
            trace = self._traces.pop(operation_id, "")
        try:
            with tracing.continued(trace), tracing.span(f"operation {operation.verb}", operation=run.id):
                body_of(operation.verb)(run)
        except OstlerError as failure:
            error = failure
        except Exception as failure:
            error = bug(f"operation {operation.id} ({operation.verb})", failure)
        outcome = error
        if not wait_out(lambda: records.finish(run.id, run.attempt, outcome), self.interrupts.sleep):
            raise StoppedError
        waiting.ended(operation.id)

    def _restart_unknown(self) -> None:
        """Starts again what this replica had under way and the journal does not know: the journal was lost or is
        older than the database. Steps are written to be run twice."""
        for operation_id in replicas.own(self._replica):
            if DBOS.get_workflow_status(operation_id) is None:
                log.warning("an operation is not in the journal and starts again", operation=operation_id)
                _start_workflow(operation_id)

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
            except Exception:
                log.exception("looking after the operations failed; it is tried again")
            if ticks % _TICKS_PER_SWEEP == 0:
                _run_periodic(self.keys)

    def _beat(self) -> None:
        replicas.beat(self._replica, self._address, self.keys.provider.local_versions())

    def _sweep(self, unstarted_age_s: float = 10.0) -> None:
        """Starts what was recorded and never started: what a dead process had queued and, as far as there is room, what
        queues at another replica. The journal knows which of two came first."""
        unknown = [row for row in replicas.unstarted(unstarted_age_s) if not self._starter.knows(row.id)]
        if unstarted_age_s and self._journal.shared:
            random.shuffle(unknown)  # else replicas would run after the same
            unknown = [row for number, row in enumerate(unknown) if number < self._starter.room(row.verb)]
        for operation in unknown:
            self.launch(operation)

    def _adopt(self) -> None:
        """Resumes what silent replicas have left."""
        adopted = set(replicas.adopt(self._replica))
        for operation_id in adopted:
            log.warning("resuming an operation of a silent replica", operation=operation_id)
        # A running operation of this replica without a thread was adopted, just now or before a crash. One of before
        # counts once it was found twice: the first time its thread may be about to start or to end. One that was just
        # resumed may be about to start for longer, on a busy machine.
        now_s = time.monotonic()
        self._resumed = {id_: at_s for id_, at_s in self._resumed.items() if now_s - at_s < _RESUME_S}
        with self._active_lock:
            active = set(self._active)
        left = set(replicas.own(self._replica)) - active
        resumed = left & (adopted | (self._left - self._resumed.keys()))
        for operation_id in resumed:
            DBOS.resume_workflow(operation_id)
            self._resumed[operation_id] = now_s
        self._left = left - resumed


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
        except Exception:
            log.exception("a periodic task failed; it is tried again")


def _start_workflow(operation_id: str) -> Future[None] | None:
    """Returns what tells the end of this attempt; None when the operation has run, or runs elsewhere."""
    with SetWorkflowID(operation_id):
        handle = DBOS.start_workflow(_run_operation, operation_id)
    future: Future[None] | None = getattr(handle, "future", None)
    return future


_engine: Engine | None = None


@DBOS.workflow(name="ostler.operation", max_recovery_attempts=None)
def _run_operation(operation_id: str) -> None:
    if _engine is None:
        raise StoppedError
    _engine.run(operation_id)
