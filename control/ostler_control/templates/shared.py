"""Replicas share the directory of the templates' files: each leaves a mark in it, and finds those of the others."""

from __future__ import annotations

from pathlib import Path

from ostler_common.errors import FailedPreconditionError

from ostler_control.operations import replicas

MARK = ".replica-"


def check(directory: Path, replica: str) -> None:
    """Leaves this replica's mark. Raises FailedPreconditionError TEMPLATES_NOT_SHARED when a replica that runs has not
    left its own here: its uploads would be missing on this one."""
    directory.mkdir(mode=0o700, exist_ok=True)
    (directory / f"{MARK}{replica}").touch(mode=0o600)
    missing = [
        other.address or other.id
        for other in replicas.heard_lately()
        if other.id != replica and not (directory / f"{MARK}{other.id}").exists()
    ]
    if missing:
        raise FailedPreconditionError(
            f"{directory} is not the directory of templates of other replicas ({', '.join(missing)}): mount one shared "
            "directory there on every replica",
            "TEMPLATES_NOT_SHARED",
        )
