"""What people type is refused with one sentence, never with a traceback."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner
from ostler_control.cli.options import DURATION, SIZE


@click.command()
@click.option("--size", type=SIZE, default=0)
@click.option("--time", type=DURATION, default=0)
def command(size: int, time: int) -> None:
    click.echo(f"{size} {time}")


@pytest.mark.parametrize("size", ["9EiB", "8EiB", "99999999999999999999", "1" * 400 + ".5E", "1" * 5000])
def test_a_size_that_no_disk_has_is_refused(size: str) -> None:
    result = CliRunner().invoke(command, ["--size", size])
    assert (result.exit_code, type(result.exception)) == (2, SystemExit)
    assert "Invalid value for '--size'" in result.output


@pytest.mark.parametrize("time", ["99999w", "1" * 400, "1" * 5000 + "s"])
def test_a_time_that_nobody_waits_is_refused(time: str) -> None:
    result = CliRunner().invoke(command, ["--time", time])
    assert (result.exit_code, type(result.exception)) == (2, SystemExit)
    assert "Invalid value for '--time'" in result.output


def test_the_largest_are_accepted() -> None:
    result = CliRunner().invoke(command, ["--size", str(2**63 - 1), "--time", str(2**31 - 1)])
    assert result.output == f"{2**63 - 1} {2**31 - 1}\n"
