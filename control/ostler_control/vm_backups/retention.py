"""Which backups a schedule keeps. Pure."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Retention:
    """last: the newest ones; daily, weekly, monthly: the newest of each day, week (from Monday) and month that has any,
    for so many of them. Times are UTC. A backup that any rule keeps is kept."""

    last: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0

    def total(self) -> int:
        """The most that it keeps."""
        return self.last + self.daily + self.weekly + self.monthly

    def kept(self, times: Sequence[datetime.datetime]) -> set[int]:
        """Positions of the times that are kept."""
        newest_first = sorted(range(len(times)), key=lambda at: (times[at], at), reverse=True)
        found = set(newest_first[: self.last])
        for count, period_of in ((self.daily, _day), (self.weekly, _week), (self.monthly, _month)):
            found |= _newest_of_each(newest_first, times, period_of, count)
        return found


def _newest_of_each(
    newest_first: Sequence[int],
    times: Sequence[datetime.datetime],
    period_of: Callable[[datetime.datetime], tuple[int, ...]],
    count: int,
) -> set[int]:
    newest: dict[tuple[int, ...], int] = {}
    for at in newest_first:
        newest.setdefault(period_of(times[at]), at)
    return set(list(newest.values())[:count])


def _day(time: datetime.datetime) -> tuple[int, ...]:
    return (time.year, time.month, time.day)


def _week(time: datetime.datetime) -> tuple[int, ...]:
    return (time.isocalendar().year, time.isocalendar().week)


def _month(time: datetime.datetime) -> tuple[int, ...]:
    return (time.year, time.month)
