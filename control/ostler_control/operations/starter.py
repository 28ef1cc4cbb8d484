"""Starts operations: of each kind so many run at once, and the rest queue, the oldest first.

Every running operation has a thread of its own. Without a limit a thousand VMs created at once would be a thousand
threads, which hinder each other and the calls of users. What queues is recorded in the database as pending: after a
crash, or by another replica, it is started from there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

import structlog

from ostler_control.operations.interrupts import StoppedError

log = structlog.get_logger(__name__)

_JOIN_S = 10.0


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


class Starter:
    """Runs operations in threads. Thread-safe."""

    def __init__(self, run: Callable[[str], None], limit: int) -> None:
        """run: carries an operation out, or returns at once when it is over or runs elsewhere; limit: how many of a
        kind run at once."""
        self._run = run
        self._limit = limit
        self._lanes = {kind: _Lane() for kind in Kind}
        self._urgent: set[str] = set()
        self._stopping = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._start_in_turn, name="operations-start", daemon=True)

    def start(self) -> None:
        """Starts operations from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Starts no more; those that queue are in the database."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(_JOIN_S)

    def wait_until_idle(self, timeout_s: float) -> None:
        """Returns when none runs any more, or after so long."""
        with self._changed:
            self._changed.wait_for(lambda: not any(lane.running for lane in self._lanes.values()), timeout_s)

    def put(self, operation_id: str, verb: str, *, under_way: bool = False) -> None:
        """Runs an operation when it is its turn. One that queues or runs already is left alone.

        under_way: an earlier attempt has begun it. It does not wait for its turn: there are no more of these than the
        processes that died ran.
        """
        with self._changed:
            lane = self._lanes[Kind.of(verb)]
            if operation_id not in lane.running and operation_id not in lane.queued:
                lane.queued[operation_id] = None
                if under_way:
                    self._urgent.add(operation_id)
                self._changed.notify_all()

    def hurry(self, operation_id: str) -> None:
        """Starts one that queues now, whatever the limit: it is to be canceled, so it will not run for long."""
        with self._changed:
            if any(operation_id in lane.queued for lane in self._lanes.values()):
                self._urgent.add(operation_id)
                self._changed.notify_all()

    def knows(self, operation_id: str) -> bool:
        """Whether it queues or runs here."""
        with self._changed:
            return any(operation_id in lane.queued or operation_id in lane.running for lane in self._lanes.values())

    def room(self, verb: str) -> int:
        """How many more operations of the verb's kind would start at once."""
        with self._changed:
            lane = self._lanes[Kind.of(verb)]
            return max(self._limit - len(lane.running) - len(lane.queued), 0)

    def _start_in_turn(self) -> None:
        while (turn := self._next()) is not None:
            lane, operation_id = turn
            try:
                thread = threading.Thread(
                    target=self._carry_out, args=(lane, operation_id), name=f"operation {operation_id}", daemon=True
                )
                thread.start()
            except RuntimeError:  # no more threads
                log.exception("an operation could not be started now; a sweep starts it", operation=operation_id)
                self._ended(lane, operation_id)

    def _carry_out(self, lane: _Lane, operation_id: str) -> None:
        try:
            self._run(operation_id)
        except StoppedError:
            pass
        except Exception:
            log.exception("an attempt failed by a bug; a sweep begins another", operation=operation_id)
        finally:
            self._ended(lane, operation_id)

    def _next(self) -> tuple[_Lane, str] | None:
        """Waits for the next operation whose turn it is, and counts it as running; None at the end."""
        with self._changed:
            while not self._stopping:
                for lane in self._lanes.values():
                    operation_id = self._turn_in(lane)
                    if operation_id is not None:
                        del lane.queued[operation_id]
                        lane.running.add(operation_id)
                        self._urgent.discard(operation_id)
                        return lane, operation_id
                self._changed.wait()
            return None

    def _turn_in(self, lane: _Lane) -> str | None:
        if self._urgent:
            for operation_id in self._urgent & lane.queued.keys():
                return operation_id
        return next(iter(lane.queued), None) if len(lane.running) < self._limit else None

    def _ended(self, lane: _Lane, operation_id: str) -> None:
        with self._changed:
            lane.running.discard(operation_id)
            self._changed.notify_all()
