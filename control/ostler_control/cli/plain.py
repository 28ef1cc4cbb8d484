"""Messages as plain data for `-o json` and `-o yaml`.

The rules, which scripts may rely on: keys are the fields' names in the .proto files and are always there; integers
(also 64-bit ones) are numbers; enum values are their full names; times are RFC 3339 in UTC; bytes are base64; what is
absent is null; an Any is its content with `@type`.
"""

from __future__ import annotations

import base64
from typing import Any  # for descriptors: protobuf has two classes of them, without a common base

from google.protobuf import symbol_database
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp


def to_plain(message: Message) -> object:
    """The message as dicts, lists, strings and numbers."""
    if isinstance(message, Timestamp):
        return message.ToJsonString()
    if isinstance(message, AnyMessage):
        return _any(message)
    return fields(message)


def fields(message: Message) -> dict[str, object]:
    """The message's fields by name."""
    return {field.name: _field(message, field) for field in message.DESCRIPTOR.fields if not _other_arm(message, field)}


def _field(message: Message, field: Any) -> object:
    if field.has_presence and not message.HasField(field.name):
        return None
    value = getattr(message, field.name)
    if not field.is_repeated:
        return _value(field, value)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        values = field.message_type.fields_by_name["value"]
        return {str(key): _value(values, value[key]) for key in sorted(value)}
    return [_value(field, item) for item in value]


def _value(field: Any, value: object) -> object:
    if isinstance(value, Message):
        return to_plain(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value) if isinstance(value, int) else None
        return known.name if known else value
    return value


def _other_arm(message: Message, field: Any) -> bool:
    """Whether the field is an arm of a oneof of which another arm is set (proto3 `optional` is a oneof of one)."""
    oneof = field.containing_oneof
    return oneof is not None and len(oneof.fields) > 1 and not message.HasField(field.name)


def _any(message: AnyMessage) -> dict[str, object]:
    try:
        content = symbol_database.Default().GetSymbol(message.TypeName())()
    except KeyError:
        return {"@type": message.TypeName(), "value": base64.b64encode(message.value).decode()}
    message.Unpack(content)
    return {"@type": message.TypeName(), **fields(content)}
