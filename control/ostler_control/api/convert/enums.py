"""Enums: lower-case words in the database, prefixed upper-case values on the wire."""

from __future__ import annotations

from typing import Any

from ostler_common.errors import bad_field


def to_enum(enum: Any, prefix: str, word: str) -> Any:
    """The value of a protobuf enum for a database's word; "" gives 0 (unspecified)."""
    return enum.Value(prefix + word.upper()) if word else 0


def from_enum(enum: Any, prefix: str, value: int, field: str, default: str | None = None) -> str:
    """The database's word for an enum's value; `default` for 0. Raises InvalidArgumentError for an unknown value."""
    if value == 0 and default is not None:
        return default
    if value == 0 or value not in enum.values():
        raise bad_field(field, f"must be one of {', '.join(enum.keys()[1:])}", reason="INVALID_ENUM")
    name: str = enum.Name(value)
    return name.removeprefix(prefix).lower()
