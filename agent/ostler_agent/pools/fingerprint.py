"""The mark by which two hosts know that they see the same directory, and one host that it is still mounted."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

NAME = ".ostler-pool"


def read_or_none(directory: Path) -> str | None:
    """The mark in a directory, or None when there is none."""
    try:
        return (directory / NAME).read_text().strip()
    except (FileNotFoundError, NotADirectoryError):
        return None


def read_or_make(directory: Path) -> str:
    """The mark in a directory; of several hosts that make one at once, one wins and all return the same."""
    if found := read_or_none(directory):
        return found
    mine = secrets.token_hex(16)
    # Written whole under another name, then linked: nobody ever reads half of it, and a link never replaces.
    staged = directory / f"{NAME}.{mine}"
    file = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        os.write(file, f"{mine}\n".encode())
        os.fsync(file)
        os.link(staged, directory / NAME)
    except FileExistsError:
        pass
    finally:
        os.close(file)
        staged.unlink()
    return (directory / NAME).read_text().strip()
