"""One table from what pyvmomi, HTTP and TLS raise to Ostler's errors."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from xml.parsers.expat import ExpatError

import httpx
from ostler_common.errors import (
    AbortedError,
    FailedPreconditionError,
    NotFoundError,
    OstlerError,
    ResourceExhaustedError,
    UnavailableError,
)
from pyVmomi import vim, vmodl

_MAX_TEXT = 300

# The first one that fits counts: a subclass stands before its base.
_FAULTS: tuple[tuple[type[Exception], type[OstlerError], str, str], ...] = (
    (
        vim.fault.InvalidLogin,
        FailedPreconditionError,
        "VCENTER_LOGIN_REFUSED",
        "refuses the user or the password; check both",
    ),
    (
        vim.fault.NoPermission,
        FailedPreconditionError,
        "VCENTER_NO_PERMISSION",
        "does not let this user do that; give its role the missing privilege",
    ),
    (
        vim.fault.NotAuthenticated,
        UnavailableError,
        "VCENTER_SESSION_EXPIRED",
        "has ended the session",
    ),
    (
        vmodl.fault.ManagedObjectNotFound,
        NotFoundError,
        "VCENTER_OBJECT_GONE",
        "does not have this object any more",
    ),
    (
        vim.fault.TaskInProgress,
        AbortedError,
        "VCENTER_VM_BUSY",
        "has another task under way on this VM; wait for it to end and try again",
    ),
    (
        vim.fault.InvalidPowerState,
        FailedPreconditionError,
        "VCENTER_POWER_STATE",
        "refuses this in the VM's present power state",
    ),
    (
        vim.fault.InsufficientResourcesFault,
        ResourceExhaustedError,
        "VCENTER_NO_RESOURCES",
        "lacks resources for this",
    ),
    (
        vim.fault.FileFault,
        FailedPreconditionError,
        "VCENTER_FILE_FAULT",
        "cannot work on a file of the VM",
    ),
)


def fault_text(fault: object) -> str:
    """What a fault of the vSphere API says, or its type where it says nothing."""
    return str(getattr(fault, "msg", None) or _kind(fault))[:_MAX_TEXT]


def _kind(fault: object) -> str:
    return type(fault).__name__.rpartition(".")[2]


def fault_error(server: str, fault: object) -> OstlerError:
    """The error for a fault of the vSphere API. server: its name for people."""
    kind, text = _kind(fault), fault_text(fault)
    for fault_type, error_type, reason, words in _FAULTS:
        if isinstance(fault, fault_type):
            privilege = getattr(fault, "privilegeId", None)
            return error_type(f"{server} {words} ({privilege or text})", reason, {"server": server, "fault": kind})
    return FailedPreconditionError(
        f"{server} answers with {kind}: {text}", "VCENTER_FAULT", {"server": server, "fault": kind}
    )


@contextmanager
def translated(server: str) -> Iterator[None]:
    """Turns what calls inside raise into an OstlerError."""
    try:
        yield
    except vmodl.MethodFault as fault:
        raise fault_error(server, fault) from None
    except ssl.SSLCertVerificationError as error:
        raise FailedPreconditionError(
            f"{server} is not trusted: {error.verify_message}; check the CA or the thumbprint",
            "VCENTER_UNTRUSTED",
            {"server": server},
        ) from None
    except (OSError, HTTPException, httpx.TransportError) as error:
        raise UnavailableError(
            f"{server} cannot be reached: {str(error)[:_MAX_TEXT] or type(error).__name__}",
            "VCENTER_UNREACHABLE",
            {"server": server},
        ) from None
    except ExpatError:
        raise UnavailableError(
            f"{server} gives an answer that is no XML; is it a vCenter or an ESXi host?",
            "VCENTER_BAD_ANSWER",
            {"server": server},
        ) from None
