"""VMs that another tool has made, as a driver describes them before the agent takes them over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from ostler_agent.spec import PowerState

MAX_XML_BYTES = 1 << 20
MAX_DISKS, MAX_NICS = 64, 16


@dataclass(frozen=True)
class ForeignDisk:
    """A disk. slot: its place on the virtio bus, from 0; path: of its file; format: in the hypervisor's word."""

    slot: int
    path: Path
    format: str


@dataclass(frozen=True)
class ForeignNic:
    """A network interface on a bridge."""

    mac: str
    bridge: str
    model: str


@dataclass(frozen=True)
class Problem:
    """Something that cannot be mapped. code: "DISK_BUS"; refuses: the VM cannot be taken over, else the thing is lost
    at the next start."""

    code: str
    text: str
    refuses: bool = True


@dataclass(frozen=True)
class ForeignVm:
    """A VM as found. name: the hypervisor's own; managed: an Ostler manages it."""

    vm_id: str
    name: str
    power_state: PowerState
    cpus: int
    memory_bytes: int
    uefi: bool
    managed: bool
    disks: tuple[ForeignDisk, ...] = ()
    nics: tuple[ForeignNic, ...] = ()
    problems: tuple[Problem, ...] = ()
    secure_boot: bool = False


@runtime_checkable
class Adoption(Protocol):
    """Optional part of a driver, `Function.ADOPTION`: takes VMs over from other tools, and hands them back.

    Neither touches the guest: a running VM runs on, with the same process and devices.
    """

    def describe(self, vm: str) -> ForeignVm:
        """Describes a VM. vm: its UUID, or the hypervisor's name of it.

        Raises NotFoundError VM_NOT_FOUND, FailedPreconditionError DEFINITION_TOO_LARGE.
        """

    def adopt(self, vm_id: str, title: str, volumes: Mapping[Path, str]) -> None:
        """Marks a VM as Ostler's, persistently. volumes: volume ids by path, of disks whose files' names are no volume
        ids; such a disk counts as that volume. Idempotent.
        """

    def release(self, vm_id: str) -> None:
        """Removes the mark; the VM's definition stays. Idempotent; succeeds if the VM is absent."""
