"""What every command gets: the profile, the services, and ways to print what they answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import click

from ostler_control.cli.profile import Profile, default_path, load

if TYPE_CHECKING:
    from ostler_control.cli.client import Client

PAGE_SIZE = 500


class App:
    """One run of `ostler`. Nothing is read and nobody is called until a command asks for it."""

    def __init__(self, profile: Path | None) -> None:
        self.profile_path = profile or default_path()

    @cached_property
    def profile(self) -> Profile:
        return load(self.profile_path)

    @cached_property
    def client(self) -> Client:
        profile = self.profile  # read first: its absence is told without the time that importing grpc takes
        from ostler_control.cli.client import Client

        return Client(profile)


pass_app = click.make_pass_decorator(App)


class _Page(Protocol):
    next_page_token: str


class _Paged(Protocol):
    page_size: int
    page_token: str


_Request = TypeVar("_Request", bound=_Paged)
_Response = TypeVar("_Response", bound=_Page)
_Row = TypeVar("_Row")


def pages(
    call: Callable[[_Request], _Response],
    request: _Request,
    rows: Callable[[_Response], Iterable[_Row]],
    limit: int | None = None,
) -> Iterator[_Row]:
    """All rows of a list call, page after page, at most `limit`. `rows` takes them out of an answer."""
    left = limit
    while left is None or left > 0:
        request.page_size = PAGE_SIZE if left is None else min(left, PAGE_SIZE)
        answer = call(request)
        found = list(rows(answer))[:left]
        yield from found
        if left is not None:
            left -= len(found)
        if not answer.next_page_token:
            return
        request.page_token = answer.next_page_token
