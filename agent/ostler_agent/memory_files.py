"""Shows the encrypted images that keep the memory of VMs as plain files to the hypervisor, which writes none itself."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ostler_agent.process import Cancellation
from ostler_agent.spec import VolumeRef
from ostler_agent.tools import qemu_img
from ostler_agent.tools.qemu_storage_daemon import Export, mounted, unmount

DIRECTORY = Path("/run/ostler/memory")
_NAME = "memory"
# Beside its memory a VM saves the state of its devices, video memory and firmware among them, and its description.
_DEVICES_BYTES = 256 << 20
_PART_FOR_HEADERS = 64  # each page of memory has a header of a few bytes


def size_for(memory_bytes: int) -> int:
    """How large the image must be, at most, for the memory of a VM. It is thin: pages of zeros take no space."""
    return memory_bytes + memory_bytes // _PART_FOR_HEADERS // 4096 * 4096 + _DEVICES_BYTES


@dataclass(frozen=True)
class MemoryFiles:
    """directory: only this user can enter it; holds a directory for each image that is shown."""

    directory: Path = DIRECTORY

    def clear(self) -> None:
        """Removes what an agent that was killed has left; call it before anything is shown."""
        for left in self.directory.iterdir() if self.directory.is_dir() else ():
            unmount([left / _NAME])
            shutil.rmtree(left, ignore_errors=True)

    @contextmanager
    def shown(self, ref: VolumeRef, path: Path, cancel: Cancellation) -> Iterator[Path]:
        """The image at a path, decrypted, as a file. When the block ends well, all that was written is in the image.

        Raises FailedPreconditionError (WRONG_KEY, VOLUME_IN_USE), and what `qemu_storage_daemon.mounted` raises.
        """
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.directory) as name:
            file = Path(name, _NAME)
            file.touch()
            export = Export(path, ref.format, ref.key, file, new_owner=True)
            with qemu_img.translated(path, path), mounted([export], cancel):
                yield file


MEMORY_FILES = MemoryFiles()
