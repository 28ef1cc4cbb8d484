"""A limit to how long a job may take, whichever of its programs is running."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ostler_common.errors import DeadlineExceededError, bad_field

from ostler_agent.jobs import JobContext

MAX_TIMEOUT_S = 7 * 24 * 3600


@contextmanager
def deadline(job: JobContext, timeout_s: float, what: str) -> Iterator[None]:
    """Stops the job when the block takes longer. what: "conversion"; the reason is then CONVERSION_TIMEOUT.

    Raises InvalidArgumentError (INVALID_FIELD).
    """
    if not 0 < timeout_s <= MAX_TIMEOUT_S:
        raise bad_field("timeout_s", f"must be 1 to {MAX_TIMEOUT_S}")
    error = DeadlineExceededError(
        f"the {what} did not end within {timeout_s:g} s and was undone (allow it more time)", f"{what.upper()}_TIMEOUT"
    )
    timer = threading.Timer(timeout_s, job.cancel, [error])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
