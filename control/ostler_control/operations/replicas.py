"""Control replicas: who is alive, and whose operations somebody else must go on with.

A replica is silent when its heartbeat has stood still for `SILENCE_S` by the watching replica's own clock; clocks are
never compared.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterable

from ostler_control.database import session, transaction
from ostler_control.models import Operation, Replica, now

SILENCE_S = 30.0

# Replica id -> its heartbeat as last seen, and when (monotonic) it was first seen so.
_seen: dict[str, tuple[datetime.datetime, float]] = {}


def beat(replica: str, address: str, kek_ids: Iterable[str] = ()) -> None:
    """Shows that this replica is alive, and which versions of the key-encryption key it has."""
    with transaction():
        values = {"address": address, "kek_ids": " ".join(kek_ids), "heartbeat_time": now()}
        if Replica.update(**values).where(Replica.id == replica).execute() == 0:
            Replica.create(id=replica, **values)


def keys_of_living() -> dict[str, set[str]]:
    """The replicas that are not known to be silent, this one included, by address (or id): which versions of the
    key-encryption key each has. One that fell silent is among them until this process has watched it for a while."""
    living = {}
    with session():
        for row in Replica.select():
            heartbeat, since = _seen.get(row.id, (None, 0.0))
            if heartbeat != row.heartbeat_time:
                _seen[row.id] = (row.heartbeat_time, since := time.monotonic())
            if time.monotonic() - since <= SILENCE_S:
                living[row.address or row.id] = set(row.kek_ids.split())
    return living


def unstarted(age_s: float = 10.0) -> list[str]:
    """Operations recorded so long ago that nobody has begun: their process died in between."""
    latest = now() - datetime.timedelta(seconds=age_s)
    with session():
        rows = Operation.select(Operation.id).where((Operation.state == "pending") & (Operation.create_time <= latest))
        return [row.id for row in rows]


def own(replica: str) -> list[str]:
    """Operations under way that are this replica's."""
    with session():
        rows = Operation.select(Operation.id).where((Operation.state == "running") & (Operation.replica == replica))
        return [row.id for row in rows]


def adopt(replica: str) -> list[str]:
    """Takes over the operations of silent replicas; whoever gets one here is the only one who goes on with it."""
    with session():
        living = [replica]
        for other in Replica.select().where(Replica.id != replica):
            heartbeat, since = _seen.get(other.id, (None, 0.0))
            if heartbeat != other.heartbeat_time:
                _seen[other.id] = (other.heartbeat_time, since := time.monotonic())
            if time.monotonic() - since <= SILENCE_S:
                living.append(other.id)
        orphans = list(
            Operation.select(Operation.id, Operation.replica).where(
                (Operation.state == "running") & Operation.replica.not_in(living)
            )
        )
    adopted = []
    for orphan in orphans:
        same = (Operation.id == orphan.id) & (Operation.replica == orphan.replica) & (Operation.state == "running")
        with transaction():
            if Operation.update(replica=replica).where(same).execute() == 1:
                adopted.append(orphan.id)
    return adopted
