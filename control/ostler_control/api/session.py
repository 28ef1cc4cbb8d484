"""Handlers run with a database connection."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import grpc

from ostler_control import database

_Servicer = TypeVar("_Servicer", bound=type)


def with_sessions(servicer: _Servicer) -> _Servicer:
    """Class decorator: every handler that the class itself defines runs within `database.session()`.

    Handlers that are generators are left alone: a stream may last for hours, and opens sessions for moments itself.
    """
    for name, handler in list(vars(servicer).items()):
        if inspect.isfunction(handler) and name[0].isupper() and not inspect.isgeneratorfunction(handler):
            setattr(servicer, name, _in_session(handler))
    return servicer


def _in_session(handler: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(handler)
    def wrapped(self: object, request: object, context: grpc.ServicerContext) -> object:
        with database.session():
            return handler(self, request, context)

    return wrapped
