"""Values of the wire as people read them: sizes, times, names of enum values."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from ostler_common.disk_names import disk_name
from ostler_common.units import format_size

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from google.protobuf.timestamp_pb2 import Timestamp

NONE = "-"


def cpus(count: int) -> str:
    """ "1 CPU", "2 CPUs"."""
    return f"{count} {'CPU' if count == 1 else 'CPUs'}"


def size(size_bytes: int, nothing: str = NONE) -> str:
    """`10 GiB`; `nothing` for 0."""
    return format_size(size_bytes) if size_bytes else nothing


def yes(value: bool) -> str:
    return "yes" if value else "no"


def or_dash(text: str) -> str:
    return text or NONE


def enum_of(message: Message, field: str) -> str:
    """The value of an enum field in lower case, without the prefix that all values of its type share; a dash for
    UNSPECIFIED."""
    kind = message.DESCRIPTOR.fields_by_name[field].enum_type
    if kind is None:
        raise TypeError(f"{field} is no enum")
    number = getattr(message, field)
    if not number:
        return NONE
    value = kind.values_by_number.get(number)
    if value is None:  # a newer control plane's
        return str(number)
    prefix = kind.values_by_number[0].name.removesuffix("UNSPECIFIED")
    name: str = value.name
    return name.removeprefix(prefix).lower()


def moment(time: Timestamp) -> datetime:
    """The time, in the caller's time zone."""
    return time.ToDatetime(tzinfo=UTC).astimezone()


def when(message: Message, field: str) -> str:
    """`2026-07-01 10:00:00` in the caller's time zone; a dash when the field is absent."""
    return f"{moment(getattr(message, field)):%Y-%m-%d %H:%M:%S}" if message.HasField(field) else NONE


def age(message: Message, field: str, now: datetime | None = None) -> str:
    """`5m`: how long ago; a dash when the field is absent."""
    if not message.HasField(field):
        return NONE
    return span((now or datetime.now(UTC)) - moment(getattr(message, field)))


def span(duration: timedelta) -> str:
    """`45s`, `12m`, `3h`, `20d`: the largest unit that it fills twice, rounded down."""
    seconds = max(0, int(duration.total_seconds()))
    for unit, name in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * unit:
            return f"{seconds // unit}{name}"
    return f"{seconds}s"


def joined(values: Iterable[object]) -> str:
    return ", ".join(str(value) for value in values) or NONE


def disk(slot: int) -> str:
    """`vda` for slot 0; "-" for a volume without a slot."""
    return disk_name("vd", slot) if slot >= 0 else NONE
