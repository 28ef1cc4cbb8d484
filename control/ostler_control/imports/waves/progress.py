"""How fast imports go, and how long they still take. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from ostler_control.imports.preflight import CONVERT_BYTES_PER_S, START_S

# The speed is what was done within this time.
WINDOW_S = 20.0
_EXPORTING = ("exporting", "cloning", "shutting down the guest")


@dataclass(frozen=True)
class Sample:
    """What an import reported. time_s: of a clock that only runs forward."""

    time_s: float
    phase: str
    bytes_done: int
    bytes_total: int


class Speed:
    """The speed of one import, of the phase that it is in."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque()

    def add(self, sample: Sample) -> None:
        """Notes a report."""
        last = self._samples[-1] if self._samples else None
        if last is not None and (last.phase != sample.phase or last.bytes_done > sample.bytes_done):
            self._samples.clear()
        self._samples.append(sample)
        while len(self._samples) > 2 and sample.time_s - self._samples[1].time_s >= WINDOW_S:
            self._samples.popleft()

    @property
    def bytes_per_s(self) -> int:
        """0 when it is not known."""
        if len(self._samples) < 2:
            return 0
        first, last = self._samples[0], self._samples[-1]
        return int((last.bytes_done - first.bytes_done) / max(last.time_s - first.time_s, 0.001))


def left_s(sample: Sample, bytes_per_s: int, size_bytes: int, estimated_s: int, elapsed_s: int) -> int:
    """Roughly how long an import still takes, seconds; 0 when that is not known.

    By its speed where there is one, with the phases to come by the check's guess; else by the guess alone.
    """
    if bytes_per_s > 0 and sample.bytes_total > 0:
        phase_s = max(sample.bytes_total - sample.bytes_done, 0) // bytes_per_s
        rest_s = size_bytes // CONVERT_BYTES_PER_S if sample.phase in _EXPORTING else 0
        return phase_s + rest_s + START_S
    return max(estimated_s - elapsed_s, 0)


def plan_left_s(running: Iterable[int], waiting: Iterable[int], parallel: int) -> int:
    """Roughly how long a plan still takes, seconds, when its imports fill its places one after the other."""
    ends = list(running)
    ends += [0] * (parallel - len(ends))
    for duration_s in waiting:
        ends.sort()
        ends[0] += duration_s
    return max(ends)
