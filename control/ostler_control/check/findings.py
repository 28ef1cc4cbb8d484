"""What a check finds: a reason code, its severity, the object, what is wrong, and the command that repairs it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

RESTORE = "ostler-control restore NEWER-BACKUP --replace"


class Severity(StrEnum):
    """ERROR: data or a VM is at risk or cannot be used; WARNING: the record is wrong, and everything works."""

    ERROR = "error"
    WARNING = "warning"


class Reason(StrEnum):
    """The kinds of finding. The codes are stable."""

    FILE_MISSING = "FILE_MISSING"
    KEY_UNKNOWN = "KEY_UNKNOWN"
    KEY_OF_ANOTHER_ROW = "KEY_OF_ANOTHER_ROW"
    HEADER_DIFFERS = "HEADER_DIFFERS"
    SIZE_DIFFERS = "SIZE_DIFFERS"
    SEAL_NOT_OPENED = "SEAL_NOT_OPENED"
    VM_RUNS_TWICE = "VM_RUNS_TWICE"
    VM_RUNS_ELSEWHERE = "VM_RUNS_ELSEWHERE"
    VM_NOT_RUNNING = "VM_NOT_RUNNING"
    VM_RUNNING = "VM_RUNNING"
    VM_UNKNOWN = "VM_UNKNOWN"
    VM_DEFINITION_LEFT = "VM_DEFINITION_LEFT"
    CLAIMS_DIFFER = "CLAIMS_DIFFER"
    CLAIMS_EXCEED_CAPACITY = "CLAIMS_EXCEED_CAPACITY"


_WARNINGS = frozenset(
    {
        *(Reason.SIZE_DIFFERS, Reason.CLAIMS_DIFFER, Reason.CLAIMS_EXCEED_CAPACITY),
        *(Reason.VM_RUNNING, Reason.VM_DEFINITION_LEFT),
    }
)


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong. object: "volume data-1"; command: repairs it."""

    reason: Reason
    object: str
    message: str
    command: str

    @property
    def severity(self) -> Severity:
        return Severity.WARNING if self.reason in _WARNINGS else Severity.ERROR


@dataclass(frozen=True)
class Report:
    """The outcome of a check. unchecked: what could not be looked at, and why; checked: how many of what were."""

    findings: tuple[Finding, ...]
    unchecked: tuple[str, ...]
    checked: str
