"""The bridges of the host."""

from __future__ import annotations

from pathlib import Path

from ostler_agent.network_devices import SYS_CLASS_NET


def bridges(sys_class_net: Path = SYS_CLASS_NET) -> tuple[str, ...]:
    """Returns the names of all Linux bridges of the host (not those of Open vSwitch)."""
    return tuple(sorted(path.parent.name for path in sys_class_net.glob("*/bridge")))
