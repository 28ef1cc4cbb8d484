"""One agent per state directory."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ostler_common.errors import FailedPreconditionError


@contextmanager
def lock_state(state_dir: Path) -> Iterator[None]:
    """Holds the directory's lock. Raises FailedPreconditionError ALREADY_RUNNING."""
    handle = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FailedPreconditionError(
                f"another agent uses {state_dir} (stop it first)", "ALREADY_RUNNING"
            ) from error
        yield
    finally:
        os.close(handle)
