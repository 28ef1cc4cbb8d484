"""Locks of volumes: one exclusive holder, or any number of shared ones."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from ostler_common.errors import AbortedError

from ostler_agent.spec import VolumeRef


class VolumeLocks:
    """The volumes that jobs of this host use. A conflict raises at once instead of waiting."""

    def __init__(self) -> None:
        self._changed: set[str] = set()
        self._read: Counter[str] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def exclusive(self, *refs: VolumeRef) -> Iterator[None]:
        """Locks volumes for a change. Raises AbortedError (VOLUME_BUSY) if another job has one of them locked."""
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
        """Locks a volume for reading. Raises AbortedError (VOLUME_BUSY) if another job changes it."""
        with self._lock:
            self._refuse({ref.volume_id} & self._changed)
            self._read[ref.volume_id] += 1
        try:
            yield
        finally:
            with self._lock:
                self._read[ref.volume_id] -= 1
                self._read += Counter()  # drops the counts of 0

    @staticmethod
    def _refuse(busy: set[str]) -> None:
        for volume_id in busy:
            raise AbortedError(
                f"another operation uses volume {volume_id} (try again when it ends)",
                "VOLUME_BUSY",
                {"volume": volume_id},
            )
