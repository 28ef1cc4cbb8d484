"""The option --detail KEY=VALUE."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import click

F = TypeVar("F", bound=Callable[..., object])


def _details(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> dict[str, str]:
    """KEY=VALUE."""
    details = {}
    for value in values:
        key, equals, rest = value.partition("=")
        if not key or not equals:
            raise click.BadParameter("must be KEY=VALUE", ctx, param)
        details[key] = rest
    return details


def detail_option(text: str) -> Callable[[F], F]:
    """The option --detail, which may be given several times."""
    return click.option("--detail", "details", multiple=True, metavar="KEY=VALUE", callback=_details, help=text)
