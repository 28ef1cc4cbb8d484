"""Which of many tables have rows for some objects, asked by one statement: most objects have rows in few of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from peewee import ColumnBase, Field, Model

from ostler_control.models.base import db


def owners(*asked: tuple[ColumnBase, Collection[str]]) -> Mapping[type[Model], list[str]]:
    """By table those of the ids that are in its column: `owners((VmTpm.vm, vm_ids), (VmIso.vm, vm_ids))`."""
    found: dict[type[Model], list[str]] = {}
    parts: dict[str, type[Model]] = {}
    values: list[str] = []
    for column, ids in asked:
        assert isinstance(column, Field)
        found[column.model] = []
        if not ids:
            continue
        table, name = column.model._meta.table_name, column.column_name
        places = ", ".join([db.param] * len(ids))
        parts[f"SELECT {len(parts)}, {name} FROM {table} WHERE {name} IN ({places})"] = column.model  # noqa: S608
        values += ids
    if parts:
        models = list(parts.values())
        for number, owner in db.execute_sql(" UNION ".join(parts), values).fetchall():
            found[models[number]].append(owner)
    return found
