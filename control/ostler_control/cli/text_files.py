"""Text files that commands send."""

from __future__ import annotations

import sys
from pathlib import Path

import click


def read_text(file: Path) -> str:
    """The text of a file, `-` being standard input. Raises click.UsageError when it cannot be read."""
    try:
        return sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text in UTF-8"
        raise click.UsageError(f"cannot read {file}: {reason}") from None
