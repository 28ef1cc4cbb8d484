"""Admission of uploads: room on the control plane's disk, and how many one account may send at once.

The templates' directory is on the disk of the database, which must never fill up. The counts are of this process; with
several control planes each has its own disk, or else the reserve of the shared one covers them.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from ostler_common.errors import ResourceExhaustedError
from ostler_common.units import format_size

# Part of the disk that uploads leave free, and the most uploads of one account at once.
RESERVE = 0.10
MAX_UPLOADS_PER_ACCOUNT = 4

_lock = threading.Lock()
_announced: dict[str, int] = {}  # bytes that uploads in progress may still write, by file name
_uploads: Counter[str] = Counter()  # in progress, by account


@contextlib.contextmanager
def upload_slot(account_id: str) -> Iterator[None]:
    """One of the account's uploads. account_id: "" for what is not counted.

    Raises ResourceExhaustedError TOO_MANY_UPLOADS.
    """
    with _lock:
        if account_id and _uploads[account_id] >= MAX_UPLOADS_PER_ACCOUNT:
            raise ResourceExhaustedError(
                f"the account has {MAX_UPLOADS_PER_ACCOUNT} uploads in progress, which is the maximum; wait for one of "
                "them",
                "TOO_MANY_UPLOADS",
            )
        _uploads[account_id] += 1
    try:
        yield
    finally:
        with _lock:
            _uploads[account_id] -= 1


@contextlib.contextmanager
def reserved(path: Path, size_bytes: int) -> Iterator[None]:
    """Room for a file that is written in this block. Raises ResourceExhaustedError STORAGE_FULL."""
    with _lock:
        usage = shutil.disk_usage(path.parent)
        available = usage.free - int(usage.total * RESERVE) - sum(_announced.values())
        if size_bytes > available:
            raise ResourceExhaustedError(
                f"the file has {format_size(size_bytes)}, and the control plane has room for "
                f"{format_size(max(available, 0))}; {RESERVE:.0%} of its disk must stay free",
                "STORAGE_FULL",
            )
        _announced[path.name] = size_bytes
    try:
        yield
    finally:
        with _lock:
            del _announced[path.name]


def record_written(path: Path, size_bytes: int) -> None:
    """Of a reserved file: the bytes that it has already, which the disk counts as used itself."""
    with _lock:
        if path.name in _announced:
            _announced[path.name] -= size_bytes
