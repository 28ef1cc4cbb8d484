"""Atomic, durable files."""

from __future__ import annotations

import os
from pathlib import Path


def fsync_directory(path: Path) -> None:
    """Makes the names in a directory durable."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def fsync_file(path: Path) -> None:
    """Makes a file's contents durable."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def write_file(path: Path, data: bytes) -> None:
    """Replaces a file atomically and durably, readable by this user only. Not safe for concurrent writers of a file."""
    new = not path.exists()
    temporary = path.with_name(f"{path.name}.tmp")
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(file, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fdatasync(file)
    temporary.rename(path)
    if new:
        fsync_directory(path.parent)


def publish(part: Path, final: Path) -> None:
    """Renames a finished file within its directory, durably. Raises FileExistsError.

    A link, not a rename: a rename would silently replace a file that another process created meanwhile.
    """
    fsync_file(part)
    os.link(part, final)
    part.unlink()
    fsync_directory(final.parent)
