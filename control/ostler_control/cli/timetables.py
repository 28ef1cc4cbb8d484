"""Times of schedules as people write and read them: `15`, `03:30`, `sun 03:30`, `1 03:30`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import click

F = TypeVar("F", bound=Callable[..., object])

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_TIME = re.compile(r"(\d{1,2}):(\d{2})", re.ASCII)
_FORMS = {
    "hourly": "the minute, e.g. 15",
    "daily": "a time, e.g. 03:30",
    "weekly": 'day and time, e.g. "sun 03:30"',
    "monthly": 'day of the month (1 to 28) and time, e.g. "1 03:30"',
}


@dataclass(frozen=True)
class At:
    """When within its hour, day, week or month something is due; UTC. day: 0 where none is meant."""

    minute: int = 0
    hour: int = 0
    day: int = 0


def interval_options(function: F) -> F:
    """--hourly and so on as parameter `interval`, and --at as `at`, to be given to `parse`."""
    options = (
        click.option(
            "--hourly", "interval", flag_value="hourly", default=None, help="Every hour; --at takes the minute."
        ),
        click.option("--daily", "interval", flag_value="daily", help='Every day; --at "03:30".'),
        click.option("--weekly", "interval", flag_value="weekly", help='Every week; --at "sun 03:30".'),
        click.option("--monthly", "interval", flag_value="monthly", help='Every month; --at "1 03:30", days 1 to 28.'),
        click.option("--at", default="", help="When, UTC.  [default: minute 0, 00:00, mon 00:00 or 1 00:00]"),
    )
    for option in reversed(options):
        function = option(function)
    return function


def parse(interval: str, text: str) -> At:
    """Reads --at; empty: the interval's beginning. Raises click.UsageError, which says what is expected."""
    day, _, time = text.strip().lower().rpartition(" ")
    if interval == "hourly":
        minute = time.removeprefix(":") or "0"
        if not day and minute.isdecimal() and int(minute) <= 59:
            return At(int(minute))
    elif (at := _TIME.fullmatch(time or "0:00")) and int(at[1]) <= 23 and int(at[2]) <= 59:
        hour, minute_of = int(at[1]), int(at[2])
        if interval == "daily" and not day:
            return At(minute_of, hour)
        if interval == "weekly" and (day or "mon")[:3] in DAYS and (not text or day):
            return At(minute_of, hour, DAYS.index((day or "mon")[:3]) + 1)
        if interval == "monthly" and (day or "1").isdecimal() and 1 <= int(day or "1") <= 28 and (not text or day):
            return At(minute_of, hour, int(day or "1"))
    raise click.UsageError(f'--at "{text}": {interval} takes {_FORMS[interval]} (UTC)')


def words(interval: str, at: At) -> str:
    """`weekly, sun 03:30 UTC`."""
    time = f"{at.hour:02}:{at.minute:02}"
    when = {
        "hourly": f"minute {at.minute}",
        "daily": time,
        "weekly": f"{DAYS[(at.day - 1) % 7]} {time}",
        "monthly": f"day {at.day}, {time}",
    }
    return f"{interval}, {when.get(interval, time)} UTC"
