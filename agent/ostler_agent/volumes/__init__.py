"""Creates, grows, copies, reads and deletes volumes."""

from __future__ import annotations

from ostler_agent.volumes.runtime import VmRuntime
from ostler_agent.volumes.volumes import Volumes

__all__ = ["VmRuntime", "Volumes"]
