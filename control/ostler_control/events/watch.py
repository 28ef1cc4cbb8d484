"""Follows the audit log in the order of its chain: events are only ever added at its end."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ostler_common.errors import FailedPreconditionError
from peewee import ModelSelect, fn

from ostler_control.database import session
from ostler_control.events.linking import read_chain
from ostler_control.models import Event

_BATCH = 500
_POLL_S = 0.5
_SIGN_OF_LIFE_S = 15.0


@dataclass(frozen=True)
class Batch:
    """Events in order (none: a sign of life), and the number of the last event that was looked at."""

    events: tuple[Event, ...]
    sequence: int


def start_at(time: datetime.datetime | None) -> int:
    """The number after which the events from this time on begin; None: those from now on."""
    with session():
        if time is not None:
            first: int | None = Event.select(fn.MIN(Event.sequence)).where(Event.create_time >= time).scalar()
            if first is not None:
                return first - 1
        return read_chain().sequence


def follow(
    query: Callable[[], ModelSelect[Event]], after: int, pause: Callable[[float], bool], poll_s: float = _POLL_S
) -> Iterator[Batch]:
    """The events of a query after the one with number `after`, as they are linked, and signs of life between them.

    pause: sleeps so many seconds; whether the caller is gone. Raises FailedPreconditionError EVENTS_EXPIRED when events
    after that one were deleted, EVENT_UNKNOWN when the log has never come to it.
    """
    position, silent_s = after, _SIGN_OF_LIFE_S
    while True:
        with session():
            batch = _next(query, position)
        position = batch.sequence
        if batch.events or silent_s >= _SIGN_OF_LIFE_S:
            silent_s = 0.0
            yield batch
        if len(batch.events) < _BATCH:
            if pause(poll_s):
                return
            silent_s += poll_s


def _next(query: Callable[[], ModelSelect[Event]], position: int) -> Batch:
    chain = read_chain()
    if position < chain.anchor_sequence:
        raise FailedPreconditionError(
            f"events up to {chain.anchor_sequence} have expired (event.retention); continue after that one",
            "EVENTS_EXPIRED",
            {"sequence": str(chain.anchor_sequence)},
        )
    if position > chain.sequence:
        raise FailedPreconditionError(
            f"the log ends at event {chain.sequence}, before {position}: was the database restored? "
            f"Continue after {chain.sequence}",
            "EVENT_UNKNOWN",
            {"sequence": str(chain.sequence)},
        )
    if position == chain.sequence:
        return Batch((), position)
    between = (Event.sequence > position) & (Event.sequence <= chain.sequence)
    found = tuple(query().where(between).order_by(Event.sequence).limit(_BATCH))
    return Batch(found, found[-1].sequence or position if len(found) == _BATCH else chain.sequence)
