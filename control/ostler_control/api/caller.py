"""Who calls, as handlers learn it."""

from __future__ import annotations

import grpc
from ostler_common.server import current_call

from ostler_control.caller import Caller


def caller_of(context: grpc.ServicerContext) -> Caller:
    """The party whom the server's authorization found behind this call."""
    authorized = current_call(context).authorized
    assert isinstance(authorized, Caller), "this server's authorization says nothing of its callers"
    return authorized


def serial_of(context: grpc.ServicerContext) -> int:
    """The serial of the caller's certificate."""
    serial = current_call(context).peer.serial
    assert serial is not None, "authorization lets nobody in without a certificate"
    return serial
