"""Control replicas: which are alive, and whose operations another one must adopt.

A replica is silent when its heartbeat has stood still for `SILENCE_S` by the watching replica's own clock; clocks are
never compared.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterable

from ostler_control.database import session, transaction
from ostler_control.models import Operation, OperationState, Replica, now

SILENCE_S = 30.0


class Heartbeats:
    """The replicas' heartbeats as one process watches them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # Replica id -> its heartbeat as last read, and when it was first read so.
        self._seen: dict[str, tuple[datetime.datetime, float]] = {}

    def living(self) -> list[Replica]:
        """The replicas that are not known to be silent. One that fell silent is among them until this process has
        watched it for `SILENCE_S`."""
        with session():
            rows = list(Replica.select())
        clock = self._clock()
        self._seen = {row.id: self._since(row, clock) for row in rows}
        return [row for row in rows if clock - self._seen[row.id][1] < SILENCE_S]

    def _since(self, row: Replica, clock: float) -> tuple[datetime.datetime, float]:
        before = self._seen.get(row.id)
        return before if before and before[0] == row.heartbeat_time else (row.heartbeat_time, clock)


# This process's.
_heartbeats = Heartbeats()


def beat(replica: str, address: str, kek_ids: Iterable[str] = ()) -> None:
    """Records that this replica is alive, and which versions of the key-encryption key it has."""
    with transaction():
        values = {"address": address, "kek_ids": " ".join(kek_ids), "heartbeat_time": now()}
        if Replica.update(**values).where(Replica.id == replica).execute() == 0:
            Replica.create(id=replica, **values)


def keys_of_living() -> dict[str, set[str]]:
    """By address (or id) of each living replica, this one included: the versions of the key-encryption key it has."""
    return {row.address or row.id: set(row.kek_ids.split()) for row in _heartbeats.living()}


def unstarted(age_s: float = 10.0) -> list[str]:
    """Operations recorded longer ago than this that no process has started: the one that recorded them died."""
    latest = now() - datetime.timedelta(seconds=age_s)
    with session():
        old = (Operation.state == OperationState.PENDING) & (Operation.create_time <= latest)
        return [row.id for row in Operation.select(Operation.id).where(old)]


def own(replica: str) -> list[str]:
    """Running operations that this replica has."""
    with session():
        running = (Operation.state == OperationState.RUNNING) & (Operation.replica == replica)
        return [row.id for row in Operation.select(Operation.id).where(running)]


def adopt(replica: str) -> list[str]:
    """Takes over the operations of silent replicas; returns those that this replica alone now has."""
    living = {replica, *(row.id for row in _heartbeats.living())}
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
