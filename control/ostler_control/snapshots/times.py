"""When a schedule's snapshots are due. Pure; all times are UTC, which has no daylight saving."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

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
