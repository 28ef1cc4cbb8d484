"""What a guest says of itself, made safe to keep and to show: the agent and the control plane both do it."""

from __future__ import annotations

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from ostler.types.v1 import guest_pb2

from ostler_common.text import printable, shortened

MAX_ITEMS = 64  # of each list
MAX_TEXT = 256  # characters of each text
MAX_TIME_S = 253_402_300_799  # the last second of the year 9999, the last that a Timestamp may have


def clean(info: guest_pb2.GuestInfo) -> guest_pb2.GuestInfo:
    """A copy with short, printable texts on one line, short lists, and times and sizes that exist."""
    kept = guest_pb2.GuestInfo()
    kept.CopyFrom(info)
    _clean(kept)
    return kept


def clean_text(text: str) -> str:
    """At most MAX_TEXT printable characters, on one line."""
    return shortened(printable(text[: MAX_TEXT + 1]).replace("\n", " "), MAX_TEXT)


def _clean(message: Message) -> None:
    for field, value in message.ListFields():
        if field.is_repeated:
            del value[MAX_ITEMS:]
            if field.message_type is None:
                value[:] = map(clean_text, value)
            else:
                for item in value:
                    _clean(item)
        elif isinstance(value, Timestamp):
            value.seconds = min(max(value.seconds, 0), MAX_TIME_S)
            value.nanos = min(max(value.nanos, 0), 999_999_999)
        elif isinstance(value, str):
            setattr(message, field.name, clean_text(value))
        elif isinstance(value, int):
            setattr(message, field.name, max(value, 0))
