"""Writing and selecting events: who did what to which object, when, with what outcome."""

from __future__ import annotations

import datetime
from enum import StrEnum
from typing import Protocol

from peewee import ModelSelect, fn

from ostler_control.models import Event
from ostler_control.prepared import Prepared

SYSTEM = "system"


class Named(Protocol):
    """A row with a name."""

    @property
    def id(self) -> str: ...

    @property
    def name(self) -> str: ...


class Outcome(StrEnum):
    """The outcome; NOTICED: Ostler saw it and did not do it."""

    STARTED = "started"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    NOTICED = "noticed"


_COLUMNS = [column for column in Event._meta.sorted_fields if column.name not in ("sequence", "digest")]
_INSERT = Prepared(lambda value: Event.insert({column: value(column.name) for column in _COLUMNS}))


def record(
    type: str,
    outcome: Outcome,
    actor: str,
    resource_type: str,
    resource_id: str,
    resource_name: str,
    message: str = "",
    *,
    operation_id: str = "",
    account_id: str = "",
) -> Event:
    """Writes an event, in the caller's transaction if there is one.

    type: "vm.migrate"; actor: `Caller.actor` or SYSTEM; account_id: whose members may see it, "" for admins only.
    message never holds a secret.
    """
    written = Event(
        type=type,
        outcome=outcome.value,
        actor=actor,
        resource_type=resource_type,
        resource_id=resource_id,
        resource_name=resource_name,
        message=message,
        operation_id=operation_id,
        account_id=account_id,
    )
    _INSERT.run(**written.__data__)
    return written


def done(type: str, actor: str, row: Named, message: str = "") -> None:
    """Records a change of this row (a zone, a cluster, ...) that succeeded at once."""
    record(type, Outcome.SUCCEEDED, actor, type.partition(".")[0], row.id, row.name, message)


def matching(
    query: ModelSelect[Event], *, resource_id: str = "", type: str = "", start_time: datetime.datetime | None = None
) -> ModelSelect[Event]:
    """Narrows a select of events. type: this one, or all that begin with it and a dot."""
    if resource_id:
        query = query.where(Event.resource_id == resource_id)
    if type:
        query = query.where((Event.type == type) | (fn.SUBSTR(Event.type, 1, len(type) + 1) == f"{type}."))
    if start_time:
        query = query.where(Event.create_time >= start_time)
    return query
