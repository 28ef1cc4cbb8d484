"""When snapshots are due: properties of every timetable at random moments."""

from __future__ import annotations

import datetime
import random

import pytest
from ostler_control.snapshots.times import INTERVALS, Timetable

DAY = datetime.timedelta(days=1)
LONGEST = {"hourly": DAY / 24, "daily": DAY, "weekly": 7 * DAY, "monthly": 31 * DAY}
EDGES = [
    datetime.datetime(2024, 2, 28, 23, 59, 59, 999999),
    datetime.datetime(2024, 2, 29),
    datetime.datetime(2023, 2, 28, 12),
    datetime.datetime(2025, 12, 31, 23, 59, 59),
    datetime.datetime(2026, 1, 31, 0, 0, 0, 1),
    datetime.datetime(2026, 3, 29, 1, 30),  # clocks change in Europe, not in UTC
]


def timetables(interval: str, count: int) -> list[Timetable]:
    draw = random.Random(interval)
    last = {"weekly": 7, "monthly": 28}.get(interval, 1)
    return [
        Timetable(
            interval, draw.randrange(60), 0 if interval == "hourly" else draw.randrange(24), draw.randint(1, last)
        )
        for _ in range(count)
    ]


def moments(count: int) -> list[datetime.datetime]:
    draw = random.Random(1)
    first = datetime.datetime(2023, 12, 1)
    return EDGES + [first + datetime.timedelta(seconds=draw.uniform(0, 800 * 86400)) for _ in range(count)]


def matches(timetable: Timetable, time: datetime.datetime) -> bool:
    return (
        (time.minute, time.second, time.microsecond) == (timetable.minute, 0, 0)
        and (timetable.interval == "hourly" or time.hour == timetable.hour)
        and (timetable.interval != "weekly" or time.isoweekday() == timetable.day)
        and (timetable.interval != "monthly" or time.day == timetable.day)
    )


@pytest.mark.parametrize("interval", INTERVALS)
def test_the_next_time_is_the_first_that_matches(interval: str) -> None:
    """It is later, it matches, it is never further off than the interval, and nothing before it matches."""
    for timetable in timetables(interval, 20):
        for moment in moments(30):
            found = timetable.next_after(moment)
            assert moment < found <= moment + LONGEST[interval]
            assert matches(timetable, found)
            hour = moment.replace(minute=timetable.minute, second=0, microsecond=0)
            while hour < found:
                assert hour <= moment or not matches(timetable, hour), (timetable, moment)
                hour += DAY / 24


@pytest.mark.parametrize("interval", INTERVALS)
def test_following_it_leaves_no_period_out(interval: str) -> None:
    """From one to the next is one interval, over years; a time that is due is not due again."""
    for timetable in timetables(interval, 5):
        time = timetable.next_after(datetime.datetime(2023, 11, 5, 7, 7))
        for _ in range(40):
            later = timetable.next_after(time)
            if interval == "monthly":
                assert (later.year * 12 + later.month) - (time.year * 12 + time.month) == 1
            else:
                assert later - time == LONGEST[interval]
            time = later


def test_by_hand() -> None:
    at = datetime.datetime(2026, 1, 31, 10, 0)  # a Saturday
    assert Timetable("hourly", 0).next_after(at) == datetime.datetime(2026, 1, 31, 11, 0)
    assert Timetable("daily", 0, 10).next_after(at) == datetime.datetime(2026, 2, 1, 10, 0)
    assert Timetable("daily", 1, 10).next_after(at) == datetime.datetime(2026, 1, 31, 10, 1)
    assert Timetable("weekly", 0, 3, 6).next_after(at) == datetime.datetime(2026, 2, 7, 3, 0)
    assert Timetable("weekly", 0, 3, 7).next_after(at) == datetime.datetime(2026, 2, 1, 3, 0)
    assert Timetable("monthly", 0, 0, 28).next_after(at) == datetime.datetime(2026, 2, 28, 0, 0)
    assert Timetable("monthly", 0, 0, 1).next_after(datetime.datetime(2025, 12, 1)) == datetime.datetime(2026, 1, 1)
