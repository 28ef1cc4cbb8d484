"""Time windows of the week, in UTC: `always`, or such as `Mon-Fri 22:00-06:00, Sat-Sun 00:00-24:00`."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass

ALWAYS = "always"
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_WINDOW = re.compile(r"(?:(\w{3})(?:-(\w{3}))? )?(\d\d):(\d\d)-(\d\d):(\d\d)")
_DAY = 24 * 60
_WEEK = 7 * _DAY
_MAX_WINDOWS = 28


@dataclass(frozen=True)
class Windows:
    """Spans of the week as (first minute since Monday 00:00, length in minutes). None: all the time."""

    spans: tuple[tuple[int, int], ...] = ()

    def is_open(self, time: datetime.datetime) -> bool:
        """Whether the time is within one. time: in UTC, without a time zone."""
        minute = _minute(time)
        return not self.spans or any((minute - begin) % _WEEK < length for begin, length in self.spans)

    def next_open(self, time: datetime.datetime) -> datetime.datetime:
        """The first moment from this time on at which one is open."""
        if self.is_open(time):
            return time
        minute = _minute(time)
        wait = min((begin - minute) % _WEEK for begin, _ in self.spans)
        return time.replace(second=0, microsecond=0) + datetime.timedelta(minutes=wait)


def parse(text: str) -> Windows:
    """Raises ValueError, whose text says what it must be."""
    if text == ALWAYS:
        return Windows()
    parts = [part.strip() for part in text.split(",")]
    if len(parts) > _MAX_WINDOWS:
        raise ValueError(f"must be at most {_MAX_WINDOWS} windows")
    return Windows(tuple(span for part in parts for span in _spans(part)))


def _spans(part: str) -> list[tuple[int, int]]:
    found = _WINDOW.fullmatch(part)
    first, last = (found.group(1), found.group(2)) if found else (None, None)
    if found is None or any(day and day not in _DAYS for day in (first, last)):
        raise ValueError('must be always, or windows in UTC such as "Mon-Fri 22:00-06:00, Sat 00:00-24:00"')
    begin_hour, begin_minute, end_hour, end_minute = map(int, found.groups()[2:])
    begin, end = begin_hour * 60 + begin_minute, end_hour * 60 + end_minute
    if begin_minute > 59 or end_minute > 59 or begin >= _DAY or end > _DAY or begin == end:
        raise ValueError(f'"{part}": times are 00:00 to 24:00, and the two differ')
    length = (end - begin) % _DAY or _DAY
    start = _DAYS.index(first) if first else 0
    count = (_DAYS.index(last) - start) % 7 + 1 if last else (1 if first else 7)
    return [((start + day) % 7 * _DAY + begin, length) for day in range(count)]


def _minute(time: datetime.datetime) -> int:
    return time.weekday() * _DAY + time.hour * 60 + time.minute
