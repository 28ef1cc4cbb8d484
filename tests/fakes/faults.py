"""What goes wrong with calls of an agent in memory, and how it is told."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
from grpc_status import rpc_status
from ostler_common.errors import OstlerError, to_status


@dataclass
class Fault:
    """What goes wrong with the next calls of a method.

    error: the job fails with it; before: without having done anything, else after its work. cut: the stream breaks once
    the job has begun, and the job goes on. hold: the job waits until it is released or cancelled. forget_key: a volume
    is made plain that should be encrypted. only: the requests that it befalls.
    """

    error: OstlerError | None = None
    before: bool = True
    cut: bool = False
    hold: threading.Event | None = None
    forget_key: bool = False
    only: Callable[[Any], bool] = lambda request: True
    times: int = 1
    reached: threading.Event = field(default_factory=threading.Event)


class Errors:
    """What the real server's interceptor does with an error."""

    def __init__(self, context: grpc.ServicerContext) -> None:
        self._context = context

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OstlerError):
            self._context.abort_with_status(rpc_status.to_status(to_status(error)))
