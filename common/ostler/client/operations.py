"""Operations: their names and metadata, and waiting for their end."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from google.longrunning import operations_pb2 as lro
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from ostler_common.errors import DeadlineExceededError, from_status

from ostler.client.reaching import reached
from ostler.control.v1.operation_pb2 import OperationMetadata

if TYPE_CHECKING:
    from google.longrunning.operations_pb2_grpc import OperationsStub

M = TypeVar("M", bound=Message)

POLL_S = 0.25
# How long one call waits where nobody wants to hear of progress: a call that ends before the operation does costs the
# control plane as much as the one that brings the end.
LONG_POLL_S = 10.0
# How long `wait` waits unless its caller says otherwise.
WAIT_S = 3600.0


def bare_id(name: str) -> str:
    """The operation's id, as commands take and print it."""
    return name.removeprefix("operations/")


def metadata_of(operation: lro.Operation) -> OperationMetadata:
    """What Ostler says of an operation; empty where it says nothing."""
    metadata = OperationMetadata()
    operation.metadata.Unpack(metadata)
    return metadata


def title_of(operation: lro.Operation) -> str:
    """`vm.create web-1`."""
    metadata = metadata_of(operation)
    return f"{metadata.verb} {metadata.resource_name or metadata.resource_id}".strip() or bare_id(operation.name)


def raise_for_error(operation: lro.Operation) -> None:
    """Raises the OstlerError that a done operation ended with, if it did."""
    if operation.HasField("error"):
        error = from_status(operation.error)
        error.add_note(f"operation: {bare_id(operation.name)}")
        raise error


def answer_of(operation: lro.Operation, answer: type[M]) -> M:
    """What an operation that has succeeded answers with. Raises TypeError when that is of another type."""
    found = answer()
    if not operation.response.Unpack(found):
        raise TypeError(f"{title_of(operation)} answers with {operation.response.TypeName()}, not {answer.__name__}")
    return found


def wait(
    stub: OperationsStub,
    operation: lro.Operation,
    timeout_s: float = WAIT_S,
    on_progress: Callable[[OperationMetadata], None] | None = None,
) -> lro.Operation:
    """The operation when it is done, failed or not; see `Client.wait`."""
    end = time.monotonic() + timeout_s
    poll_s = POLL_S if on_progress is not None else LONG_POLL_S
    while not operation.done:
        if on_progress is not None:
            on_progress(metadata_of(operation))
        left_s = end - time.monotonic()
        if left_s < 0:
            raise DeadlineExceededError(
                f"{title_of(operation)} is not done after {timeout_s:g} s; it continues",
                "OPERATION_UNFINISHED",
                {"operation": bare_id(operation.name)},
            )
        operation = next_state(stub, operation.name, poll_s=min(poll_s, max(left_s, POLL_S)))
    return operation


def next_state(
    stub: OperationsStub, name: str, on_silence: Callable[[], None] | None = None, *, poll_s: float | None = None
) -> lro.Operation:
    """The operation a moment later (poll_s: at most so much, a quarter of a second by default), or as soon as it is
    done. on_silence: see `reached`."""
    wait_s = POLL_S if poll_s is None else poll_s
    timeout = Duration()
    timeout.FromNanoseconds(int(wait_s * 1e9))
    request = lro.WaitOperationRequest(name=name, timeout=timeout)
    asked = time.monotonic()
    operation: lro.Operation = reached(lambda: stub.WaitOperation(request, timeout=wait_s + 10), on_silence)
    if not operation.done:  # a server that answers at once must not be asked without a pause
        time.sleep(max(0.0, POLL_S - (time.monotonic() - asked)))
    return operation
