"""Writes that may be repeated (AIP-155): the same request_id again answers with the same object."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

from google.protobuf.message import Message
from ostler_common.errors import InvalidArgumentError, NotFoundError, bad_field
from ostler_common.redaction import redacted
from peewee import IntegrityError

from ostler_control import database
from ostler_control.caller import Caller
from ostler_control.catalog.names import is_id
from ostler_control.models import BaseModel, Request, new_id, now

_Row = TypeVar("_Row", bound=BaseModel)
T = TypeVar("T")

KEPT_FOR = datetime.timedelta(days=7)


def once(
    model: type[_Row],
    caller: Caller,
    request: Message,
    make: Callable[[], _Row],
    reserving: Callable[[str], AbstractContextManager[object]] = nullcontext,
) -> _Row:
    """What `make` makes, in one transaction with remembering the request's id; or what it made the first time.

    Of two calls with the same id at once the second waits for the first and gets the same object; when `make` raises,
    nothing is remembered. A request without an id is carried out every time. `make` must do nothing but change the
    database. Secrets in a request do not count when two are compared: no digest of them is kept. Raises
    InvalidArgumentError (REQUEST_ID_REUSED) when the id was used for another request, and NotFoundError when what was
    made then is gone.

    reserving: inside, what `make` makes gets this id, which then need not be written afterwards.
    """
    return repeated_after_conflict(lambda: _once(model, caller, request, make, reserving))


def repeated_after_conflict(call: Callable[[], T]) -> T:
    """What a transaction makes. When somebody else has inserted what may be there once, such as a name, between its
    checks and its own insert, it runs once more: the checks see it now, and say what it is."""
    try:
        return call()
    except IntegrityError:
        return call()


def _once(
    model: type[_Row],
    caller: Caller,
    request: Message,
    make: Callable[[], _Row],
    reserving: Callable[[str], AbstractContextManager[object]],
) -> _Row:
    request_id: str = getattr(request, "request_id")  # noqa: B009 - Message declares no fields
    if not request_id:
        with database.transaction():
            return make()
    if not is_id(request_id):
        raise bad_field("request_id", "must be a UUID", reason="INVALID_REQUEST_ID")
    method, digest = request.DESCRIPTOR.full_name, _digest(request)
    with database.transaction():
        row_id = new_id()
        entry = Request(
            user=caller.actor, request_id=request_id.lower(), method=method, digest=digest, resource_id=row_id
        )
        if not entry.insert_unless_taken():
            return _earlier(model, caller, request_id.lower(), method, digest)
        with reserving(row_id):
            row = make()
        if row.id != row_id:
            Request.update(resource_id=row.id).where(Request.id == entry.id).execute()
        return row


def made_earlier(model: type[_Row], caller: Caller, request: Message) -> _Row | None:
    """What `once` made for an earlier request with this id; None when there was none. For a handler that asks a host
    before it makes anything: what was made may have changed the host's answer. Raises as `once` does.
    """
    request_id: str = getattr(request, "request_id").lower()  # noqa: B009 - Message declares no fields
    mine = (Request.user == caller.actor) & (Request.request_id == request_id)
    if not request_id or not Request.select().where(mine).exists():
        return None
    return _earlier(model, caller, request_id, request.DESCRIPTOR.full_name, _digest(request))


def _digest(request: Message) -> str:
    return hashlib.sha256(redacted(request).SerializeToString(deterministic=True)).hexdigest()


def _earlier(model: type[_Row], caller: Caller, request_id: str, method: str, digest: str) -> _Row:
    entry = Request.get((Request.user == caller.actor) & (Request.request_id == request_id))
    if (entry.method, entry.digest) != (method, digest):
        raise InvalidArgumentError(
            "this request_id was used for another request; choose a new one for each new request",
            "REQUEST_ID_REUSED",
            {"request_id": request_id},
        )
    row: _Row | None = model.get_or_none(model.id == entry.resource_id)
    if row is None:
        raise NotFoundError(
            "this request was executed before, and its object has since been deleted",
            "REQUEST_RESULT_GONE",
            {"request_id": request_id, "id": entry.resource_id},
        )
    return row


def prune() -> int:
    """Forgets requests older than `KEPT_FOR`; returns how many."""
    count: int = Request.delete().where(Request.create_time < now() - KEPT_FOR).execute()
    return count
