"""What lists look up once for all of their rows: names beside ids, and what the caller may see."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol, TypeVar

from peewee import ColumnBase

from ostler_control.api.redact import Conceal, concealer
from ostler_control.caller import Caller
from ostler_control.models import BaseModel

_Row = TypeVar("_Row", bound=BaseModel)


class _Named(Protocol):
    @property
    def name(self) -> str: ...


def by_id(model: type[_Row], ids: Iterable[str | None], *columns: ColumnBase) -> dict[str | None, _Row]:
    """The rows with these ids, read in one query. columns: those that are needed, beside the id; none: all."""
    wanted = {row_id for row_id in ids if row_id}
    if not wanted:
        return {}
    query = model.select(model.id, *columns) if columns else model.select()
    return {row.id: row for row in query.where(model.id.in_(wanted))}


def name_of(rows: Mapping[str | None, _Named], row_id: str | None) -> str:
    """The name of a row that was looked up; "" when there is none."""
    row = rows.get(row_id)
    return row.name if row else ""


def shown_to(caller: Caller) -> Conceal:
    """What a text becomes for this caller."""
    return (lambda text: text) if caller.is_admin else concealer(caller.account_id)
