"""Options that many commands share, one decorator each."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import update_wrapper
from typing import Any, TypeVar, cast

import click
from ostler_common import units

from ostler_control.cli.output import FORMATS, Listing

# Any: a command of whatever parameters.
F = TypeVar("F", bound=Callable[..., Any])
# Any: options as click parsed them, by name.
Options = dict[str, Any]


# What the wire can carry: sizes in 64 bits, seconds in 32.
MAX_SIZE_BYTES = 2**63 - 1
MAX_DURATION_S = 2**31 - 1


class Size(click.ParamType[int]):
    """`10GiB`, `512M` or a number of bytes."""

    name = "size"

    def convert(self, value: int | str, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            size_bytes = units.parse_size(value)
        except (ValueError, OverflowError) as e:
            self.fail(str(e), param, ctx)
        if size_bytes > MAX_SIZE_BYTES:
            self.fail(f"{value!r} is too large (it must be less than 8 EiB)", param, ctx)
        return size_bytes


class Duration(click.ParamType[int]):
    """`90s`, `5m`, `2h`, or a number of seconds."""

    name = "duration"

    def convert(self, value: int | str, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            seconds = int(units.parse_duration(value))
        except (ValueError, OverflowError) as e:
            self.fail(str(e), param, ctx)
        if seconds > MAX_DURATION_S:
            self.fail(f"{value!r} is too long (at most {MAX_DURATION_S} seconds)", param, ctx)
        return seconds


SIZE = Size()
DURATION = Duration()


def output_option(function: F) -> F:
    """-o, as parameter `output`."""
    return click.option(
        "-o", "--output", type=click.Choice(FORMATS), default="table", show_default=True, help="Output format."
    )(function)


def collected(function: F, parameter: str, collect: Callable[[Options], object]) -> F:
    """The command with several options passed as one parameter. collect: takes its options out of all of them."""

    def command(*args: object, **options: object) -> object:
        options[parameter] = collect(options)
        return function(*args, **options)

    return cast(F, update_wrapper(command, function))


def list_options(function: F) -> F:
    """-o, --columns and --sort, together as parameter `listing`."""

    def collect(options: Options) -> Listing:
        columns = [title for title in (options.pop("columns") or "").split(",") if title]
        return Listing(options.pop("output"), columns, options.pop("sort"))

    wrapped = collected(function, "listing", collect)
    wrapped = click.option(
        "--sort", default="", metavar="COLUMN", help="Sort by COLUMN; -COLUMN for descending order."
    )(wrapped)
    wrapped = click.option("--columns", metavar="COLUMN,...", help="Columns to print, in this order.")(wrapped)
    return output_option(wrapped)


def limit_option(default: int | None = None) -> Callable[[F], F]:
    """--limit, as parameter `limit`."""
    return click.option(
        "--limit",
        type=click.IntRange(1),
        default=default,
        show_default=default is not None,
        help="Maximum number of rows.",
    )


def request_id_option(function: F) -> F:
    """--request-id, as parameter `request_id`: a fresh UUID unless given."""
    return click.option(
        "--request-id",
        default=lambda: str(uuid.uuid4()),
        metavar="UUID",
        help="Makes repeated calls idempotent.  [default: a new UUID]",
    )(function)


def dry_run_option(function: F) -> F:
    """--dry-run, as parameter `dry_run`."""
    return click.option("--dry-run", is_flag=True, help="Only check; change nothing.")(function)


@dataclass(frozen=True)
class CallOptions:
    """How a long-running call is made and reported."""

    wait: bool
    request_id: str
    output: str
    dry_run: bool = False


def operation_options(*, dry_run: bool = True) -> Callable[[F], F]:
    """--wait, --request-id, -o and, where the call has it, --dry-run, together as parameter `call`."""

    def decorate(function: F) -> F:
        def collect(options: Options) -> CallOptions:
            names = ("wait", "request_id", "output", "dry_run")
            return CallOptions(**{name: options.pop(name) for name in names if name in options})

        wrapped = collected(function, "call", collect)
        wrapped = click.option(
            "--wait/--no-wait", default=True, help="Wait for the operation (default), or print its id."
        )(request_id_option(output_option(wrapped)))
        return dry_run_option(wrapped) if dry_run else wrapped

    return decorate


def yes_option(function: F) -> F:
    """--yes, as parameter `yes`: see `confirm`."""
    return click.option("-y", "--yes", is_flag=True, help="Do not ask for confirmation.")(function)


def confirm_name(question: str, name: str) -> None:
    """Asks for a name to be typed before something is overwritten. Off a terminal that takes --yes, see `confirm`."""
    if not sys.stdin.isatty():
        raise click.UsageError("this overwrites data and standard input is no terminal to confirm it: add --yes")
    if click.prompt(question, err=True) != name:
        raise click.Abort


def confirm(question: str, yes: bool) -> None:
    """Asks before something is destroyed. Off a terminal nobody can answer, so there --yes is needed."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("this deletes data and standard input is no terminal to confirm it: add --yes")
    if not click.confirm(question, err=True):
        raise click.Abort
