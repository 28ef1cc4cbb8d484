"""Details for drivers: settings of a VM that only one type of hypervisor has, such as a kernel for Firecracker.

A driver states a schema: one `DetailField` per key. The control plane and the agent check values against it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from ostler_common.errors import FailedPreconditionError

MAX_FIELDS = 32
MAX_LENGTH = 1024
MAX_NUMBER = (1 << 53) - 1
_KEY = re.compile(r"[a-z][a-z0-9-]{0,63}", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,18}", re.ASCII)
# Details are readable by everybody who sees the VM.
_SECRET = re.compile(r"passw|passphrase|secret|token|private-key|credential", re.ASCII)


class DetailKind(StrEnum):
    """What the value of a detail is."""

    TEXT = "text"
    NUMBER = "number"  # whole, 0 or more
    BOOLEAN = "boolean"


@dataclass(frozen=True)
class DetailField:
    """One detail that a driver accepts.

    summary: what it is, for people; required: a VM cannot start without it; per_vm: the owner of a VM may set it,
    otherwise only templates and service offerings have it, which admins create; values: the only ones that are allowed
    (empty: any of the kind); max_length: of a text, in characters; minimum, maximum: of a number.
    """

    key: str
    summary: str
    kind: DetailKind = DetailKind.TEXT
    required: bool = False
    per_vm: bool = False
    values: tuple[str, ...] = ()
    max_length: int = MAX_LENGTH
    minimum: int = 0
    maximum: int = MAX_NUMBER


def check_schema(schema: Sequence[DetailField]) -> None:
    """Raises ValueError, naming the field, unless a driver may state this."""
    if len(schema) > MAX_FIELDS:
        raise ValueError(f"has {len(schema)} fields; at most {MAX_FIELDS} are allowed")
    keys = set()
    for field in schema:
        if not _KEY.fullmatch(field.key):
            raise ValueError(f"{field.key[:80]!r} must be a lower-case word of at most 64 letters, digits and hyphens")
        if _SECRET.search(field.key):
            raise ValueError(f"{field.key}: details must not contain secrets, because they are stored as plain text")
        if field.key in keys:
            raise ValueError(f"{field.key} is there twice")
        keys.add(field.key)
        if not field.summary or len(field.summary) > 256:
            raise ValueError(f"{field.key}: the summary must have 1 to 256 characters")
        if not 0 <= field.minimum <= field.maximum <= MAX_NUMBER:
            raise ValueError(f"{field.key}: minimum and maximum must be 0 to {MAX_NUMBER}, the minimum first")
        if not 1 <= field.max_length <= MAX_LENGTH:
            raise ValueError(f"{field.key}: max_length must be 1 to {MAX_LENGTH}")
        if len(field.values) > MAX_FIELDS or any(_wrong(field, value) for value in field.values):
            raise ValueError(f"{field.key}: values must be at most {MAX_FIELDS} of its kind")


def check_values(details: Mapping[str, str], schema: Iterable[DetailField], of: str) -> None:
    """Checks the details of a VM before it starts. of: whose schema it is, for people.

    Raises FailedPreconditionError DETAIL_UNKNOWN, DETAIL_INVALID, DETAIL_MISSING.
    """
    fields = {field.key: field for field in schema}
    for key, value in details.items():
        if key not in fields:
            known = ", ".join(sorted(fields)) or "none"
            raise _refusal("DETAIL_UNKNOWN", key, f"{of} has no detail driver.{key[:80]} (it has: {known})")
        if wrong := _wrong(fields[key], value):
            raise _refusal("DETAIL_INVALID", key, f"the detail driver.{key} {wrong}")
    for key, field in fields.items():
        if field.required and key not in details:
            raise _refusal(
                "DETAIL_MISSING", key, f"{of} requires the detail driver.{key}: {field.summary} (set it with --detail)"
            )


def _wrong(field: DetailField, value: str) -> str:
    """What is wrong with a value, "" for nothing."""
    if not value or len(value) > field.max_length or not value.isprintable():
        return f"must have 1 to {field.max_length} printable characters"
    if field.values and value not in field.values:
        return f"must be one of {', '.join(field.values)}"
    if field.kind is DetailKind.BOOLEAN and value not in ("true", "false"):
        return "must be true or false"
    if field.kind is DetailKind.NUMBER:
        if not _NUMBER.fullmatch(value):
            return "must be a whole number, 0 or more"
        if not field.minimum <= int(value) <= field.maximum:
            return f"must be {field.minimum} to {field.maximum}"
    return ""


def _refusal(reason: str, key: str, message: str) -> FailedPreconditionError:
    return FailedPreconditionError(message, reason, {"detail": f"driver.{key[:80]}"})
