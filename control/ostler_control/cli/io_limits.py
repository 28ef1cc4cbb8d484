"""I/O limits on the command line."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import click
from ostler.types.v1 import volume_pb2 as types

from ostler_control.cli import text
from ostler_control.cli.options import DURATION, SIZE

F = TypeVar("F", bound=Callable[..., object])


def limit_options(function: F) -> F:
    """The options of a limit, as parameters `iops`, `bandwidth`, `burst_iops`, `burst_bandwidth`, `burst_time`."""
    for option in reversed(
        (
            click.option("--iops", type=click.IntRange(1), help="Reads and writes per second.  [default: no limit]"),
            click.option("--bandwidth", type=SIZE, help="Bytes per second, e.g. 50MiB.  [default: no limit]"),
            click.option("--burst-iops", type=click.IntRange(1), help="Reads and writes per second in bursts."),
            click.option("--burst-bandwidth", type=SIZE, help="Bytes per second in bursts."),
            click.option("--burst-time", type=DURATION, help="How long a burst may last.  [default: 1s]"),
        )
    ):
        function = option(function)
    return function


def message(
    iops: int | None,
    bandwidth: int | None,
    burst_iops: int | None,
    burst_bandwidth: int | None,
    burst_time: int | None,
) -> types.IoLimits | None:
    """The limits, or None when none of the options is given."""
    if not any((iops, bandwidth, burst_iops, burst_bandwidth, burst_time)):
        return None
    return types.IoLimits(
        iops=iops or 0,
        bytes_per_s=bandwidth or 0,
        burst_iops=burst_iops or 0,
        burst_bytes_per_s=burst_bandwidth or 0,
        burst_s=burst_time or 0,
    )


def limits_text(limits: types.IoLimits) -> str:
    """`500 per second (1000 in bursts of 10 s), 50 MiB per second`."""
    parts = []
    for limit, burst in (
        (f"{limits.iops}" if limits.iops else "", f"{limits.burst_iops}" if limits.burst_iops else ""),
        (
            text.size(limits.bytes_per_s) if limits.bytes_per_s else "",
            text.size(limits.burst_bytes_per_s) if limits.burst_bytes_per_s else "",
        ),
    ):
        if limit:
            parts.append(f"{limit} per second" + (f" ({burst} in bursts of {limits.burst_s} s)" if burst else ""))
    return text.joined(parts)
