"""When a schedule's snapshots are due. Pure; all times are UTC, where no hour comes twice or is left out."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

HOURLY, DAILY, WEEKLY, MONTHLY = "hourly", "daily", "weekly", "monthly"
INTERVALS = (HOURLY, DAILY, WEEKLY, MONTHLY)


@dataclass(frozen=True)
class Timetable:
    """minute, hour: of the day (hour not for hourly ones); day: of the week, 1 (Monday) to 7, for weekly ones; of the
    month, 1 to 28, for monthly ones, so that every month has it."""

    interval: str
    minute: int = 0
    hour: int = 0
    day: int = 1

    def next_after(self, moment: datetime.datetime) -> datetime.datetime:
        """The first time that is due later than this moment."""
        first = self._in_period_of(moment)
        return first if first > moment else self._in_period_of(self._next_period(moment))

    def _in_period_of(self, moment: datetime.datetime) -> datetime.datetime:
        """The one time within the moment's own hour, day, week or month."""
        hour = moment.hour if self.interval == HOURLY else self.hour
        time = moment.replace(hour=hour, minute=self.minute, second=0, microsecond=0)
        if self.interval == WEEKLY:
            return time + datetime.timedelta(days=self.day - moment.isoweekday())
        return time.replace(day=self.day) if self.interval == MONTHLY else time

    def _next_period(self, moment: datetime.datetime) -> datetime.datetime:
        """A moment of the hour, day, week or month after this one's."""
        match self.interval:
            case "hourly":
                return moment + datetime.timedelta(hours=1)
            case "daily":
                return moment + datetime.timedelta(days=1)
            case "weekly":
                return moment + datetime.timedelta(days=7)
            case _:
                return moment.replace(day=28) + datetime.timedelta(days=4)
