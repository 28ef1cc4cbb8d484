"""Reads files in the disks of a backup. They are strangers' data: an appliance reads them, never this kernel.

Nothing clear is written: the appliance sees each disk through FUSE, and what it writes (a file system's journal is
replayed) goes to an encrypted image of its own, whose key is in memory only, or stays in memory. A killed agent's
leftovers are removed with those of conversions (`GuestConverter.clear`).
"""

from __future__ import annotations

import stat
import tempfile
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from ostler_common.errors import FailedPreconditionError, ResourceExhaustedError, bad_field
from ostler_common.secret import new_passphrase
from ostler_common.text import printable

from ostler_agent.conversion.file_systems import FileSystem, check_readable, file_systems, mount
from ostler_agent.conversion.guest_conversion import DISKS, GuestConverter
from ostler_agent.jobs import JobContext
from ostler_agent.pools import Pools
from ostler_agent.process import Limits
from ostler_agent.spec import DiskFormat, Key, VolumeRef
from ostler_agent.tools import guestfish, qemu_img, qemu_storage_daemon
from ostler_agent.tools.guestfish import Appliance
from ostler_agent.tools.qemu_storage_daemon import Export
from ostler_agent.volumes.checks import check_key_matches, check_passphrase_given
from ostler_agent.volumes.images import header_of
from ostler_agent.volumes.locks import VolumeLocks

MAX_DISKS, MAX_LAYERS = 64, 65
MAX_PATH_BYTES = 4096
MAX_NAMED = 256
MAX_FILES = 10_000
MAX_S = 6 * 3600.0
AT_ONCE = 2
_BATCH = 250
_ITER_TIME_MS = 10  # the key is random
# QEMU's program that opens the images; what the appliance may write in all.
_LIMITS = Limits(cpu_s=int(MAX_S), memory_bytes=8 << 30, file_bytes=2 << 30)
_SPARE_BYTES = 64 << 20


@dataclass(frozen=True)
class WantedFiles:
    """path: absolute, b"" for the file systems only; file_system: to which it belongs, "" to find out; content: the
    content, not a list."""

    path: bytes = b""
    file_system: str = ""
    content: bool = False


@dataclass(frozen=True)
class File:
    """A file in a directory."""

    name: bytes
    mode: int
    size_bytes: int
    modify_time_s: int


@dataclass(frozen=True)
class Found:
    """A part of the answer. more: the directory has further files; archive, size_bytes: of the content that follows;
    complete: this is the end."""

    phase: str = ""
    file_systems: tuple[FileSystem, ...] = ()
    files: tuple[File, ...] = ()
    more: bool = False
    archive: bool = False
    size_bytes: int = 0
    data: bytes = b""
    complete: bool = False


@dataclass(frozen=True)
class BackupFiles:
    """Safe to use from many threads. locks: those of `volumes.Volumes`; converter: whose directories are used."""

    pools: Pools
    locks: VolumeLocks
    converter: GuestConverter
    _room: threading.BoundedSemaphore = field(default_factory=lambda: threading.BoundedSemaphore(AT_ONCE))

    def read(
        self, job: JobContext, disks: Sequence[Sequence[VolumeRef]], wanted: WantedFiles
    ) -> Generator[Found, None, None]:
        """Yields what is found, part by part. disks: by slot; of each its file, and what that builds on.

        Raises InvalidArgumentError INVALID_FIELD; NotFoundError VOLUME_NOT_FOUND, FILE_NOT_FOUND,
        FILE_SYSTEM_NOT_FOUND; FailedPreconditionError WRONG_KEY, NOT_ENCRYPTED, TOOL_MISSING, NO_FILE_SYSTEM,
        FILE_SYSTEM_NEEDED, FILE_SYSTEM_UNREADABLE, FILE_NOT_READABLE; ResourceExhaustedError TOO_MANY_READS,
        RESULT_TOO_LARGE; AbortedError VOLUME_BUSY, FILES_UNREADABLE; DeadlineExceededError FILES_TIMEOUT; what
        job.check() raises.
        """
        check(disks, wanted)
        if not self._room.acquire(blocking=False):
            raise ResourceExhaustedError(
                f"the host already reads files of {AT_ONCE} backups (try again when one has ended)", "TOO_MANY_READS"
            )
        with ExitStack() as stack:
            stack.callback(self._room.release)
            yield Found(phase="opening the disks")
            directory, exports, size_bytes = self._exports(job, disks, stack)
            stack.enter_context(qemu_storage_daemon.mounted(exports, job, _LIMITS))
            yield Found(phase="starting the appliance")
            appliance = stack.enter_context(
                guestfish.appliance(
                    directory,
                    [export.mount_point for export in exports],
                    self.converter.cache_dir,
                    force_tcg=self.converter.needs_tcg(),
                    cancel=job,
                )
            )
            yield from _find(appliance, wanted, 2 * size_bytes + _SPARE_BYTES)
            yield Found(complete=True)

    def _exports(
        self, job: JobContext, disks: Sequence[Sequence[VolumeRef]], stack: ExitStack
    ) -> tuple[Path, list[Export], int]:
        """Where to work, what to show there, and the size of all disks."""
        for directory in (self.converter.work_dir, self.converter.cache_dir):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.pools.check_room_to_fetch(ref for chain in disks for ref in chain)
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="files.", dir=self.converter.work_dir)))
        (work / DISKS).mkdir()
        exports, total = [], 0
        for number, chain in enumerate(disks):
            layers, sizes = [], []
            for ref in chain:
                stack.enter_context(self.locks.shared(ref))
                path = stack.enter_context(self.pools.hold(ref, job))
                header = header_of(ref, path)
                check_key_matches(ref, header)
                layers.append(qemu_img.Layer(path, ref.key))
                sizes.append(header.virtual_size_bytes)
            overlay = work / f"overlay{number}"
            key = Key(f"overlay{number}", new_passphrase(), _ITER_TIME_MS)
            qemu_img.create(overlay, DiskFormat.QCOW2, sizes[0], key=key, cancel=job)
            mount_point = work / DISKS / str(number)
            mount_point.touch()
            exports.append(Export(overlay, DiskFormat.QCOW2, key, mount_point, parents=tuple(layers)))
            total += sizes[0]
        return work, exports, total


