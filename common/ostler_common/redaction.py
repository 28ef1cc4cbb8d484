"""Messages without their secrets."""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import Message

M = TypeVar("M", bound=Message)


def redacted(message: M) -> M:
    """A copy without the fields that are marked debug_redact, at any depth."""
    copy = type(message)()
    copy.CopyFrom(message)
    _redact(copy)
    return copy


def _redact(message: Message) -> None:
    for spec, value in message.ListFields():
        if spec.GetOptions().debug_redact:
            message.ClearField(spec.name)
        elif spec.message_type is None:
            continue
        elif spec.message_type.GetOptions().map_entry:
            for entry in value.values():
                if isinstance(entry, Message):
                    _redact(entry)
        elif isinstance(value, Message):
            _redact(value)
        else:
            for item in value:
                _redact(item)
