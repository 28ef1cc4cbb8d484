"""Lists in pages: keyset paging on (create_time, id), so that rows which come and go move no page's edge."""

from __future__ import annotations

import base64
import binascii
import datetime
import hashlib
import json
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from google.protobuf.message import Message
from ostler_common.errors import bad_field
from peewee import ModelSelect

from ostler_control.models import BaseModel

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 500

_Row = TypeVar("_Row")
_Model = TypeVar("_Model", bound=BaseModel)


class ListRequest(Protocol):
    """What every list request has."""

    page_size: int
    page_token: str


@dataclass(frozen=True)
class Page(Generic[_Row]):
    """Some rows, and the token of the next page ("" at the end)."""

    rows: list[_Row]
    next_page_token: str


def page_size_of(request: ListRequest) -> int:
    """Rows wanted; raises InvalidArgumentError for a negative number."""
    if request.page_size < 0:
        raise bad_field("page_size", "must not be negative", reason="INVALID_PAGE_SIZE")
    return min(request.page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)


def page(
    query: ModelSelect[_Model],
    model: type[_Model],
    request: ListRequest,
    *,
    scope: str = "",
    newest_first: bool = False,
) -> Page[_Model]:
    """The page of `query` (a select over `model`) that the request asks for.

    A token is good only for the request that it was given for: same filters, same `scope` (whatever else the query
    depends on: the caller's account). Raises InvalidArgumentError for another token.
    """
    size = page_size_of(request)
    digest = _digest(request, scope)
    if request.page_token:
        time, row_id = _decode(request.page_token, digest)
        # The first condition says nothing new, but lets the database begin there in the index instead of at its start.
        at = model.create_time == time
        if newest_first:
            rest = model.create_time <= time, (model.create_time < time) | (at & (model.id < row_id))
        else:
            rest = model.create_time >= time, (model.create_time > time) | (at & (model.id > row_id))
        query = query.where(*rest)
    order = (model.create_time.desc(), model.id.desc()) if newest_first else (model.create_time.asc(), model.id.asc())
    rows = list(query.order_by(*order).limit(size + 1))
    if len(rows) <= size:
        return Page(rows, "")
    last = rows[size - 1]
    return Page(rows[:size], _encode(digest, last.create_time, last.id))


def list_page(items: list[_Row], request: ListRequest) -> Page[_Row]:
    """The same for a list that is not in the database and does not change; the token is a position."""
    size = page_size_of(request)
    digest = _digest(request, "")
    begin = _position(request.page_token, digest) if request.page_token else 0
    end = begin + size
    token = _encode(digest, datetime.datetime.min, str(end)) if end < len(items) else ""
    return Page(items[begin:end], token)


def _digest(request: ListRequest, scope: str) -> str:
    assert isinstance(request, Message)
    query = type(request)()
    query.CopyFrom(request)
    for field in ("page_size", "page_token"):
        query.ClearField(field)
    text = query.SerializeToString(deterministic=True)
    return hashlib.sha256(query.DESCRIPTOR.full_name.encode() + b"\0" + scope.encode() + b"\0" + text).hexdigest()[:16]


def _encode(digest: str, time: datetime.datetime, row_id: str) -> str:
    return base64.urlsafe_b64encode(json.dumps([digest, time.isoformat(), row_id]).encode()).decode().rstrip("=")


def _position(token: str, digest: str) -> int:
    position = _decode(token, digest)[1]
    if not (position.isascii() and position.isdecimal()):
        raise bad_field(
            "page_token", "is not a page token of this server; start from the first page", "INVALID_PAGE_TOKEN"
        )
    return int(position)


def _decode(token: str, digest: str) -> tuple[datetime.datetime, str]:
    try:
        given, time, row_id = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        at = datetime.datetime.fromisoformat(time)
    except (ValueError, TypeError, RecursionError, binascii.Error):
        raise bad_field(
            "page_token", "is not a page token of this server; start from the first page", "INVALID_PAGE_TOKEN"
        ) from None
    if given != digest or not isinstance(row_id, str) or not row_id.isprintable() or at.tzinfo:
        raise bad_field(
            "page_token",
            "belongs to another request; keep the filters or start from the first page",
            "INVALID_PAGE_TOKEN",
        )
    return at, row_id
