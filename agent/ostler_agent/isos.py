"""The host's copies of ISO images, which QEMU reads for the CD-ROM drives of VMs.

They are a cache like that of the templates, in a directory that QEMU can pass, under the same path on every host: a VM
finds them wherever it moves. A copy is only ever read, as raw data. A running VM keeps the file open, so that a copy
may go while it is in a drive; the next start brings it back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from ostler_agent.jobs import JobContext
from ostler_agent.spec import Cdrom, DiskFormat, VmSpec
from ostler_agent.templates import Download, Templates, TemplateSource

# Not below the agent's private state: QEMU must be able to pass.
ISO_DIR = Path("/var/lib/ostler/isos")


class Isos:
    """download: reads an ISO image by its id, as it does a template; directory: where the copies are."""

    def __init__(self, download: Download, directory: Path = ISO_DIR) -> None:
        self._download = download
        self._directory = directory
        self._copies: Templates | None = None

    @contextmanager
    def hold(self, spec: VmSpec, job: JobContext) -> Iterator[VmSpec]:
        """Yields the specification with the paths of its ISO images, and keeps the copies within the block.

        Raises what `Templates.hold` raises.
        """
        with ExitStack() as held:
            yield replace(spec, cdroms=tuple(held.enter_context(self.hold_one(cdrom, job)) for cdrom in spec.cdroms))

    @contextmanager
    def hold_one(self, cdrom: Cdrom, job: JobContext) -> Iterator[Cdrom]:
        """The same for one ISO image."""
        source = TemplateSource(cdrom.iso_id, cdrom.sha256, cdrom.file_size_bytes, DiskFormat.RAW)
        with self._cache().hold(job, source) as copy:
            copy.path.chmod(0o644)
            yield replace(cdrom, path=copy.path)

    def name(self, spec: VmSpec) -> VmSpec:
        """The specification with the paths that its ISO images will have when the VM starts."""
        return replace(spec, cdroms=tuple(replace(one, path=self._directory / one.sha256) for one in spec.cdroms))

    def _cache(self) -> Templates:
        if self._copies is None:
            self._copies = Templates(self._directory, self._download)
            self._directory.chmod(0o711)
        return self._copies
