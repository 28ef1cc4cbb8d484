"""What a driver does with the state of VMs' firmware."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from ostler_agent.spec import FirmwareCopy, FirmwareState


@runtime_checkable
class FirmwareStates(Protocol):
    """Optional part of a driver, `Function.FIRMWARE_STATE`: UEFI variables and the states of TPMs on a host."""

    def read_firmware_state(self, vm_id: str) -> FirmwareState:
        """Returns a copy, of a running VM as after a power failure; empty if there is nothing, or no such VM.

        Raises ResourceExhaustedError FIRMWARE_STATE_SIZE if it is larger than `MAX_VARIABLES_BYTES`, `MAX_TPM_BYTES`.
        """

    def place_firmware_state(self, vm_id: str, copy: FirmwareCopy) -> None:
        """Puts a copy in place for the VM's next start here; the VM need not be defined. No effect on a running VM."""
