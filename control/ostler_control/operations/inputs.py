"""What a workflow is given: a frozen dataclass of ids and sizes, kept as JSON in the operation's row.

Each workflow has its own dataclass. The JSON outlives a release: a field that is added later needs a default.
"""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import TypeAdapter

T = TypeVar("T")

# Any: an adapter per dataclass, made once.
_ADAPTERS: dict[type, TypeAdapter[Any]] = {}


def to_json(inputs: object) -> str:
    """The JSON of a dataclass, nested ones and enums included."""
    return _adapter(type(inputs)).dump_json(inputs).decode()


def from_json(cls: type[T], text: str) -> T:
    """What `to_json` kept; pydantic's ValidationError when it is something else."""
    read: T = _adapter(cls).validate_json(text)
    return read


def _adapter(cls: type) -> TypeAdapter[Any]:
    if cls not in _ADAPTERS:
        _ADAPTERS[cls] = TypeAdapter(cls)
    return _ADAPTERS[cls]
