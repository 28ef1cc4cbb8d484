"""Gives events their place in the chain, and deletes those that have expired.

An event is written in the transaction of the change that it tells of, without a place: otherwise all changes of the
fleet would wait for each other. Moments later one replica at a time links what has been committed since. The row of
`EventChain` is the lock, and the chain's end.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Sequence

from ostler_common.errors import UnavailableError
from peewee import ModelSelect

from ostler_control.database import is_sqlite, session, skip_locked, transaction
from ostler_control.events.chain import START, Content, digest_of
from ostler_control.events.log import SYSTEM, Outcome, record
from ostler_control.models import Event, EventChain, db, now
from ostler_control.outage import wait_out
from ostler_control.periodic import Periodic
from ostler_control.prepared import Prepared

PRUNED = "event.prune"
_CHAIN_ID = "chain"
_TICK_S = 1.0
_BATCH = 500
_MAX_WAIT_S = 10.0
# An event of its own tells of each time that old events are deleted.
_PRUNE_INTERVAL = datetime.timedelta(hours=1)

_PLACE = Prepared(
    lambda value: Event.update(sequence=value("sequence"), digest=value("digest")).where(Event.id == value("event"))
)
# The same for many events, by one way to PostgreSQL and back.
_PLACE_ALL = """
    UPDATE event SET sequence = place.sequence, digest = place.digest
    FROM unnest(%s::text[], %s::bigint[], %s::text[]) AS place (id, sequence, digest) WHERE event.id = place.id
"""


class Linker(Periodic):
    """Links events every second. Each replica has one."""

    def __init__(self, tick_s: float = _TICK_S) -> None:
        super().__init__("events", tick_s)

    def work(self) -> None:
        while wait_out(link_events, self.pause):
            pass


def link_events() -> int | None:
    """Links the oldest events that have no place yet; returns how many, None when another replica is doing so."""
    with session():
        if not _unlinked().exists():
            return 0
        with transaction():
            chain = _locked_chain()
            if chain is None:
                return None
            batch = list(_unlinked().order_by(Event.create_time, Event.id).limit(_BATCH))
            _append(chain, batch)
            return len(batch)


def link_all() -> None:
    """Links every event that is committed now. Raises UnavailableError EVENTS_BUSY when another replica keeps the chain
    for long."""
    until = time.monotonic() + _MAX_WAIT_S
    while (count := link_events()) != 0:
        if count is not None:
            continue
        if time.monotonic() > until:
            raise UnavailableError("another control replica is linking events; try again", "EVENTS_BUSY")
        time.sleep(0.05)


def prune(retention: datetime.timedelta) -> int:
    """Deletes events older than this, at most once an hour; returns how many.

    Deletes only from the start of the chain. The last one's number and digest stay, as the chain's anchor, and in an
    event of type PRUNED.
    """
    link_all()
    with transaction():
        chain = _locked_chain()
        if chain is None or (chain.anchor_time and now() - chain.anchor_time < _PRUNE_INTERVAL):
            return 0
        linked = Event.select().where(Event.sequence.is_null(False)).order_by(Event.sequence)
        kept = linked.where(Event.create_time >= now() - retention).first()
        last = linked.where(Event.sequence == (kept.sequence - 1 if kept else chain.sequence)).first()
        if last is None:
            return 0
        count: int = Event.delete().where(Event.sequence <= last.sequence).execute()
        anchor = {"anchor_sequence": last.sequence, "anchor_digest": last.digest, "anchor_time": now()}
        EventChain.update(**anchor).where(EventChain.id == _CHAIN_ID).execute()
        message = f"{count} expired events were deleted, up to number {last.sequence} with digest {last.digest}"
        told = record(PRUNED, Outcome.SUCCEEDED, SYSTEM, "event", last.digest, str(last.sequence), message)
        # At once: until it has its place, the chain would begin where nothing says so.
        _append(chain, [told])
    return count


def _append(chain: EventChain, batch: Sequence[Event]) -> None:
    """Gives events the next places, within the transaction that holds the chain's row."""
    sequence, digest, places = chain.sequence, chain.digest, list[tuple[str, int, str]]()
    for event in batch:
        sequence += 1
        digest = digest_of(digest, sequence, content_of(event))
        places.append((event.id, sequence, digest))
    if is_sqlite():
        for event_id, number, its_digest in places:
            _PLACE.run(event=event_id, sequence=number, digest=its_digest)
    elif places:
        db.execute_sql(_PLACE_ALL, tuple(map(list, zip(*places, strict=True))))
    EventChain.update(sequence=sequence, digest=digest).where(EventChain.id == _CHAIN_ID).execute()


def read_chain() -> EventChain:
    """The chain's start and end."""
    return EventChain.get_or_none(EventChain.id == _CHAIN_ID) or EventChain(sequence=0, digest=START)


def content_of(event: Event) -> Content:
    """What the digest of an event covers."""
    return Content(
        id=event.id,
        create_time=event.create_time,
        type=event.type,
        outcome=event.outcome,
        actor=event.actor,
        resource_type=event.resource_type,
        resource_id=event.resource_id,
        resource_name=event.resource_name,
        account_id=event.account_id,
        message=event.message,
        operation_id=event.operation_id,
    )


def _unlinked() -> ModelSelect[Event]:
    return Event.select().where(Event.sequence.is_null())


def _locked_chain() -> EventChain | None:
    """The chain's row, locked until the caller's transaction ends; None when another replica has it."""
    query = EventChain.select().where(EventChain.id == _CHAIN_ID)
    if not query.exists():
        # Made at first use. Should somebody have deleted it, the chain goes on from its last event.
        last = Event.select().where(Event.sequence.is_null(False)).order_by(Event.sequence.desc()).first()
        sequence, digest = (last.sequence, last.digest) if last else (0, START)
        EventChain.insert(id=_CHAIN_ID, sequence=sequence, digest=digest).on_conflict_ignore().execute()
    row: EventChain | None = skip_locked(query).first()
    return row
