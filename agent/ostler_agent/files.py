"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def fsync_directory(path: Path) -> None:
    """Makes the names in a directory outlive a crash of the machine."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def fsync_file(path: Path) -> None:
    """Makes a file's contents outlive a crash of the machine."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def write_file(path: Path, data: bytes) -> None:
    """Replaces a file's contents, readable by this user only; after a crash of the machine it has the new ones, or the
    old ones if there were any.

    Not for two writers of one file at once.
    """
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
    """Gives a finished file its name, both in one directory, and makes it durable. Raises FileExistsError.

    A link, not a rename: a rename would silently replace what somebody else has put there meanwhile.
    """
    fsync_file(part)
    os.link(part, final)
    part.unlink()
    fsync_directory(final.parent)
