"""Handlers run with a database connection."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message
from ostler_common.errors import NotFoundError

from ostler_control import database
from ostler_control.api.caller import caller_of
from ostler_control.api.start_operation import repeated

# Any: a handler of whatever kind of call.
_AnyHandler = Callable[..., Any]
_Handler = TypeVar("_Handler", bound=_AnyHandler)
_Servicer = TypeVar("_Servicer", bound=type)


def with_sessions(servicer: _Servicer) -> _Servicer:
    """Class decorator: every handler that the class itself defines runs within `database.session()`.

    Handlers that are generators, and those marked `lasting`, are left alone: a stream may last for hours, and opens
    sessions for moments itself.
    """
    for name, handler in list(vars(servicer).items()):
        if inspect.isfunction(handler) and name[0].isupper() and not _lasts(handler):
            setattr(servicer, name, _in_session(handler))
    return servicer


def lasting(handler: _Handler) -> _Handler:
    """Marks a handler that reads a stream or asks a host."""
    handler._lasts = True  # type: ignore[attr-defined]
    return handler


def _lasts(handler: _AnyHandler) -> bool:
    return inspect.isgeneratorfunction(handler) or getattr(handler, "_lasts", False)


def _in_session(handler: _AnyHandler) -> _AnyHandler:
    @functools.wraps(handler)
    def wrapped(self: object, request: object, context: grpc.ServicerContext) -> object:
        with database.session():
            try:
                return handler(self, request, context)
            except NotFoundError:
                # The repeat of a request whose operation has deleted what the request names.
                earlier = repeated(caller_of(context), request) if isinstance(request, Message) else None
                if earlier is None:
                    raise
                return earlier

    return wrapped
