"""When what a schedule takes is due. Pure; all times are UTC, which has no daylight saving."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from ostler_common.errors import bad_field

HOURLY, DAILY, WEEKLY, MONTHLY = "hourly", "daily", "weekly", "monthly"
INTERVALS = (HOURLY, DAILY, WEEKLY, MONTHLY)


@dataclass(frozen=True)
class Timetable:
    """Times of one interval.

    minute, hour: of the day; an hourly timetable ignores the hour. day: 1 (Monday) to 7 of a weekly one; 1 to 28 of a
    monthly one, so that every month has it.
    """

    interval: str
    minute: int = 0
    hour: int = 0
    day: int = 1

    def next_after(self, moment: datetime.datetime) -> datetime.datetime:
        """The first time after this moment."""
        first = self._in_period_of(moment)
        return first if first > moment else self._in_period_of(self._next_period(moment))

    def _in_period_of(self, moment: datetime.datetime) -> datetime.datetime:
        """The time in the moment's own hour, day, week or month."""
        hour = moment.hour if self.interval == HOURLY else self.hour
        time = moment.replace(hour=hour, minute=self.minute, second=0, microsecond=0)
        if self.interval == WEEKLY:
            return time + datetime.timedelta(days=self.day - moment.isoweekday())
        return time.replace(day=self.day) if self.interval == MONTHLY else time

    def _next_period(self, moment: datetime.datetime) -> datetime.datetime:
        """Some moment in the next hour, day, week or month."""
        match self.interval:
            case "hourly":
                return moment + datetime.timedelta(hours=1)
            case "daily":
                return moment + datetime.timedelta(days=1)
            case "weekly":
                return moment + datetime.timedelta(days=7)
            case _:
                return moment.replace(day=28) + datetime.timedelta(days=4)


def checked(interval: str, minute: int, hour: int, day: int) -> Timetable:
    """The timetable of a request. Raises InvalidArgumentError INVALID_SCHEDULE."""
    assert interval in INTERVALS, interval
    if not 0 <= minute <= 59:
        raise bad_field("minute", "must be 0 to 59", "INVALID_SCHEDULE")
    if not 0 <= hour <= (0 if interval == HOURLY else 23):
        message = "must be 0 for an hourly schedule" if interval == HOURLY else "must be 0 to 23"
        raise bad_field("hour", message, "INVALID_SCHEDULE")
    if interval in (HOURLY, DAILY):
        if day not in (0, 1):
            raise bad_field("day", f"must not be set for a schedule that is {interval}", "INVALID_SCHEDULE")
        return Timetable(interval, minute, hour)
    last, limit = (7, "7, Monday to Sunday") if interval == WEEKLY else (28, "28, which every month has")
    if not 1 <= day <= last:
        raise bad_field("day", f"must be 1 to {limit}", "INVALID_SCHEDULE")
    return Timetable(interval, minute, hour, day)
