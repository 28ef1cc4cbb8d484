"""Which backups a schedule keeps."""

from __future__ import annotations

import datetime
import random

import pytest
from ostler_control.vm_backups.retention import Retention

DAY = datetime.timedelta(days=1)
# A Thursday, so that weeks begin within months and years.
FIRST = datetime.datetime(2025, 12, 25, 2)


def kept(keep: Retention, times: list[datetime.datetime]) -> list[datetime.datetime]:
    return [times[at] for at in sorted(keep.kept(times))]


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        (Retention(), []),
        (Retention(last=2), [19, 20]),
        (Retention(last=100), list(range(21))),
        (Retention(daily=3), [18, 19, 20]),
        # Sundays 28 December, 4 and 11 January; the newest is of a week that goes on.
        (Retention(weekly=3), [10, 17, 20]),
        (Retention(monthly=5), [6, 20]),
        (Retention(last=1, daily=2, weekly=2, monthly=2), [6, 17, 19, 20]),
    ],
)
def test_daily_backups_of_three_weeks(keep: Retention, expected: list[int]) -> None:
    times = [FIRST + DAY * number for number in range(21)]
    assert [times.index(time) for time in kept(keep, times)] == expected


def test_the_newest_of_a_day_is_kept_and_empty_days_do_not_count() -> None:
    hours = [datetime.timedelta(hours=number) for number in (0, 5, 21)]
    times = [FIRST + 30 * DAY * month + hour for month in range(2) for hour in hours]
    assert kept(Retention(daily=2), times) == [times[2], times[5]]


def test_equal_times_are_told_apart() -> None:
    assert Retention(last=1).kept([FIRST, FIRST, FIRST]) == {2}


def test_properties_of_any_rules_at_random_times() -> None:
    draw = random.Random(7)
    for _ in range(200):
        times = sorted(
            FIRST + datetime.timedelta(minutes=draw.randrange(500 * 1440)) for _ in range(draw.randrange(60))
        )
        keep = Retention(*(draw.randrange(5) for _ in range(4)))
        found = keep.kept(times)
        assert len(found) <= keep.total()
        assert set(range(len(times))[len(times) - keep.last :] if keep.last else ()) <= found
        if times and keep.total():
            assert len(times) - 1 in found, "the newest is kept by every rule"
        remaining = [times[at] for at in sorted(found)]
        assert keep.kept(remaining) == set(range(len(remaining))), "what is kept once stays until a newer one comes"
