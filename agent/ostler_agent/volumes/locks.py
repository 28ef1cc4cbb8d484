"""One change of a volume at a time, and none while it is read."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from ostler_common.errors import AbortedError

from ostler_agent.spec import VolumeRef


class VolumeLocks:
    """Which volumes jobs of this host are at work on."""

    def __init__(self) -> None:
        self._changed: set[str] = set()
        self._read: Counter[str] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def exclusive(self, *refs: VolumeRef) -> Iterator[None]:
        """Raises AbortedError (VOLUME_BUSY) while another job changes or reads one of them."""
        ids = {ref.volume_id for ref in refs}
        with self._lock:
            self._refuse(ids & (self._changed | self._read.keys()))
            self._changed |= ids
        try:
            yield
        finally:
            with self._lock:
                self._changed -= ids

    @contextmanager
    def shared(self, ref: VolumeRef) -> Iterator[None]:
        """Raises AbortedError (VOLUME_BUSY) while another job changes it."""
        with self._lock:
            self._refuse({ref.volume_id} & self._changed)
            self._read[ref.volume_id] += 1
        try:
            yield
        finally:
            with self._lock:
                self._read[ref.volume_id] -= 1
                self._read += Counter()  # forgets those at 0

    @staticmethod
    def _refuse(busy: set[str]) -> None:
        for volume_id in busy:
            raise AbortedError(
                f"another operation is at work on volume {volume_id} (try again when it is over)",
                "VOLUME_BUSY",
                {"volume": volume_id},
            )
