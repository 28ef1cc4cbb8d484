"""What volumes need of the hypervisor's driver."""

from __future__ import annotations

from typing import Protocol


class Guests(Protocol):
    """Says which VM uses a volume, and grows it there."""

    def running(self, vm_id: str) -> bool:
        """Whether the VM executes here (or is paused in memory)."""

    def using(self, volume_id: str) -> str | None:
        """UUID of the executing VM that has the volume attached, if any."""

    def grow_disk(self, vm_id: str, volume_id: str, size_bytes: int) -> None:
        """Grows a disk of an executing VM, file and guest's view."""
