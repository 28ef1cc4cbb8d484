"""Control replicas: which are alive, and whose operations another one must adopt.

A replica is silent when its heartbeat has stood still for `SILENCE_S` by the watching replica's own clock; clocks are
never compared. While the watching replica itself could not read heartbeats (the database was away, or its process was
stopped), nothing counts. So a death is known 12 seconds later at the latest.
"""

from __future__ import annotations

import datetime
import threading
import time
from collections.abc import Callable, Iterable

from ostler_control.database import session, transaction
from ostler_control.models import Operation, OperationState, Replica, now

SILENCE_S = 8.0
BEAT_S = 2.0
# Agents take no more.
MAX_ADDRESSES = 16
_LATELY = datetime.timedelta(seconds=30)
# The row of a replica that is gone for so long is deleted: until then agents are given its address.
_ROW_LIFETIME = datetime.timedelta(days=7)


class Heartbeats:
    """The replicas' heartbeats as one process watches them. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._last_read_s = clock()
        # Replica id -> its heartbeat as last read, and when it was first read so.
        self._seen: dict[str, tuple[datetime.datetime, float]] = {}

    def living(self) -> list[Replica]:
        """The replicas that are not known to be silent. One that fell silent is among them until this process has
        watched it for `SILENCE_S`: this has to be called several times within that."""
        with session():
            rows = list(Replica.select())
        with self._lock:
            now_s = self._clock()
            if now_s - self._last_read_s > SILENCE_S / 2:
                self._seen = {}
            self._last_read_s = now_s
            self._seen = {row.id: self._since(row, now_s) for row in rows}
            return [row for row in rows if now_s - self._seen[row.id][1] < SILENCE_S]

    def _since(self, row: Replica, now_s: float) -> tuple[datetime.datetime, float]:
        before = self._seen.get(row.id)
        return before if before and before[0] == row.heartbeat_time else (row.heartbeat_time, now_s)


# This process's: the engine reads it every `BEAT_S`.
heartbeats = Heartbeats()


def beat(replica: str, address: str, kek_ids: Iterable[str] = ()) -> None:
    """Records that this replica is alive, and which versions of the key-encryption key it has."""
    with transaction():
        values = {"address": address, "kek_ids": " ".join(kek_ids), "heartbeat_time": now()}
        if Replica.update(**values).where(Replica.id == replica).execute() == 0:
            Replica.create(id=replica, **values)


def keys_of_living() -> dict[str, set[str]]:
    """By address (or id) of each living replica, this one included: the versions of the key-encryption key it has."""
    return {row.address or row.id: set(row.kek_ids.split()) for row in heartbeats.living()}


def addresses(own: str) -> str:
    """ "host:port" of every replica's main port, separated by commas, `own` first; also of those that are away now.

    At most `MAX_ADDRESSES`, those last heard.
    """
    with session():
        rows = list(Replica.select().order_by(Replica.heartbeat_time.desc()).limit(MAX_ADDRESSES - 1))
    known = [row.address for row in sorted(rows, key=lambda row: row.id) if row.address]
    return ",".join(dict.fromkeys([own, *known]))


def heard_lately() -> list[Replica]:
    """The replicas that most likely run, for a process that has not watched them yet: by their clocks."""
    with session():
        return list(Replica.select().where(Replica.heartbeat_time > now() - _LATELY))


def forget_gone() -> int:
    """Deletes the rows of replicas that have been away for a week; returns how many."""
    with transaction():
        return int(Replica.delete().where(Replica.heartbeat_time < now() - _ROW_LIFETIME).execute())


def unstarted(age_s: float = 10.0) -> list[Operation]:
    """Operations recorded longer ago than this that no process has started, with id and verb, the oldest first: the one
    that recorded them has many others, or died."""
    latest = now() - datetime.timedelta(seconds=age_s)
    with session():
        old = (Operation.state == OperationState.PENDING) & (Operation.create_time <= latest)
        return list(Operation.select(Operation.id, Operation.verb).where(old).order_by(Operation.create_time))


def own(replica: str) -> list[Operation]:
    """Running operations that this replica has, with id and verb."""
    with session():
        running = (Operation.state == OperationState.RUNNING) & (Operation.replica == replica)
        return list(Operation.select(Operation.id, Operation.verb).where(running).order_by(Operation.create_time))


def adopt(replica: str) -> list[str]:
    """Takes over the operations of silent replicas; returns those that this replica alone now has."""
    living = {replica, *(row.id for row in heartbeats.living())}
    running = Operation.state == OperationState.RUNNING
    with session():
        query = Operation.select(Operation.id, Operation.replica)
        orphans = list(query.where(running & Operation.replica.not_in(sorted(living))))
    adopted = []
    for orphan in orphans:
        same = (Operation.id == orphan.id) & (Operation.replica == orphan.replica) & running
        with transaction():
            if Operation.update(replica=replica).where(same).execute() == 1:
                adopted.append(orphan.id)
    return adopted
