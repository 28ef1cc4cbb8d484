"""How long a call to a server may take, whatever the server sends meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable

from ostler_common.units import format_size


class TooSlowError(Exception):
    """A call took longer than its limit. Its text completes a sentence that begins with the server's name."""


class CallLimit:
    """The time of a call: of all its attempts together, and of each attempt for as long as it makes no progress.

    Progress is `progress_bytes` sent or received. Without it an attempt must end in time, however much it moves.
    Not for use by several threads at once.
    """

    def __init__(
        self,
        total_s: float,
        attempt_s: float,
        progress_bytes: int | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total_s, self._attempt_s, self._progress_bytes, self._now = total_s, attempt_s, progress_bytes, now
        self._end = now() + total_s
        self.begin_attempt()

    def begin_attempt(self) -> None:
        """From now on the time of a new attempt counts."""
        self._attempt_end, self._moved = self._now() + self._attempt_s, 0

    def moved(self, count: int) -> None:
        """Counts bytes that were sent or received."""
        self._moved += count
        if self._progress_bytes is not None and self._moved >= self._progress_bytes:
            self.begin_attempt()

    def is_over(self) -> bool:
        """Whether no time is left for another attempt."""
        return self._now() >= self._end

    def left_s(self) -> float:
        """How long the next wait may take: more than 0. Raises TooSlowError."""
        left = min(self._end, self._attempt_end) - self._now()
        if left <= 0:
            raise self.error()
        return left

    def error(self) -> TooSlowError:
        """Says which limit comes first."""
        if self._end <= self._attempt_end:
            return TooSlowError(f"is too slow: a call with its repetitions took more than {self._total_s:g} s")
        if self._progress_bytes is None:
            return TooSlowError(f"is too slow: an answer took more than {self._attempt_s:g} s")
        least = format_size(self._progress_bytes)
        return TooSlowError(f"is too slow: it moved less than {least} in {self._attempt_s:g} s")
