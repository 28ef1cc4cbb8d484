"""Volumes: made, grown, deleted, looked at."""

from __future__ import annotations

from ostler_agent.volumes.runtime import Guests
from ostler_agent.volumes.volumes import Volumes

__all__ = ["Guests", "Volumes"]
