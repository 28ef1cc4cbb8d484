"""Maps QEMU's messages to Ostler's errors."""

from __future__ import annotations

from ostler_common.errors import (
    FailedPreconditionError,
    InternalError,
    NotFoundError,
    OstlerError,
    ResourceExhaustedError,
)

_WORDS: tuple[tuple[str, type[OstlerError], str, str], ...] = (
    ('Failed to get "write" lock', FailedPreconditionError, "DISK_IN_USE", "another process has a disk open"),
    ('Failed to get shared "write" lock', FailedPreconditionError, "DISK_IN_USE", "another process has a disk open"),
    ("No such file or directory", FailedPreconditionError, "VOLUME_MISSING", "is the volume's pool mounted?"),
    ("No space left on device", ResourceExhaustedError, "POOL_FULL", "free some space"),
    ("annot set up guest memory", ResourceExhaustedError, "HOST_MEMORY", "the host has too little free memory"),
)


def to_ostler_error(what: str, words: str) -> OstlerError:
    """Returns the error to raise, with the message "<what>: <QEMU's message>"."""
    for part, kind, reason, advice in _WORDS:
        if part in words:
            return kind(f"{what}: {words} ({advice})", reason)
    return InternalError(f"{what}: {words}", "HYPERVISOR_ERROR")


def not_found(vm_id: str) -> OstlerError:
    return NotFoundError(f"VM {vm_id} is not on this host", "VM_NOT_FOUND", {"vm": vm_id})


def running(vm_id: str, advice: str) -> OstlerError:
    return FailedPreconditionError(f"VM {vm_id} is running ({advice})", "VM_RUNNING", {"vm": vm_id})


def not_running(vm_id: str) -> OstlerError:
    return FailedPreconditionError(f"VM {vm_id} is not running (start it first)", "VM_NOT_RUNNING", {"vm": vm_id})
