"""Verifies the chain of the audit log."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ostler_common.errors import AbortedError, FailedPreconditionError

from ostler_control.events.chain import START, Break, Link, Mark, Reason, follow
from ostler_control.events.linking import PRUNED, content_of, link_all, read_chain
from ostler_control.models import Event, EventChain

_PAGE = 1000
_MAX_ATTEMPTS = 5


@dataclass(frozen=True)
class Verdict:
    """checked_count: events that are as they were linked; start: what was deleted before them; end: the last one;
    first_break: None when the chain is whole."""

    checked_count: int
    start: Mark
    end: Mark
    first_break: Break | None


def verify(known: Mark | None = None) -> Verdict:
    """Follows the chain from its start to its end. known: a point of it that the caller remembers.

    Raises FailedPreconditionError EVENT_EXPIRED when what the caller remembers was deleted since; UnavailableError
    EVENTS_BUSY; AbortedError EVENTS_CHANGING when old events keep being deleted meanwhile.
    """
    link_all()
    for _ in range(_MAX_ATTEMPTS):
        chain = read_chain()
        verdict = _follow(chain, known)
        if read_chain().anchor_sequence == chain.anchor_sequence:
            return verdict
    raise AbortedError("old events are being deleted; try again", "EVENTS_CHANGING")


def _follow(chain: EventChain, known: Mark | None) -> Verdict:
    start, end = Mark(chain.anchor_sequence, chain.anchor_digest), Mark(chain.sequence, chain.digest)
    if known is not None and known.sequence < start.sequence:
        raise FailedPreconditionError(
            f"event {known.sequence} has expired; the oldest one is {start.sequence + 1} (event.retention)",
            "EVENT_EXPIRED",
        )
    last, found = start, _known_break(known, [start])
    for links in _pages(start.sequence) if found is None else ():
        last, found = follow(last, links)
        marks = [link.mark for link in links if link.mark.sequence <= last.sequence]
        found = found or _end_break(end, marks) or _known_break(known, marks)
        if found is not None:
            break
    if found is None:
        found = _missing_end(end, last, known) or _start_break(start)
    return Verdict(last.sequence - start.sequence, start, last, found)


def _pages(after: int) -> Iterator[list[Link]]:
    """Every event after this one, several with one number too."""
    linked = Event.select().order_by(Event.sequence, Event.create_time)
    while True:
        rows = list(linked.where((Event.sequence > after) & (Event.sequence <= after + _PAGE)))
        rows = rows or list(linked.where(Event.sequence > after).limit(1))
        if not rows:
            return
        yield [_link(row) for row in rows]
        after = rows[-1].sequence or after


def _link(row: Event) -> Link:
    return Link(Mark(row.sequence or 0, row.digest or START), content_of(row))


def _end_break(end: Mark, marks: list[Mark]) -> Break | None:
    if any(mark.sequence == end.sequence and mark.digest != end.digest for mark in marks):
        message = f"event {end.sequence}, or one before it, is not the one that was linked"
        return Break(Reason.ALTERED, end.sequence, "", message)
    return None


def _known_break(known: Mark | None, marks: list[Mark]) -> Break | None:
    if known is not None and any(mark.sequence == known.sequence and mark.digest != known.digest for mark in marks):
        message = (
            f"event {known.sequence} has another digest than the one that was given: it, or one before it, changed "
            "(or the database was restored from a backup that was older)"
        )
        return Break(Reason.NOT_KNOWN, known.sequence, "", message)
    return None


def _missing_end(end: Mark, last: Mark, known: Mark | None) -> Break | None:
    if last.sequence < end.sequence:
        message = f"events {last.sequence + 1} to {end.sequence} are missing"
        return Break(Reason.END_MISSING, last.sequence + 1, "", message)
    if known is not None and known.sequence > last.sequence:
        message = f"the log ends before event {known.sequence} (was the database restored from a backup?)"
        return Break(Reason.NOT_KNOWN, known.sequence, "", message)
    return None


def _start_break(start: Mark) -> Break | None:
    """Whether the chain begins where the newest event about deleted events says, and nothing is before it."""
    early = Event.select().where(Event.sequence <= start.sequence).order_by(Event.sequence).first()
    if early is not None:
        return Break(Reason.ALTERED, early.sequence or 0, early.id, f"event {early.sequence} was deleted, and is back")
    pruned = Event.select().where((Event.type == PRUNED) & Event.sequence.is_null(False))
    told = pruned.order_by(Event.sequence.desc()).first()
    expected = (told.resource_name, told.resource_id) if told else ("0", START)
    if expected == (str(start.sequence), start.digest):
        return None
    message = f"the log begins after event {start.sequence}, and no event of type {PRUNED} says so"
    return Break(Reason.START_DIFFERS, start.sequence + 1, told.id if told else "", message)
