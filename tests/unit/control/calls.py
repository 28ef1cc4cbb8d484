"""Calling handlers without a server."""

from __future__ import annotations

from typing import cast

import grpc
from ostler_common.identity import Identity, Kind
from ostler_common.server import Call
from ostler_common.tls import Peer
from ostler_control.caller import Caller, Role
from ostler_control.models import Account, User, new_id


class _Context:
    def __init__(self, call: Call) -> None:
        self._ostler_call = call


def context(caller: Caller) -> grpc.ServicerContext:
    """A context that says this caller was let in."""
    peer = Peer(Identity(Kind.USER, caller.name), 1, "test")
    return cast("grpc.ServicerContext", _Context(Call("/test", peer, caller)))


def user(name: str, account: Account, role: Role = Role.MEMBER) -> Caller:
    """A user of this account, in the database, as a caller."""
    row = User.create(name=name, role=role.value, account=account)
    return Caller(role, row.id, name, account.id)


def admin() -> Caller:
    """An administrator who needs no row."""
    return Caller(Role.ADMIN, new_id(), "root", new_id())
