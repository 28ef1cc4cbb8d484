"""Definitions of VMs, one file each."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

FILE = "definition.json"


@dataclass(frozen=True)
class Disk:
    """A disk: a raw image."""

    volume_id: str
    path: str


@dataclass(frozen=True)
class Nic:
    mac: str
    bridge: str

    @property
    def interface(self) -> str:
        """Its name in the container; what is joined to the bridge ends in an h."""
        return f"n{self.mac.replace(':', '')}"


@dataclass(frozen=True)
class Definition:
    """A VM's configuration for its next start. disks: by slot; the first holds the operating system."""

    vm_id: str
    name: str
    cpus: int
    memory_bytes: int
    disks: tuple[Disk, ...] = ()
    nics: tuple[Nic, ...] = ()


def from_json(data: bytes) -> Definition:
    values: dict[str, Any] = json.loads(data)
    disks = tuple(Disk(**disk) for disk in values.pop("disks"))
    nics = tuple(Nic(**nic) for nic in values.pop("nics"))
    return Definition(**values, disks=disks, nics=nics)


class Store:
    """The definitions of all VMs, one directory per VM. write: replaces a file atomically and durably."""

    def __init__(self, root: Path, write: Callable[[Path, bytes], None]) -> None:
        self._root = root
        self._write = write
        root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def directory(self, vm_id: str) -> Path:
        """The VM's directory, whether or not it exists. Raises ValueError if vm_id is not a UUID."""
        return self._root / str(UUID(vm_id))

    def ids(self) -> list[str]:
        return sorted(path.parent.name for path in self._root.glob(f"*/{FILE}"))

    def read(self, vm_id: str) -> Definition | None:
        try:
            return from_json((self.directory(vm_id) / FILE).read_bytes())
        except FileNotFoundError:
            return None

    def write(self, definition: Definition) -> None:
        directory = self.directory(definition.vm_id)
        directory.mkdir(mode=0o700, exist_ok=True)
        self._write(directory / FILE, json.dumps(asdict(definition), indent=1).encode())

    def remove(self, vm_id: str) -> None:
        """Deletes the definition first: what a crash leaves then is not a VM, and the next call deletes it."""
        directory = self.directory(vm_id)
        (directory / FILE).unlink(missing_ok=True)
        shutil.rmtree(directory, ignore_errors=True)


def environment() -> Mapping[str, str]:
    """What a program needs to import this package."""
    return {"PYTHONPATH": os.fspath(Path(__file__).resolve().parent.parent)}
