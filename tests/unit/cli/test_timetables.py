from __future__ import annotations

import click
import pytest
from ostler_control.cli.timetables import At, parse, words


@pytest.mark.parametrize(
    ("interval", "text", "at"),
    [
        ("hourly", "", At()),
        ("hourly", "15", At(15)),
        ("hourly", ":05", At(5)),
        ("daily", "", At()),
        ("daily", "3:30", At(30, 3)),
        ("weekly", "", At(0, 0, 1)),
        ("weekly", "Sun 23:59", At(59, 23, 7)),
        ("weekly", "tuesday 04:00", At(0, 4, 2)),
        ("monthly", "", At(0, 0, 1)),
        ("monthly", "28 00:10", At(10, 0, 28)),
    ],
)
def test_times_are_read(interval: str, text: str, at: At) -> None:
    assert parse(interval, text) == at


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        ("hourly", "60"),
        ("hourly", "sun 5"),
        ("hourly", "03:30"),
        ("daily", "24:00"),
        ("daily", "12"),
        ("daily", "sun 03:00"),
        ("weekly", "03:00"),
        ("weekly", "xyz 03:00"),
        ("monthly", "29 03:00"),
        ("monthly", "0 03:00"),
        ("monthly", "03:00"),
    ],
)
def test_others_are_refused_with_an_example(interval: str, text: str) -> None:
    with pytest.raises(click.UsageError, match=r"e\.g\."):
        parse(interval, text)


def test_they_are_shown() -> None:
    assert words("hourly", At(5)) == "hourly, minute 5 UTC"
    assert words("daily", At(5, 3)) == "daily, 03:05 UTC"
    assert words("weekly", At(0, 3, 7)) == "weekly, sun 03:00 UTC"
    assert words("monthly", At(0, 3, 28)) == "monthly, day 28, 03:00 UTC"
