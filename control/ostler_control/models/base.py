"""The database object and what all models share."""

from __future__ import annotations

import datetime
import uuid
from typing import Self

from peewee import ColumnBase, DatabaseProxy, DateTimeField, Model, ModelInsert, ModelSelect, ModelUpdate, TextField

from ostler_control.models.direct import changed_row, new_row, row_by_key
from ostler_control.models.queries import Change, missing, selection

# Unbound until `ostler_control.database.connect` gives it SQLite or PostgreSQL.
db = DatabaseProxy()


def new_id() -> str:
    """A new object's UUID."""
    return str(uuid.uuid4())


def now() -> datetime.datetime:
    """The present moment, UTC, without a zone: how every timestamp is stored."""
    return datetime.datetime.now(datetime.UTC).replace(tzinfo=None)


class BaseModel(Model):
    """Every table: a UUID as text, and when the row was made."""

    id = TextField(primary_key=True, default=new_id)
    create_time = DateTimeField(default=now, index=True)

    class Meta:
        database = db
        legacy_table_names = False

    @classmethod
    def select(cls, *columns: object) -> ModelSelect[Self]:
        return selection(cls, columns)  # type: ignore[return-value]  # it makes objects of its model

    @classmethod
    def update(cls, data: object = None, /, **changed: object) -> ModelUpdate:
        return Change(cls, cls._normalize_data(data, changed))  # type: ignore[attr-defined]  # the stubs leave it out

    @classmethod
    def insert(cls, data: object = None, /, **given: object) -> ModelInsert:
        """The defaults of what is not given are among the values, so that the statement's text can be kept."""
        row = cls._normalize_data(data, given)  # type: ignore[attr-defined]  # the stubs leave it out
        if isinstance(row, dict) and len(row) < len(cls._meta.fields):
            for field, default in cls._meta.defaults.items():
                if field not in row:
                    row[field] = default() if callable(default) else default
        return ModelInsert(cls, row)

    def save(self, force_insert: bool = False, only: object = None) -> int:
        statement = new_row(self) if force_insert and only is None else None
        if statement is None:
            return super().save(force_insert, only)
        self._meta.database.execute(statement)
        vars(self)["_dirty"].difference_update(self.__data__)
        return 1

    def insert_unless_taken(self) -> bool:
        """Inserts the row unless it conflicts with another one; whether it did. A conflict ends no transaction, so this
        takes no savepoint."""
        statement = new_row(self, may_conflict=True)
        if statement is None:
            return bool(type(self).insert(self.__data__).on_conflict_ignore().as_rowcount().execute())
        return bool(self._meta.database.execute(statement).rowcount)

    @classmethod
    def change(cls, key: str, /, **values: object) -> int:
        """Changes these columns of the row with this key; returns how many rows that were."""
        statement = changed_row(cls, key, values)
        if statement is None:
            return int(cls.update(**values).where(cls._meta.primary_key == key).execute())
        return int(cls._meta.database.execute(statement).rowcount)

    @classmethod
    def get(cls, *conditions: object, **filters: object) -> Self:
        if not filters and (statement := row_by_key(cls, conditions)) is not None:
            row: Self | None = statement.row()  # type: ignore[assignment]  # it is one of this model
            if row is None:
                raise missing(cls.select().where(*conditions))
            return row
        return super().get(*conditions, **filters)

    @classmethod
    def get_or_none(cls, *conditions: ColumnBase) -> Self | None:
        """The first row for which these hold. When there is none, as mostly, peewee's own would write the statement
        once more, into an error that nobody sees."""
        if (statement := row_by_key(cls, conditions)) is not None:
            return statement.row()  # type: ignore[return-value]  # it is one of this model
        query = cls.select().where(*conditions) if conditions else cls.select()
        row: Self | None = query.first()
        return row
