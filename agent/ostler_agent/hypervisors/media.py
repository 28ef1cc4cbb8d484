"""What a driver does with removable media."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable


@runtime_checkable
class CdromDrives(Protocol):
    """Optional part of a driver: `Function.ISO`. `define` and `start` obey `VmSpec.cdroms`.

    Each VM has MAX_CDROMS drives from its start on, empty or not, numbered from 0. The files are raw data: the driver
    opens them read-only and never guesses another format.
    """

    def change_cdrom(self, vm_id: str, drive: int, path: Path | None) -> None:
        """Puts a file into a drive of a running VM, also in its definition; None: empties it, even against the guest.

        Idempotent. Raises FailedPreconditionError VM_NOT_RUNNING, CDROM_MISSING if the VM runs without such a drive.
        """
