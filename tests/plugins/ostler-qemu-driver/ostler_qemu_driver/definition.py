"""VM definitions, one file each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID

from ostler_agent.files import write_file
from ostler_agent.spec import DiskSpec, VmSpec, VolumeRef
from ostler_common.errors import FailedPreconditionError, InvalidArgumentError

FILE = "definition.json"
MAX_DISKS, MAX_NICS = 16, 9  # slots on the PCI bus, see command.py


@dataclass(frozen=True)
class Disk:
    """A disk; slot 0 is the guest's vda."""

    volume_id: str
    path: str
    slot: int
    boot: bool = False


@dataclass(frozen=True)
class Nic:
    mac: str
    bridge: str
    model: str


@dataclass(frozen=True)
class Definition:
    """A VM's configuration for its next start."""

    vm_id: str
    name: str
    cpus: int
    memory_bytes: int
    disks: tuple[Disk, ...] = ()
    nics: tuple[Nic, ...] = ()

    def with_disk(self, disk: Disk) -> Definition:
        return replace(self, disks=tuple(sorted((*self.disks, disk), key=lambda other: other.slot)))

    def without_volume(self, volume_id: str) -> Definition:
        return replace(self, disks=tuple(disk for disk in self.disks if disk.volume_id != volume_id))


def define(spec: VmSpec, paths: Callable[[VolumeRef], Path]) -> Definition:
    """Creates the definition for a spec. Raises InvalidArgumentError TOO_MANY_DEVICES, and what `has` raises.

    The agent has refused what the driver does not state (UEFI, encryption, qcow2).
    """
    if len(spec.nics) > MAX_NICS:
        raise InvalidArgumentError(f"a VM has at most {MAX_NICS} network interfaces here", "TOO_MANY_DEVICES")
    definition = Definition(
        spec.vm_id,
        spec.name,
        spec.cpus,
        spec.memory_bytes,
        nics=tuple(Nic(nic.mac, nic.bridge, nic.model) for nic in spec.nics),
    )
    for disk_spec in spec.disks:
        wanted = disk(disk_spec, paths(disk_spec.volume))
        if not has(definition.disks, wanted, spec.vm_id):
            definition = definition.with_disk(wanted)
    return definition


def disk(spec: DiskSpec, path: Path) -> Disk:
    """Creates a disk of a definition. Raises InvalidArgumentError TOO_MANY_DEVICES."""
    if spec.slot >= MAX_DISKS:
        raise InvalidArgumentError(f"a VM has at most {MAX_DISKS} disks here", "TOO_MANY_DEVICES")
    return Disk(spec.volume.volume_id, str(path), spec.slot, spec.boot)


def has(attached: tuple[Disk, ...], wanted: Disk, vm_id: str) -> bool:
    """Whether the volume is attached in its slot. Raises FailedPreconditionError SLOT_TAKEN, VOLUME_ATTACHED."""
    for other in attached:
        same_volume, same_slot = other.volume_id == wanted.volume_id, other.slot == wanted.slot
        if same_volume and same_slot:
            return True
        if same_slot:
            raise FailedPreconditionError(
                f"slot {other.slot} of VM {vm_id} is taken by {other.volume_id} (choose a free slot)", "SLOT_TAKEN"
            )
        if same_volume:
            raise FailedPreconditionError(
                f"volume {other.volume_id} is already attached to VM {vm_id} in slot {other.slot}", "VOLUME_ATTACHED"
            )
    return False


class Store:
    """The definitions of all VMs, one directory per VM."""

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def directory(self, vm_id: str) -> Path:
        """The VM's directory, whether or not it exists. Raises ValueError if vm_id is not a UUID."""
        return self._root / str(UUID(vm_id))

    def ids(self) -> list[str]:
        """The VMs that are defined."""
        return [path.parent.name for path in self._root.glob(f"*/{FILE}")]

    def read(self, vm_id: str) -> Definition | None:
        try:
            values = json.loads((self.directory(vm_id) / FILE).read_bytes())
        except FileNotFoundError:
            return None
        return _from_json(values)

    def write(self, definition: Definition) -> None:
        directory = self.directory(definition.vm_id)
        directory.mkdir(mode=0o700, exist_ok=True)
        write_file(directory / FILE, json.dumps(asdict(definition), indent=1).encode())

    def remove(self, vm_id: str) -> None:
        """Deletes the definition first: what a crash leaves then is not a VM, and the next call deletes it."""
        directory = self.directory(vm_id)
        (directory / FILE).unlink(missing_ok=True)
        shutil.rmtree(directory, ignore_errors=True)


def _from_json(values: dict[str, Any]) -> Definition:
    disks, nics = values.pop("disks"), values.pop("nics")
    return Definition(**values, disks=tuple(Disk(**disk) for disk in disks), nics=tuple(Nic(**nic) for nic in nics))
