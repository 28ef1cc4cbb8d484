"""Timestamps: naive UTC in the database, google.protobuf.Timestamp on the wire."""

from __future__ import annotations

import datetime

from google.protobuf.timestamp_pb2 import Timestamp
from ostler_common.errors import bad_field


def timestamp(time: datetime.datetime | None) -> Timestamp | None:
    """The message for a time of the database; None stays None, which leaves a field unset."""
    if time is None:
        return None
    message = Timestamp()
    message.FromDatetime(time)
    return message


def time_of(message: Timestamp, field: str) -> datetime.datetime:
    """The database's time for a message; raises InvalidArgumentError when it is out of range."""
    try:
        return message.ToDatetime()
    except ValueError:
        raise bad_field(field, "is not a valid time", reason="INVALID_TIME") from None
