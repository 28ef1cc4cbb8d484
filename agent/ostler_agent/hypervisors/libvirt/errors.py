"""Maps libvirt's errors to Ostler's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import libvirt
from ostler_common.errors import (
    AbortedError,
    AlreadyExistsError,
    CancelledError,
    DeadlineExceededError,
    FailedPreconditionError,
    InternalError,
    NotFoundError,
    OstlerError,
    ResourceExhaustedError,
    UnavailableError,
    UnimplementedError,
)

_TABLE: dict[int, tuple[type[OstlerError], str]] = {
    libvirt.VIR_ERR_NO_DOMAIN: (NotFoundError, "VM_NOT_FOUND"),
    libvirt.VIR_ERR_NO_SECRET: (NotFoundError, "SECRET_NOT_FOUND"),
    libvirt.VIR_ERR_DOM_EXIST: (AlreadyExistsError, "VM_EXISTS"),
    libvirt.VIR_ERR_OPERATION_INVALID: (FailedPreconditionError, "VM_STATE"),
    libvirt.VIR_ERR_RESOURCE_BUSY: (AbortedError, "VM_BUSY"),
    libvirt.VIR_ERR_OPERATION_TIMEOUT: (DeadlineExceededError, "HYPERVISOR_TIMEOUT"),
    libvirt.VIR_ERR_OPERATION_ABORTED: (CancelledError, "OPERATION_ABORTED"),
    libvirt.VIR_ERR_OPERATION_UNSUPPORTED: (UnimplementedError, "HYPERVISOR_UNSUPPORTED"),
    libvirt.VIR_ERR_CONFIG_UNSUPPORTED: (UnimplementedError, "HYPERVISOR_UNSUPPORTED"),
    libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED: (UnimplementedError, "HYPERVISOR_UNSUPPORTED"),
    libvirt.VIR_ERR_NO_SUPPORT: (UnimplementedError, "HYPERVISOR_UNSUPPORTED"),
    libvirt.VIR_ERR_NO_MEMORY: (ResourceExhaustedError, "HOST_MEMORY"),
    libvirt.VIR_ERR_NO_CONNECT: (UnavailableError, "LIBVIRT_UNAVAILABLE"),
    libvirt.VIR_ERR_AUTH_FAILED: (UnavailableError, "LIBVIRT_UNAVAILABLE"),
    libvirt.VIR_ERR_XML_ERROR: (InternalError, "HYPERVISOR_XML"),
    libvirt.VIR_ERR_XML_DETAIL: (InternalError, "HYPERVISOR_XML"),
    libvirt.VIR_ERR_OPERATION_FAILED: (FailedPreconditionError, "HYPERVISOR_REFUSED"),
}

# QEMU's messages, which libvirt forwards as "internal error" or similar, with advice for the operator.
_QEMU_WORDS: tuple[tuple[str, type[OstlerError], str, str], ...] = (
    ("cannot unlock any keyslot", FailedPreconditionError, "WRONG_KEY", "the key does not open the volume"),
    ('Failed to get "write" lock', FailedPreconditionError, "DISK_IN_USE", "another process has a disk open"),
    ('Failed to get shared "write" lock', FailedPreconditionError, "DISK_IN_USE", "another process has a disk open"),
    ("No space left on device", ResourceExhaustedError, "POOL_FULL", "free some space in the pool"),
    ("annot set up guest memory", ResourceExhaustedError, "HOST_MEMORY", "the host has too little free memory"),
)

# Errors of the transport, whatever their code: the daemon is unreachable or has disconnected.
_TRANSPORT = {libvirt.VIR_FROM_RPC, libvirt.VIR_FROM_REMOTE}


def lost_connection(error: libvirt.libvirtError) -> bool:
    """Whether the daemon was unreachable. The call may or may not have taken effect."""
    return error.get_error_domain() in _TRANSPORT


def to_ostler_error(error: libvirt.libvirtError, what: str) -> OstlerError:
    """Returns the error to raise, with the message "<what>: <libvirt's message>"."""
    message = f"{what}: {error.get_error_message()}"
    if lost_connection(error):
        return UnavailableError(f"{message} (is libvirtd running?)", "LIBVIRT_UNAVAILABLE")
    if error_of_qemu := from_qemu_or_none(message):
        return error_of_qemu
    kind, reason = _TABLE.get(error.get_error_code(), (InternalError, "HYPERVISOR_ERROR"))
    return kind(message, reason, {"libvirt_code": str(error.get_error_code())})


def from_qemu_or_none(message: str) -> OstlerError | None:
    """Returns the error to raise if the message contains a known message of QEMU."""
    for words, kind, reason, advice in _QEMU_WORDS:
        if words in message:
            return kind(f"{message} ({advice})", reason)
    return None


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Translates libvirt's errors in the block. what: the action, e.g. "starting VM 1234"."""
    try:
        yield
    except libvirt.libvirtError as error:
        raise to_ostler_error(error, what) from error


def is_code(error: libvirt.libvirtError, *codes: int) -> bool:
    """Whether the error is one of libvirt's VIR_ERR_*."""
    return error.get_error_code() in codes
