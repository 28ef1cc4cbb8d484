"""Files that callers send: a header, then data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ostler_common.errors import bad_field


def first_header(requests: Iterator[Any]) -> Any:
    """The header that the first message must have. Raises InvalidArgumentError."""
    first = next(requests, None)
    if first is None or not first.HasField("header"):
        raise bad_field("header", "must be in the first message", "REQUIRED")
    return first.header


def data_of(requests: Iterator[Any]) -> Iterator[bytes]:
    """The data that all further messages must have. Raises InvalidArgumentError."""
    for request in requests:
        if not request.HasField("data"):
            raise bad_field("data", "must be in every message after the first", "REQUIRED")
        yield request.data
