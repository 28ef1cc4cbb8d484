"""Bridges that NICs can be put on."""

from __future__ import annotations

from pathlib import Path

SYS_CLASS_NET = Path("/sys/class/net")


def bridges(sys_class_net: Path = SYS_CLASS_NET) -> tuple[str, ...]:
    """Names of all bridges of the host (Linux bridges; Open vSwitch's are no interfaces of this kind)."""
    return tuple(sorted(path.parent.name for path in sys_class_net.glob("*/bridge")))
