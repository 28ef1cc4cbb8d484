"""google.longrunning.Operations."""

from __future__ import annotations

import re

import grpc
from google.longrunning import operations_pb2 as pb
from google.longrunning import operations_pb2_grpc
from google.protobuf.empty_pb2 import Empty
from ostler.control.v1 import operation_pb2
from ostler_common.errors import bad_field
from peewee import Expression

from ostler_control.api.caller import caller_of
from ostler_control.api.convert import operations as convert_operations
from ostler_control.api.convert.enums import from_enum
from ostler_control.api.paging import page
from ostler_control.api.resolve import resolve, visible
from ostler_control.caller import Caller
from ostler_control.database import session
from ostler_control.models import Operation
from ostler_control.operations import Engine

_TERM = re.compile(r"\s*(resource|state)\s*=\s*\"?([A-Za-z0-9_-]+)\"?\s*")
_MAX_WAIT_S = 3600.0


class OperationService(operations_pb2_grpc.OperationsServicer):  # type: ignore[misc]  # googleapis has no types
    """Handlers open sessions for moments only: a wait may last."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def ListOperations(
        self, request: pb.ListOperationsRequest, context: grpc.ServicerContext
    ) -> pb.ListOperationsResponse:
        caller = caller_of(context)
        with session():
            query = visible(Operation, caller).where(*_conditions(request.filter))
            found = page(query, Operation, request, scope=caller.actor, newest_first=True)
            operations = convert_operations.operations(found.rows, caller)
        return pb.ListOperationsResponse(operations=operations, next_page_token=found.next_page_token)

    def GetOperation(self, request: pb.GetOperationRequest, context: grpc.ServicerContext) -> pb.Operation:
        caller = caller_of(context)
        with session():
            return convert_operations.operation(_find(request.name, caller), caller)

    def WaitOperation(self, request: pb.WaitOperationRequest, context: grpc.ServicerContext) -> pb.Operation:
        caller = caller_of(context)
        timeout_s = request.timeout.ToNanoseconds() / 1e9 if request.HasField("timeout") else _MAX_WAIT_S
        left_s = context.time_remaining()
        if left_s is not None:
            timeout_s = min(timeout_s, max(left_s - 0.5, 0.0))  # an answer in time rather than none

        def find() -> Operation:
            with session():
                return _find(request.name, caller)

        operation = self._engine.wait(_bare(request.name).lower(), timeout_s, context.is_active, find)
        with session():
            return convert_operations.operation(operation, caller)

    def CancelOperation(self, request: pb.CancelOperationRequest, context: grpc.ServicerContext) -> Empty:
        caller = caller_of(context)
        with session():
            self._engine.cancel(_find(request.name, caller).id, caller.actor)
        return Empty()

    def DeleteOperation(self, request: pb.DeleteOperationRequest, context: grpc.ServicerContext) -> Empty:
        caller = caller_of(context)
        with session():
            self._engine.forget(_find(request.name, caller).id, caller.actor)
        return Empty()


def _find(name: str, caller: Caller) -> Operation:
    """By id, with or without "operations/" in front."""
    return resolve(Operation, _bare(name), "name", caller=caller)


def _bare(name: str) -> str:
    return name.removeprefix(convert_operations.OPERATION_PREFIX)


def _conditions(text: str) -> list[Expression]:
    """What a filter asks for; InvalidArgumentError for one that is not `resource=ID` and `state=STATE` with AND."""
    conditions: list[Expression] = [Operation.id.is_null(False)]
    for term in text.strip().split(" AND ") if text.strip() else []:
        match = _TERM.fullmatch(term.strip())
        if match is None:
            raise bad_field("filter", 'must be resource=ID, state=STATE, or both joined by " AND "', "INVALID_FILTER")
        key, value = match.groups()
        if key == "resource":
            conditions.append(Operation.resource_id == value)
            continue
        states = operation_pb2.OperationMetadata.State
        number = states.DESCRIPTOR.values_by_name.get(value)
        word = from_enum(states, "", number.number if number else -1, "filter")
        conditions.append(Operation.state == word)
    return conditions
