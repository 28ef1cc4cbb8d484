"""Makes a guest boot here, on the very images that become its volumes; nothing clear is ever written."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ostler_agent.conversion.guest import domain_xml
from ostler_agent.jobs import JobContext
from ostler_agent.spec import Firmware, Provisioning, VolumeRef
from ostler_agent.tools import qemu_storage_daemon, virt_v2v
from ostler_agent.tools.qemu_storage_daemon import Export

MAX_WARNINGS = 50
FIRST_PERCENT = 50  # of the whole conversion, when the disks are copied
_DOMAIN = "guest.xml"
DISKS = "disks"  # the directory of a conversion in which its disks are mounted

# virt-v2v's messages, by their beginning: the phase that begins, percent of the whole conversion.
_PHASES = (
    ("Setting up", "preparing the conversion", 51),
    ("Opening", "starting the appliance", 52),
    ("Inspecting", "inspecting the guest", 60),
    ("Checking for sufficient", "checking the guest's free space", 65),
    ("Converting", "converting the guest", 66),
    ("Mapping", "trimming the guest's disks", 90),
    ("Closing", "finishing the conversion", 95),
)


class GuestDisk(Protocol):
    """A disk of a guest, as far as a conversion is concerned."""

    @property
    def target(self) -> VolumeRef: ...

    @property
    def provisioning(self) -> Provisioning: ...


@dataclass(frozen=True)
class GuestOptions:
    """How to convert a guest. arguments: further arguments for virt-v2v, see `guest.check_arguments`."""

    firmware: Firmware
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class GuestConverter:
    """Runs virt-v2v, which does its work in an appliance.

    work_dir: holds a directory for each conversion that runs; cache_dir: keeps the appliance from one conversion to the
    next; virtio_win: drivers for Windows guests, where there are any; needs_tcg: whether the appliance must do without
    KVM, asked each time.
    """

    work_dir: Path
    cache_dir: Path
    virtio_win: Path
    needs_tcg: Callable[[], bool] = field(default=lambda: False)

    def clear(self) -> None:
        """Removes the files and mounts of conversions that a killed agent left. Call it before any conversion runs."""
        self.work_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        for directory in self.work_dir.iterdir():
            disks = directory / DISKS
            qemu_storage_daemon.unmount(list(disks.iterdir()) if disks.is_dir() else [])
            shutil.rmtree(directory)

    def convert(
        self, job: JobContext, disks: Sequence[GuestDisk], images: Sequence[Path], options: GuestOptions
    ) -> tuple[str, ...]:
        """Converts a guest in place. Returns virt-v2v's warnings.

        images: where the disks were copied to, in their order, the boot disk first. Raises what `virt_v2v.convert` and
        `qemu_storage_daemon.mounted` raise.
        """
        warnings: list[str] = []
        self.cache_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="conversion.", dir=self.work_dir) as name:
            directory = Path(name)
            (directory / DISKS).mkdir()
            exports = [
                Export(
                    image,
                    disk.target.format,
                    disk.target.key,
                    directory / DISKS / str(number),
                    frees_space=disk.provisioning is not Provisioning.THICK,
                )
                for number, (disk, image) in enumerate(zip(disks, images, strict=True))
            ]
            for export in exports:
                export.mount_point.touch()
            # virt-v2v sees the directory as /tmp.
            shown = [Path("/tmp", DISKS, export.mount_point.name) for export in exports]  # noqa: S108
            (directory / _DOMAIN).write_text(domain_xml(shown, options.firmware))
            job.report("preparing the conversion", percent=FIRST_PERCENT)
            with qemu_storage_daemon.mounted(exports, job):
                virt_v2v.convert(
                    directory,
                    _DOMAIN,
                    self.cache_dir,
                    arguments=options.arguments,
                    virtio_win=self.virtio_win if self.virtio_win.exists() else None,
                    force_tcg=self.needs_tcg(),
                    on_message=lambda message: _heard(job, warnings, message),
                    cancel=job,
                )
        return tuple(warnings)


def _heard(job: JobContext, warnings: list[str], message: virt_v2v.Message) -> None:
    if message.kind == "warning" and len(warnings) < MAX_WARNINGS:
        warnings.append(message.text)
    for beginning, phase, percent in _PHASES:
        if message.kind == "message" and message.text.startswith(beginning):
            job.report(phase, percent=percent)
