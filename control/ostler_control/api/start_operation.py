"""Starts long-running operations: checks, records once per request_id, launches, answers."""

from __future__ import annotations

from collections.abc import Callable

from google.longrunning import operations_pb2
from google.protobuf.message import Message
from ostler_common.errors import NotFoundError, PermissionDeniedError

from ostler_control.api.convert import operations as convert_operations
from ostler_control.api.redact import redact_errors_for
from ostler_control.api.requests import made_earlier, once, repeated_after_conflict
from ostler_control.api.resolve import resolve
from ostler_control.caller import Caller
from ostler_control.database import transaction
from ostler_control.models import Account, Operation
from ostler_control.operations import launch
from ostler_control.operations.records import reserving


def start_operation(caller: Caller, request: Message, make: Callable[[], Operation]) -> operations_pb2.Operation:
    """Runs `make` in one transaction and launches the operation; with validate_only rolls everything back."""
    with redact_errors_for(caller, request):
        if getattr(request, "validate_only", False):
            return convert_operations.validated(repeated_after_conflict(lambda: _tried(make)), caller)
        operation = once(Operation, caller, request, make, reserving)
        launch(operation)
        return convert_operations.operation(operation, caller)


def started_earlier(caller: Caller, request: Message) -> operations_pb2.Operation | None:
    """The operation that an earlier request with this id started; None when there was none. Raises as `once` does."""
    with redact_errors_for(caller, request):
        operation = made_earlier(Operation, caller, request)
        return None if operation is None else convert_operations.operation(operation, caller)


def repeated(caller: Caller, request: Message) -> operations_pb2.Operation | None:
    """The operation that the same request started before; None when it is new, or started none."""
    if "request_id" not in request.DESCRIPTOR.fields_by_name:
        return None
    try:
        return started_earlier(caller, request)
    except NotFoundError:
        return None


class _TakeBack(Exception):
    pass


def _tried(make: Callable[[], Operation]) -> Operation:
    made: list[Operation] = []
    try:
        with transaction():
            made.append(make())
            raise _TakeBack
    except _TakeBack:
        return made[0]


def account_for(caller: Caller, ref: str) -> Account:
    """The account that a new object is for: the caller's, unless an admin names another."""
    if not ref:
        return Account.get_by_id(caller.account_id)
    if caller.is_admin:
        return resolve(Account, ref, "account")
    own = Account.get_by_id(caller.account_id)
    if ref not in (own.id, own.name):
        raise PermissionDeniedError("only admins may name another account", "OTHER_ACCOUNT")
    return own


def admins_only(caller: Caller, **fields: str) -> None:
    """Raises PermissionDeniedError when a member has set one of these fields."""
    chosen = [name for name, value in fields.items() if value]
    if chosen and not caller.is_admin:
        raise PermissionDeniedError(f"only admins may set {' and '.join(chosen)}; leave it empty", "ADMINS_ONLY_FIELD")
