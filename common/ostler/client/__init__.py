"""A client of the control plane for Python programs; the command line `ostler` is built on it.

    from ostler.client import connect
    from ostler.control.v1.vm_pb2 import StartVmRequest, Vm

    with connect() as client:
        vm = client.wait(client.vms.StartVm(StartVmRequest(vm="web-1")), Vm)
        print(vm.host_name)

Calls and operations that fail raise an `OstlerError` (`NotFoundError`, `ResourceExhaustedError`, ...) with `reason`, a
stable word that the reference of reason codes explains. Importing this package loads neither gRPC nor
protobuf: `connect` does.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ostler_common.errors import (
    AbortedError,
    AlreadyExistsError,
    CancelledError,
    DeadlineExceededError,
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    OstlerError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnauthenticatedError,
    UnavailableError,
    UnimplementedError,
    Violation,
)

from ostler.client.paging import pages
from ostler.client.profile import Profile, ProfileError, find, load

if TYPE_CHECKING:
    from ostler.client.client import Client

__all__ = [
    "AbortedError",
    "AlreadyExistsError",
    "CancelledError",
    "DeadlineExceededError",
    "FailedPreconditionError",
    "InternalError",
    "InvalidArgumentError",
    "NotFoundError",
    "OstlerError",
    "PermissionDeniedError",
    "Profile",
    "ProfileError",
    "ResourceExhaustedError",
    "UnauthenticatedError",
    "UnavailableError",
    "UnimplementedError",
    "Violation",
    "connect",
    "pages",
]


def connect(profile: Path | None = None) -> Client:
    """A client for the control plane that a profile names; a context manager, which closes the connection.

    profile: the profile's file; by default the one that `ostler` uses, of $OSTLER_PROFILE or ~/.config/ostler. Nothing
    is sent before the first call. Raises ProfileError.
    """
    found = load(profile or find())
    from ostler.client.client import Client

    return Client(found)
