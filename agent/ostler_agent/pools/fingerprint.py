"""The mark in a pool's directory: proves that two hosts see the same directory, and that it is still mounted."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

NAME = ".ostler-pool"


def read_or_none(directory: Path) -> str | None:
    """Returns the mark in a directory, or None."""
    try:
        return (directory / NAME).read_text().strip()
    except (FileNotFoundError, NotADirectoryError):
        return None


def read_or_make(directory: Path) -> str:
    """Returns the mark in a directory, creating it if missing; concurrent creators all return the same mark."""
    if found := read_or_none(directory):
        return found
    mine = secrets.token_hex(16)
    # Written under another name, then linked: nobody reads a partial mark, and a link never replaces one.
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
