"""Lists, page after page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

PAGE_SIZE = 500


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
