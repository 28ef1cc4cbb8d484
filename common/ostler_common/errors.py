"""What can go wrong, as one family of exceptions and one table to and from gRPC.

Domain code raises an `OstlerError`; the servers' interceptor turns it into `google.rpc.Status` (code, message,
ErrorInfo, BadRequest); clients turn that back into the same exception with `from_rpc_error`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import grpc
    from google.rpc import status_pb2

DOMAIN = "ostler"

# An error travels in HTTP/2 headers, whose size is limited; past that the client sees only a broken stream. Characters.
_MAX_MESSAGE = 4000
_MAX_DETAIL = 1000
_MAX_DETAILS = 10


@dataclass(frozen=True)
class Violation:
    """One bad field of a request: its path ("spec.disks[0].slot") and what is wrong with it."""

    field: str
    description: str


@dataclass(eq=False)
class OstlerError(Exception):
    """Something went wrong that the caller should hear of.

    message: what happened and what can be done about it, for people; never holds a secret.
    reason: the machine's word for it, UPPER_SNAKE_CASE; tests and scripts rely on it.
    metadata: short facts beside the reason (ids, names, counts); "retry_after_s" becomes a RetryInfo.
    violations: the bad fields of the request, for bad input.
    """

    message: str
    reason: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    violations: Sequence[Violation] = ()

    code = "UNKNOWN"  # name of a grpc.StatusCode
    retryable = False  # whether the same call may succeed later with nothing changed by the caller

    def __post_init__(self) -> None:
        super().__init__(self.message)

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.message, self.reason, dict(self.metadata), tuple(self.violations))


class InvalidArgumentError(OstlerError):
    """The request is wrong whatever the state of things."""

    code = "INVALID_ARGUMENT"


class NotFoundError(OstlerError):
    """What the request names is not there."""

    code = "NOT_FOUND"


class AlreadyExistsError(OstlerError):
    """What the request would make is there already."""

    code = "ALREADY_EXISTS"


class FailedPreconditionError(OstlerError):
    """The request is right but not in the present state of things."""

    code = "FAILED_PRECONDITION"


class ResourceExhaustedError(OstlerError):
    """There is not enough of something: space, capacity, places."""

    code = "RESOURCE_EXHAUSTED"


class AbortedError(OstlerError):
    """Somebody else was faster; trying again from the start may help."""

    code = "ABORTED"
    retryable = True


class UnavailableError(OstlerError):
    """The other side cannot be reached, or not now."""

    code = "UNAVAILABLE"
    retryable = True


class DeadlineExceededError(OstlerError):
    """It took too long."""

    code = "DEADLINE_EXCEEDED"
    retryable = True


class PermissionDeniedError(OstlerError):
    """The caller is known and may not do this."""

    code = "PERMISSION_DENIED"


class UnauthenticatedError(OstlerError):
    """The caller is not known."""

    code = "UNAUTHENTICATED"


class UnimplementedError(OstlerError):
    """This build, host or hypervisor cannot do it."""

    code = "UNIMPLEMENTED"


class CancelledError(OstlerError):
    """It was cancelled, and what had been begun is undone."""

    code = "CANCELLED"


class InternalError(OstlerError):
    """A bug, or a tool that behaved as it never should."""

    code = "INTERNAL"


_BY_CODE: dict[str, type[OstlerError]] = {
    cls.code: cls
    for cls in (
        InvalidArgumentError,
        NotFoundError,
        AlreadyExistsError,
        FailedPreconditionError,
        ResourceExhaustedError,
        AbortedError,
        UnavailableError,
        DeadlineExceededError,
        PermissionDeniedError,
        UnauthenticatedError,
        UnimplementedError,
        CancelledError,
        InternalError,
    )
}


def bad_field(path: str, description: str, reason: str = "INVALID_FIELD") -> InvalidArgumentError:
    """The error for one bad field of a request."""
    return InvalidArgumentError(f"{path}: {description}", reason, {"field": path}, (Violation(path, description),))


def shortened(text: str, limit: int) -> str:
    """The text, cut to `limit` characters with an ellipsis when it is longer."""
    return text if len(text) <= limit else text[: limit - 1] + "\N{HORIZONTAL ELLIPSIS}"


def to_status(error: OstlerError) -> status_pb2.Status:
    """The wire form: google.rpc.Status with ErrorInfo, BadRequest for bad input, and RetryInfo for a known delay."""
    import grpc
    from google.protobuf import any_pb2
    from google.rpc import error_details_pb2, status_pb2

    metadata = {key: shortened(value, _MAX_DETAIL) for key, value in list(error.metadata.items())[:_MAX_DETAILS]}
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)
    details = [any_pb2.Any()]
    details[0].Pack(info)
    if error.violations:
        violations = [
            error_details_pb2.BadRequest.FieldViolation(
                field=shortened(v.field, _MAX_DETAIL), description=shortened(v.description, _MAX_DETAIL)
            )
            for v in error.violations[:_MAX_DETAILS]
        ]
        details.append(any_pb2.Any())
        details[-1].Pack(error_details_pb2.BadRequest(field_violations=violations))
    if "retry_after_s" in error.metadata:
        details.append(any_pb2.Any())
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromSeconds(int(error.metadata["retry_after_s"]))
        details[-1].Pack(retry)
    code: int = grpc.StatusCode[error.code].value[0]
    return status_pb2.Status(code=code, message=shortened(error.message, _MAX_MESSAGE), details=details)


def from_status(status: status_pb2.Status) -> OstlerError:
    """The exception that `to_status` made this of; one of another origin keeps its code, with reason RPC."""
    import grpc
    from google.rpc import error_details_pb2

    name = next((code.name for code in grpc.StatusCode if code.value[0] == status.code), "UNKNOWN")
    info, bad = error_details_pb2.ErrorInfo(reason="RPC"), error_details_pb2.BadRequest()
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(bad)
    violations = tuple(Violation(v.field, v.description) for v in bad.field_violations)
    return _BY_CODE.get(name, InternalError)(status.message, info.reason, dict(info.metadata), violations)


def from_rpc_error(error: grpc.RpcError) -> OstlerError:
    """The server's OstlerError out of a failed call; a failed connection becomes `UnavailableError` (reason RPC)."""
    from google.rpc import status_pb2
    from grpc_status import rpc_status

    status = rpc_status.from_call(error)
    if status is None:
        code: int = error.code().value[0]
        status = status_pb2.Status(code=code, message=error.details() or error.code().name)
    return from_status(status)
