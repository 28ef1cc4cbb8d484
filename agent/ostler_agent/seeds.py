"""The seeds of this host's VMs: for each a CD-ROM image that cloud-init in the guest reads.

An image may hold secrets: only root may read it, and the user that libvirt hands it to when the VM starts. It is
written anew at every start, and when a VM is about to come from another host; it goes when its VM is forgotten here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path

from ostler_agent.files import write_file
from ostler_agent.spec import VmSpec
from ostler_agent.tools import iso

# The same on every host, so that a VM finds it wherever it moves. QEMU must be able to pass: not below the agent's
# private state.
SEED_DIR = Path("/var/lib/ostler/seeds")
LABEL = "cidata"
_LEFTOVER_AGE_S = 24 * 3600.0


@dataclass(frozen=True)
class Seeds:
    """Where the images are."""

    directory: Path = SEED_DIR

    def place(self, spec: VmSpec) -> VmSpec:
        """Writes the image of a VM that is about to start here, and names it in the specification.

        A VM without a seed has no image; one that an earlier definition left is removed.
        """
        if spec.seed is None:
            self.delete(spec.vm_id)
            return spec
        self.directory.mkdir(parents=True, exist_ok=True)
        self.directory.chmod(0o711)
        path = self._path(spec.vm_id)
        write_file(path, iso.build(LABEL, spec.seed))
        return replace(spec, cdrom=path)

    def delete(self, vm_id: str) -> None:
        """Removes the image of a VM that is not here any more; none is a success."""
        self._path(vm_id).unlink(missing_ok=True)

    def sweep(self, known: Collection[str], now: Callable[[], float] = time.time) -> list[str]:
        """Removes old images of VMs that this host does not know; returns whose."""
        if not self.directory.is_dir():
            return []
        leftovers = [path for path in self.directory.iterdir() if path.stem not in known]
        old = [path for path in leftovers if now() - path.stat().st_mtime > _LEFTOVER_AGE_S]
        for path in old:
            path.unlink(missing_ok=True)
        return [path.stem for path in old]

    def _path(self, vm_id: str) -> Path:
        return self.directory / f"{vm_id}.iso"


SEEDS = Seeds()
