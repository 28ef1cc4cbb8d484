"""Adds the finished steps of operations."""

from __future__ import annotations

from typing import Any

from peewee import CompositeKey, ForeignKeyField, IntegerField, Model, TextField


class Base(Model):
    class Meta:
        legacy_table_names = False


class Operation(Base):
    id: Any = TextField(primary_key=True)


class OperationStep(Base):
    operation: Any = ForeignKeyField(Operation, on_delete="CASCADE", index=False)
    number: Any = IntegerField()
    name: Any = TextField()
    outcome: Any = TextField()

    class Meta:
        primary_key = CompositeKey("operation", "number")


# Any: Peewee's database, whichever it is.
def up(migrator: object, db: Any) -> None:
    with db.bind_ctx((Operation, OperationStep)):
        db.create_tables((OperationStep,), safe=False)
