"""The hash chain over the audit log: pure functions.

The digest of an event is SHA-256, in hexadecimal, over the digest of its predecessor, a line feed, and the event as a
JSON array without spaces, in UTF-8 (`digest_of`). Before the first event the digest is "".
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

START = ""


@dataclass(frozen=True)
class Content:
    """What the digest of an event covers: all that the log holds of it."""

    id: str
    create_time: datetime.datetime
    type: str
    outcome: str
    actor: str
    resource_type: str
    resource_id: str
    resource_name: str
    account_id: str
    message: str
    operation_id: str


@dataclass(frozen=True)
class Mark:
    """A point of the chain: the last event up to it, and that event's digest. 0 and "" before the first event."""

    sequence: int
    digest: str


@dataclass(frozen=True)
class Link:
    """An event as it is recorded in the chain."""

    mark: Mark
    content: Content


class Reason(StrEnum):
    """How a chain is broken. ALTERED: the event, or its digest, is not what was linked; MISSING: an event is gone, or
    one is there twice; END_MISSING: the newest events are gone; START_DIFFERS: no event says that the oldest ones were
    deleted when they expired; NOT_KNOWN: the chain does not have the event and digest that the caller remembers."""

    ALTERED = "altered"
    MISSING = "missing"
    END_MISSING = "end_missing"
    START_DIFFERS = "start_differs"
    NOT_KNOWN = "not_known"


@dataclass(frozen=True)
class Break:
    """The first broken event of a chain. event_id: "" when the event is gone."""

    reason: Reason
    sequence: int
    event_id: str
    message: str


def digest_of(previous: str, sequence: int, content: Content) -> str:
    """The digest of the event with this number, after an event with the digest `previous`."""
    time = content.create_time.isoformat(timespec="microseconds")
    fields = [
        *(sequence, content.id, time, content.type, content.outcome, content.actor, content.resource_type),
        *(content.resource_id, content.resource_name, content.account_id, content.message, content.operation_id),
    ]
    text = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(f"{previous}\n{text}".encode("utf-8", "surrogatepass")).hexdigest()


def follow(last: Mark, links: Iterable[Link]) -> tuple[Mark, Break | None]:
    """Follows the chain from `last` over the events that come next; the last good one, and the first break."""
    for link in links:
        sequence = last.sequence + 1
        if link.mark.sequence != sequence:
            return last, _gap(sequence, link)
        if link.mark.digest != digest_of(last.digest, sequence, link.content):
            message = f"event {sequence} was altered, or an event before it was exchanged"
            return last, Break(Reason.ALTERED, sequence, link.content.id, message)
        last = link.mark
    return last, None


def _gap(expected: int, found: Link) -> Break:
    if found.mark.sequence < expected:
        message = f"there are two events with the number {found.mark.sequence}"
        return Break(Reason.MISSING, found.mark.sequence, found.content.id, message)
    return Break(Reason.MISSING, expected, "", f"event {expected} is missing")
