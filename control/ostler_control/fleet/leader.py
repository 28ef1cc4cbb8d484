"""Which of several control replicas watches the fleet: the living one with the smallest id.

Two may believe so for a moment. That costs connections and nothing else: a watcher overwrites only what it has read.
"""

from __future__ import annotations

from ostler_control.database import is_sqlite
from ostler_control.operations import replicas
from ostler_control.operations.replicas import Heartbeats


class Leader:
    """Tells one replica, each time it asks, whether it leads."""

    def __init__(self, replica: str, heartbeats: Heartbeats | None = None) -> None:
        """heartbeats: default is this process's."""
        self._replica = replica
        self._heartbeats = heartbeats or replicas.heartbeats

    def is_me(self) -> bool:
        """Whether this replica watches the fleet now."""
        if is_sqlite():
            return True
        return all(self._replica <= other.id for other in self._heartbeats.living())
