"""What a host must have before a VM runs on it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ostler_common.errors import FailedPreconditionError

from ostler_agent.spec import NicSpec

NETWORK_DEVICES = Path("/sys/class/net")  # the kernel's list


def check_volume_file(volume_id: str, path: Path) -> None:
    """Raises FailedPreconditionError VOLUME_MISSING."""
    if not path.is_file() and not path.is_block_device():
        raise FailedPreconditionError(
            f"volume {volume_id} is not on this host: no file or device {path} (is its pool mounted?)",
            "VOLUME_MISSING",
            {"volume": volume_id, "path": str(path)},
        )


def check_bridges(nics: Iterable[NicSpec]) -> None:
    """Raises FailedPreconditionError BRIDGE_MISSING."""
    for nic in nics:
        device = NETWORK_DEVICES / nic.bridge
        # An Open vSwitch bridge has no "bridge" directory; libvirt cannot use it by this name.
        if "/" in nic.bridge or not (device / "bridge").is_dir():
            raise FailedPreconditionError(
                f"this host has no bridge {nic.bridge} (create it, or choose another network)",
                "BRIDGE_MISSING",
                {"bridge": nic.bridge},
            )