def check(disks: Sequence[Sequence[VolumeRef]], wanted: WantedFiles) -> None:
    """Raises InvalidArgumentError INVALID_FIELD."""
    if not 1 <= len(disks) <= MAX_DISKS:
        raise bad_field("disks", f"must be 1 to {MAX_DISKS} disks")
    for number, chain in enumerate(disks):
        if not 1 <= len(chain) <= MAX_LAYERS:
            raise bad_field(f"disks[{number}].layers", f"must be 1 to {MAX_LAYERS} files")
        for ref in chain:
            if ref.format is not DiskFormat.QCOW2:
                raise bad_field(f"disks[{number}].layers", "must be qcow2")
            check_passphrase_given(ref.key, f"disks[{number}].layers")
    ids = [ref.volume_id for chain in disks for ref in chain]
    if len(set(ids)) < len(ids):
        raise bad_field("disks", "must name every file once")
    if wanted.path and not (wanted.path.startswith(b"/") and b"\0" not in wanted.path):
        raise bad_field("path", 'must begin with "/" and not have NUL')
    if len(wanted.path) > MAX_PATH_BYTES:
        raise bad_field("path", f"must be at most {MAX_PATH_BYTES} bytes")
    if len(wanted.file_system) > MAX_NAMED or not wanted.file_system.isprintable():
        raise bad_field("file_system", f"must be at most {MAX_NAMED} printable characters")
    if (wanted.content or wanted.file_system) and not wanted.path:
        raise bad_field("path", "is required")


def _find(appliance: Appliance, wanted: WantedFiles, max_bytes: int) -> Iterator[Found]:
    yield Found(phase="looking for file systems")
    found = file_systems(appliance)
    if not wanted.path:
        yield Found(file_systems=tuple(found))
        return
    check_readable(found)
    yield Found(phase="mounting file systems in the appliance")
    mount(appliance, found, wanted.file_system)
    mode, size_bytes = _mode_and_size(appliance.ask("statns", wanted.path))
    if not wanted.content:
        yield from _listed(appliance, wanted.path, stat.S_ISDIR(mode))
    elif stat.S_ISDIR(mode):
        yield Found(phase="sending the directory", archive=True)
        yield from _sent(appliance, ("tar-out", wanted.path, "-", "numericowner:true"), max_bytes)
    elif stat.S_ISREG(mode):
        yield Found(phase="sending the file", size_bytes=size_bytes)
        yield from _sent(appliance, ("download", wanted.path, "-"), max_bytes)
    else:
        shown = printable(wanted.path.decode(errors="backslashreplace"))
        raise FailedPreconditionError(f"{shown} is neither a file nor a directory", "FILE_NOT_READABLE")


def _sent(appliance: Appliance, command: Sequence[bytes | str], max_bytes: int) -> Iterator[Found]:
    sent = 0
    for data in appliance.stream(*command):
        sent += len(data)
        if sent > max_bytes:
            raise ResourceExhaustedError(
                "the content is larger than the disks could hold (take a part of it, or restore the disk)",
                "RESULT_TOO_LARGE",
            )
        yield Found(data=data)


def _listed(appliance: Appliance, path: bytes, is_directory: bool) -> Iterator[Found]:
    if is_directory:
        names = sorted(name for name in appliance.ask("ls0", path, "-").split(b"\0") if name)
        places = [path.rstrip(b"/") + b"/" + name for name in names]
    else:
        names, places = [path.rstrip(b"/").rpartition(b"/")[2]], [path]
    more = len(names) > MAX_FILES
    for first in range(0, min(len(names), MAX_FILES), _BATCH):
        batch = slice(first, min(first + _BATCH, MAX_FILES))
        answer = appliance.ask_all([("lstatns", place) for place in places[batch]])
        records = answer.split(b"st_dev: ")[1:]
        files = [_file(name, record) for name, record in zip(names[batch], records, strict=True)]
        yield Found(files=tuple(files))
    yield Found(more=more)


def _file(name: bytes, record: bytes) -> File:
    fields = _fields(record)
    return File(name, fields[b"st_mode"], fields[b"st_size"], fields[b"st_mtime_sec"])


def _mode_and_size(record: bytes) -> tuple[int, int]:
    fields = _fields(record)
    return fields[b"st_mode"], fields[b"st_size"]


def _fields(record: bytes) -> dict[bytes, int]:
    """What guestfish prints of a file: lines of "name: number"."""
    found = (line.partition(b": ") for line in record.splitlines())
    return {name: int(value) for name, _, value in found if name.startswith(b"st_")}
