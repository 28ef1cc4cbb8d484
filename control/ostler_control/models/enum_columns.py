"""A column that holds an enum."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, TypeVar

from peewee import Field, FieldAccessor, Model, TextField

E = TypeVar("E", bound=StrEnum)


class EnumAccessor(FieldAccessor):
    """Makes the member out of the text that a caller may assign."""

    def __set__(self, instance: Model, value: str | None) -> None:
        super().__set__(instance, self.field.python_value(value))


class EnumField(TextField):
    """Text of one of an enum's members; ValueError for any other, in rows and in queries alike."""

    accessor_class = EnumAccessor

    def __init__(self, members: type[StrEnum], **options: object) -> None:
        self._members = members
        self._by_text = {member.value: member for member in members}
        super().__init__(**options)

    def db_value(self, value: str | None) -> str | None:
        return None if value is None else self.member(value).value

    def python_value(self, value: str | None) -> StrEnum | None:
        return None if value is None else self.member(value)

    def member(self, value: str) -> StrEnum:
        """Like the enum's call, which takes ten times as long for a member that there is."""
        return self._by_text.get(value) or self._members(value)


def enum_column(members: type[E], default: E | None = None, *, index: bool = False) -> Field[E]:
    """A text column whose values are members of this enum."""
    field: Any = EnumField  # the stubs type a field by its class alone
    column: Field[E] = field(members, index=index, **({} if default is None else {"default": default}))
    return column
