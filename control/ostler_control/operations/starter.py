"""Starts operations: of each kind so many run at once, and the rest queue, the oldest first.

Every running operation has a thread of its own while it runs. Without a limit a thousand VMs created at once would be a
thousand threads, which hinder each other and the calls of users. What queues is recorded in the database as pending:
after a crash, or by another replica, it is started from there.

A thread whose operation has ended takes the next one that queues, or waits a while for one: the thread that waits since
the shortest time gets it, for what it works with is the most likely to be in the processor's caches still.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

import structlog

from ostler_control.operations.interrupts import StoppedError

log = structlog.get_logger(__name__)

# How long a thread without an operation waits for one.
_IDLE_S = 10.0


class Kind(Enum):
    """Verbs that share a limit. Those of different kinds never wait for each other's turn."""

    # They wait for operations of the other kinds.
    PLAN = frozenset({"drs.execute", "zone.balance-storage", "import-plan.execute", "backup.boot"})
    # What high availability needs: they must not queue behind a thousand new VMs.
    START = frozenset({"vm.start", "vm.resolve", "host.fence", "host.power-on", "host.power-off"})
    # They move as many bytes as a disk has, or wait for a user to send them.
    TRANSFER = frozenset(
        {
            *("vm.import", "vm.restore", "vm.restore-over", "vm.migrate", "vm.clone", "template.create"),
            *("volume.copy", "volume.migrate", "volume.encrypt", "volume.rekey", "volume.upload", "volume.download"),
            *("volume.restore", "volume.revert", "vm.revert", "snapshot.create", "snapshot.download"),
            *("vm-snapshot.create", "backup.create", "backup.verify", "backup.read-files"),
        }
    )
    CREATE = frozenset({"vm.create", "vm.reinstall", "volume.create"})
    # All others.
    CHANGE = frozenset[str]()

    @classmethod
    def of(cls, verb: str) -> Kind:
        """The kind of a verb."""
        return next((kind for kind in cls if verb in kind.value), cls.CHANGE)


@dataclass
class _Lane:
    """The operations of a kind. queued: in the order in which they came; the values say nothing."""

    queued: dict[str, None] = field(default_factory=dict)
    running: set[str] = field(default_factory=set)


Turn = tuple[_Lane, str]


class _Idle:
    """A thread that waits for an operation. turn: what it is given; None: nothing, and it ends."""

    def __init__(self) -> None:
        self.turn: Turn | None = None
        self._given = threading.Lock()
        self._given.acquire()

    def give(self, turn: Turn | None) -> None:
        """Once."""
        self.turn = turn
        self._given.release()

    def wait(self) -> bool:
        """Whether it was given something within a while."""
        return self._given.acquire(timeout=_IDLE_S)


class Starter:
    """Runs operations in threads. Thread-safe."""

    def __init__(self, run: Callable[[str], None], limit: int) -> None:
        """run: carries an operation out, or returns at once when it is over or runs elsewhere; limit: how many of a
        kind run at once."""
        self._run = run
        self._limit = limit
        self._lanes = {kind: _Lane() for kind in Kind}
        self._urgent: set[str] = set()
        self._starting = False
        self._idle: list[_Idle] = []
        self._lock = threading.Lock()
        self._ended = threading.Condition(self._lock)

    def start(self) -> None:
        """Starts operations from now on."""
        with self._lock:
            self._starting = True
        self._start_due()

    def stop(self) -> None:
        """Starts no more; those that queue are in the database."""
        with self._lock:
            self._starting = False
            while self._idle:
                self._idle.pop().give(None)

    def wait_until_idle(self, timeout_s: float) -> None:
        """Returns when none runs any more, or after so long."""
        with self._ended:
            self._ended.wait_for(lambda: not any(lane.running for lane in self._lanes.values()), timeout_s)

    def put(self, operation_id: str, verb: str, *, under_way: bool = False) -> None:
        """Runs an operation when it is its turn. One that queues or runs already is left alone.

        under_way: an earlier attempt has begun it. It does not wait for its turn: there are no more of these than the
        processes that died ran.
        """
        with self._lock:
            lane = self._lanes[Kind.of(verb)]
            if operation_id in lane.running or operation_id in lane.queued:
                return
            lane.queued[operation_id] = None
            if under_way:
                self._urgent.add(operation_id)
        self._start_due()

    def hurry(self, operation_id: str) -> None:
        """Starts one that queues now, whatever the limit: it is to be canceled, so it will not run for long."""
        with self._lock:
            if not any(operation_id in lane.queued for lane in self._lanes.values()):
                return
            self._urgent.add(operation_id)
        self._start_due()

    def knows(self, operation_id: str) -> bool:
        """Whether it queues or runs here."""
        with self._lock:
            return any(operation_id in lane.queued or operation_id in lane.running for lane in self._lanes.values())

    def room(self, verb: str) -> int:
        """How many more operations of the verb's kind would start at once."""
        with self._lock:
            lane = self._lanes[Kind.of(verb)]
            return max(self._limit - len(lane.running) - len(lane.queued), 0)

    def _start_due(self) -> None:
        """Gives each operation whose turn it is a thread."""
        while True:
            with self._lock:
                turn = self._next()
                if turn is None:
                    return
                if self._idle:
                    self._idle.pop().give(turn)
                    continue
            try:
                threading.Thread(target=self._work, args=(turn,), name="operations", daemon=True).start()
            except RuntimeError:  # no more threads
                with self._lock:
                    self._end(turn)  # first, for the log may fail as well
                log.exception("an operation could not be started now; a sweep starts it", operation=turn[1])

    def _work(self, first: Turn) -> None:
        """One thread's life."""
        turn: Turn | None = first
        while turn is not None:
            try:
                self._carry_out(turn)
            except BaseException:  # such as a log that cannot be written: the turn must not stay taken
                with self._lock:
                    self._end(turn)
                self._start_due()
                raise
            turn = self._another_after(turn)

    def _carry_out(self, turn: Turn) -> None:
        operation_id = turn[1]
        threading.current_thread().name = f"operation {operation_id}"
        try:
            self._run(operation_id)
        except StoppedError:
            pass
        except Exception:
            log.exception("an attempt failed by a bug; a sweep begins another", operation=operation_id)

    def _another_after(self, ended: Turn) -> Turn | None:
        """Waits a while for the next operation; None when there is none, and the thread is to end."""
        with self._lock:
            self._end(ended)
            if (turn := self._next()) is not None or not self._starting:
                return turn
            idle = _Idle()
            self._idle.append(idle)
        threading.current_thread().name = "operations"
        if not idle.wait():
            with self._lock:
                if idle in self._idle:  # else it is given one just now
                    self._idle.remove(idle)
        return idle.turn

    def _next(self) -> Turn | None:
        """The next operation whose turn it is, which counts as running from now on; None when there is none now."""
        if not self._starting:
            return None
        for lane in self._lanes.values():
            operation_id = self._turn_in(lane)
            if operation_id is not None:
                del lane.queued[operation_id]
                lane.running.add(operation_id)
                self._urgent.discard(operation_id)
                return lane, operation_id
        return None

    def _turn_in(self, lane: _Lane) -> str | None:
        if self._urgent:
            for operation_id in self._urgent & lane.queued.keys():
                return operation_id
        return next(iter(lane.queued), None) if len(lane.running) < self._limit else None

    def _end(self, turn: Turn) -> None:
        lane, operation_id = turn
        lane.running.discard(operation_id)
        self._ended.notify_all()
