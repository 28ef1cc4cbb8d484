"""Time windows of automatic plans."""

from __future__ import annotations

import datetime

import pytest
from ostler_common.errors import InvalidArgumentError
from ostler_control.drs import Settings
from ostler_control.drs.windows import parse

MONDAY = datetime.datetime(2026, 3, 2)


def at(day: int, hour: int, minute: int = 0) -> datetime.datetime:
    return MONDAY + datetime.timedelta(days=day, hours=hour, minutes=minute)


@pytest.mark.parametrize(
    ("text", "open_", "closed"),
    [
        ("always", [at(0, 0), at(6, 23)], []),
        ("22:00-06:00", [at(0, 22), at(1, 5, 59), at(0, 3)], [at(0, 6), at(0, 21, 59)]),
        ("Mon-Fri 22:00-06:00", [at(4, 22), at(5, 5)], [at(5, 22), at(0, 5)]),
        ("Sun 20:00-04:00", [at(6, 20), at(0, 3, 59)], [at(0, 4), at(5, 21)]),
        ("Sat-Sun 00:00-24:00, Mon 12:00-13:00", [at(5, 0), at(6, 23), at(0, 12)], [at(0, 0), at(0, 13)]),
        ("Fri-Mon 01:00-02:00", [at(4, 1), at(0, 1)], [at(1, 1)]),
    ],
)
def test_open_and_closed(text: str, open_: list[datetime.datetime], closed: list[datetime.datetime]) -> None:
    windows = parse(text)
    assert [windows.is_open(time) for time in open_] == [True] * len(open_)
    assert [windows.is_open(time) for time in closed] == [False] * len(closed)


def test_the_next_opening() -> None:
    windows = parse("Tue 22:00-23:00, Sat 01:00-02:00")
    assert windows.next_open(at(0, 5, 30)) == at(1, 22)
    assert windows.next_open(at(1, 22, 30)) == at(1, 22, 30)
    assert windows.next_open(at(1, 23)) == at(5, 1)
    assert windows.next_open(at(6, 0)) == at(8, 22)


@pytest.mark.parametrize(
    "text", ["", "never", "Mon", "Mon 22-06", "Mun 22:00-23:00", "24:00-25:00", "01:00-01:00", "1:00-2:00"]
)
def test_what_is_no_window_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError) as error:
        Settings.of({"drs.automatic.window": text})
    assert error.value.reason == "INVALID_SETTING"
