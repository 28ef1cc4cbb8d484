"""The bridges of the host."""

from __future__ import annotations

from pathlib import Path

SYS_CLASS_NET = Path("/sys/class/net")


def bridges(sys_class_net: Path = SYS_CLASS_NET) -> tuple[str, ...]:
    """Returns the names of all Linux bridges of the host (not those of Open vSwitch)."""
    return tuple(sorted(path.parent.name for path in sys_class_net.glob("*/bridge")))
