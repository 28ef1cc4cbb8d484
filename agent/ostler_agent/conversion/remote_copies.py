"""Volumes made of the disks of a VM on another host: read through ssh or TLS, flat, encrypted from their first byte.

A VM that is off is read file by file; one that runs is read from a backup that its libvirt holds open, as of one
moment. Either way the source only lends: nothing stays there.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog
from ostler_common.errors import (
    AbortedError,
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidArgumentError,
    OstlerError,
    UnavailableError,
    bad_field,
)

from ostler_agent.conversion.deadline import deadline
from ostler_agent.conversion.disks import COPY_LIMITS, MAX_DISKS
from ostler_agent.conversion.remote_vms import RemoteServer, RemoteVms, files_of, libvirt_of
from ostler_agent.conversion.volume_set import ConversionReport, CopyProgress, VolumeSet, recover
from ostler_agent.jobs import JobContext
from ostler_agent.pools import Pools, Staging
from ostler_agent.process import RunError
from ostler_agent.spec import Provisioning, SourceFormat, VolumeRef
from ostler_agent.tools import qemu_img
from ostler_agent.tools.nbd import NbdExport
from ostler_agent.tools.remote_disk import MAX_LAYERS, Layer, served
from ostler_agent.tools.ssh import lasting_tunnel
from ostler_agent.tools.tls import TlsServer
from ostler_agent.tools.tls_disk import relayed
from ostler_agent.volumes.checks import check_passphrase_given, check_size
from ostler_agent.volumes.locks import VolumeLocks

log = structlog.get_logger(__name__)

_LIBVIRT_TIMEOUT_S = 120.0
_LAST_CHECK_TIMEOUT_S, _LAST_CHECK_PAUSE_S = 900.0, 5.0  # as long as the copy itself waits for a connection
_RECONNECT_S = 300  # how long a copy of a running VM waits for a connection that is cut
_TARGET = re.compile(r"[a-z]{1,8}[0-9]{0,4}", re.ASCII)
_WRONG_KEY = "cannot unlock any keyslot"


@dataclass(frozen=True)
class RemoteDiskCopy:
    """A disk and the volume to make of it. target: the disk's name in its VM's definition ("vda"); layers: its images,
    the guest's own first; size_bytes: of the volume."""

    target: str
    layers: tuple[Layer, ...]
    volume: VolumeRef
    size_bytes: int
    provisioning: Provisioning = Provisioning.THIN


@dataclass(frozen=True)
class RemoteVmCopy:
    """What is copied. copy_id: a UUID, names the copy at the source; running: whether the VM runs."""

    vm_id: str
    copy_id: str
    running: bool
    disks: tuple[RemoteDiskCopy, ...]


# Opens a disk, which has this number.
_OpenDisk = Callable[[int, RemoteDiskCopy], AbstractContextManager[NbdExport]]


@dataclass(frozen=True)
class RemoteCopies:
    """Copies VMs of other hosts. locks: those of `volumes.Volumes`."""

    pools: Pools
    locks: VolumeLocks
    vms: RemoteVms

    def copy(self, job: JobContext, server: RemoteServer, source: RemoteVmCopy, timeout_s: float) -> ConversionReport:
        """Makes all the volumes, or none. timeout_s: for each disk.

        Raises InvalidArgumentError (INVALID_FIELD, SOURCE_LARGER); AlreadyExistsError (VOLUME_EXISTS);
        FailedPreconditionError (VM_STATE, VM_NAME, WRONG_KEY, DISK_UNREADABLE); AbortedError (SOURCE_CHANGED,
        VOLUME_BUSY); ResourceExhaustedError (POOL_FULL); DeadlineExceededError (COPY_TIMEOUT, and where libvirt of the
        source is silent CHECK_TIMEOUT, BACKUP_TIMEOUT); what `libvirt_of` and `remote_disk.served` raise. Whatever it
        raises, nothing is left here.
        """
        _check(source.disks)
        started = time.monotonic()
        targets = [disk.volume for disk in source.disks]
        with self.locks.exclusive(*targets), self.vms.directory() as directory, ExitStack() as stack:
            volumes = VolumeSet(self.pools, targets)
            earlier = volumes.made(job.facts)
            if earlier is not None:
                return earlier
            for disk in source.disks:
                volumes.check_target(disk.volume, disk.size_bytes, disk.provisioning)
            progress = CopyProgress(job, [disk.size_bytes for disk in source.disks], 99)
            staged: list[Staging] = []
            with self._opened(job, server, source, directory) as open_disk:
                for number, disk in enumerate(source.disks):
                    place = self.pools.staging(disk.volume, disk.size_bytes, job, disk.provisioning)
                    staged.append(stack.enter_context(place))
                    with deadline(job, timeout_s, "copy"), open_disk(number, disk) as export:
                        _copy_disk(job, export, disk, staged[-1].path, progress.of_disk(number))
            return volumes.commit(job, staged, started)

    def recover(self, targets: Sequence[VolumeRef], facts: Mapping[str, str]) -> ConversionReport:
        """Finishes a `copy` that was running when the agent died, see `volume_set.recover`."""
        return recover(self.pools, self.locks, targets, facts)

    @contextmanager
    def _opened(
        self, job: JobContext, server: RemoteServer, source: RemoteVmCopy, directory: Path
    ) -> Iterator[_OpenDisk]:
        """How to open each of the disks, which stay as they are at one moment."""
        if source.running:
            with self._backup(job, server, source, directory) as open_disk:
                yield open_disk
            return
        with deadline(job, _LIBVIRT_TIMEOUT_S, "check"):
            _check_off(job, server, source, directory)
        yield lambda number, disk: _files(job, server, disk, directory / f"disk{number}")
        with deadline(job, _LAST_CHECK_TIMEOUT_S, "check"):
            _check_still_off(job, server, source, directory)

    @contextmanager
    def _backup(
        self, job: JobContext, server: RemoteServer, source: RemoteVmCopy, directory: Path
    ) -> Iterator[_OpenDisk]:
        """The disks as the source's QEMU serves them as of now."""
        paths = {disk.target: disk.layers[0].path for disk in source.disks}
        try:
            with deadline(job, _LIBVIRT_TIMEOUT_S, "backup"), libvirt_of(server, directory, job) as libvirt:
                if isinstance(server, TlsServer):
                    port = libvirt.begin_copy_tls(source.vm_id, source.copy_id, paths, server.host)
                else:
                    there = libvirt.begin_copy(source.vm_id, source.copy_id, paths)
            if isinstance(server, TlsServer):
                yield lambda number, disk: _relayed(job, server, port, disk, directory / f"disk{number}")
                return
            socket = directory / "copy.sock"
            with lasting_tunnel(server, {socket: there}, job):
                yield lambda number, disk: _nothing_to_open(NbdExport(socket, disk.target, _RECONNECT_S))
        finally:
            try:
                self.vms.end_copy(server, source.vm_id, source.copy_id)
            except OstlerError as error:  # whoever asked for the copy ends it later (EndRemoteCopy)
                log.warning("the copy of a VM was not ended at its source", vm=source.vm_id, reason=error.reason)


def _check_off(job: JobContext, server: RemoteServer, source: RemoteVmCopy, directory: Path) -> None:
    with libvirt_of(server, directory, job) as libvirt:
        if not libvirt.is_off(source.vm_id):
            raise AbortedError(
                "the VM was started at the source, so that its disks changed while they were copied; shut it down, or"
                " import it while it runs",
                "SOURCE_CHANGED",
            )


def _check_still_off(job: JobContext, server: RemoteServer, source: RemoteVmCopy, directory: Path) -> None:
    """Asks until the source answers or the job must stop: a copy of hours is not lost to a connection that is cut."""
    while True:
        try:
            _check_off(job, server, source, directory)
            return
        except (UnavailableError, DeadlineExceededError) as error:
            job.check()
            log.warning("the source of a copy is asked again", vm=source.vm_id, reason=error.reason)
            job.wait(_LAST_CHECK_PAUSE_S)


@contextmanager
def _nothing_to_open(export: NbdExport) -> Iterator[NbdExport]:
    yield export


@contextmanager
def _relayed(
    job: JobContext, server: TlsServer, port: int, disk: RemoteDiskCopy, directory: Path
) -> Iterator[NbdExport]:
    directory.mkdir(mode=0o700)
    try:
        with relayed(server, port, disk.target, directory, _RECONNECT_S, job) as export:
            yield export
    except RunError as error:
        raise _unreadable(disk, error) from error


@contextmanager
def _files(job: JobContext, server: RemoteServer, disk: RemoteDiskCopy, directory: Path) -> Iterator[NbdExport]:
    directory.mkdir(mode=0o700)
    try:
        with served(files_of(server, directory, job), disk.layers, directory, job) as export:
            yield export
    except RunError as error:
        if _WRONG_KEY in error.stderr:
            raise FailedPreconditionError(
                f"the passphrase does not open disk {disk.target}", "WRONG_KEY", {"disk": disk.target}
            ) from None
        raise _unreadable(disk, error) from error


def _copy_disk(
    job: JobContext, export: NbdExport, disk: RemoteDiskCopy, target: Path, progress: Callable[[float], None]
) -> None:
    found = qemu_img.info(export, SourceFormat.RAW)
    if found.virtual_size_bytes > disk.size_bytes:
        raise InvalidArgumentError(
            f"disk {disk.target} has {found.virtual_size_bytes} bytes, which do not fit in {disk.size_bytes}",
            "SOURCE_LARGER",
            {"disk": disk.target},
        )
    volume = disk.volume
    try:
        qemu_img.convert(
            export,
            SourceFormat.RAW,
            target,
            volume.format,
            key=volume.key,
            provisioning=disk.provisioning,
            progress=progress,
            cancel=job,
            limits=COPY_LIMITS,
        )
    except RunError as error:
        raise _unreadable(disk, error) from error
    if disk.size_bytes > found.virtual_size_bytes:
        thick = disk.provisioning is Provisioning.THICK
        qemu_img.resize(target, volume.format, disk.size_bytes, key=volume.key, allocate=thick, cancel=job)


def _unreadable(disk: RemoteDiskCopy, error: RunError) -> FailedPreconditionError:
    return FailedPreconditionError(
        f"disk {disk.target} cannot be read from the source: {error.stderr.strip()[-500:]}",
        "DISK_UNREADABLE",
        {"disk": disk.target},
    )


def _check(disks: Sequence[RemoteDiskCopy]) -> None:
    if not 1 <= len(disks) <= MAX_DISKS:
        raise bad_field("disks", f"must be 1 to {MAX_DISKS}")
    for number, disk in enumerate(disks):
        field = f"disks[{number}]"
        if not _TARGET.fullmatch(disk.target):
            raise bad_field(f"{field}.target", "must be a disk's name in its definition, like vda")
        if not 1 <= len(disk.layers) <= MAX_LAYERS:
            raise bad_field(f"{field}.images", f"must be 1 to {MAX_LAYERS}")
        check_size(disk.size_bytes)
        check_passphrase_given(disk.volume.key, f"{field}.volume.key")
    for name, values in (("target", [d.target for d in disks]), ("volume", [d.volume.volume_id for d in disks])):
        if len(set(values)) < len(disks):
            raise bad_field("disks", f"must differ in {name}")
