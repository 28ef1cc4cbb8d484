"""VMs exported from vCenter or ESXi into a staging directory, by ovftool."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from ostler_common.errors import FailedPreconditionError, NotFoundError, bad_field

from ostler_agent.conversion.deadline import deadline
from ostler_agent.conversion.staging import StagingDirectories, StagingRef, is_regular, is_staged_name
from ostler_agent.files import fsync_directory, fsync_file
from ostler_agent.jobs import JobContext, interrupted
from ostler_agent.tools import ovftool

_TARGET = "vm.ovf"  # the disks are then vm-disk1.vmdk and so on, whatever the VM is called
_EXPORTING = ".export"
_PHASE = "exporting the VM"
_SERVER = re.compile(r"([A-Za-z0-9][A-Za-z0-9.-]{0,252}|\[[0-9A-Fa-f:]{2,45}\])(:[0-9]{1,5})?")
_MOREF = re.compile(r"[A-Za-z0-9_-]{1,80}")
_THUMBPRINT = re.compile(r"([0-9A-Fa-f]{2}:){19}(([0-9A-Fa-f]{2}:){12})?[0-9A-Fa-f]{2}")
_MAX_USERNAME_CHARS = 256
_MAX_PASSWORD_BYTES = 1024


class Exports:
    """Exports VMs; safe to use from many threads."""

    def __init__(self, staging: StagingDirectories) -> None:
        self._staging = staging

    def export(self, job: JobContext, ref: StagingRef, source: ovftool.Source, threads: int, timeout_s: float) -> None:
        """Exports a VM that is powered off; a failed export leaves no file.

        Raises InvalidArgumentError; FailedPreconditionError (STAGING_NOT_EMPTY, EXPORT_INCOMPLETE, OVFTOOL_UNUSABLE);
        DeadlineExceededError (EXPORT_TIMEOUT); what `ovftool.export` and `StagingDirectories.using` raise.
        """
        _check_source(source)
        if not 0 <= threads <= ovftool.MAX_THREADS:
            raise bad_field("parallel_threads", f"must be 0 to {ovftool.MAX_THREADS}")
        ovftool.check_version()
        with self._staging.using(ref) as directory, deadline(job, timeout_s, "export"):
            exporting = directory / _EXPORTING
            if exporting.exists() or any(directory.glob("*.ovf")):
                raise FailedPreconditionError(
                    "the staging directory holds an export already (use a new one)", "STAGING_NOT_EMPTY"
                )
            exporting.mkdir(mode=0o700)
            try:
                job.report(_PHASE)
                ovftool.export(
                    source,
                    exporting / _TARGET,
                    threads=threads,
                    progress=lambda percent: job.report(_PHASE, percent=min(99, percent)),
                    cancel=job,
                )
                job.check()
                _publish(exporting, directory)
            finally:
                shutil.rmtree(exporting)

    def recover(self, ref: StagingRef) -> None:
        """Undoes an `export` that was running when the agent died. Raises UnavailableError (INTERRUPTED)."""
        try:
            with self._staging.using(ref) as directory:
                shutil.rmtree(directory / _EXPORTING, ignore_errors=True)
        except NotFoundError:
            pass
        raise interrupted()


def _publish(exporting: Path, directory: Path) -> None:
    """Moves what was exported up, the descriptor last: where there is one, all it names is there.

    Some versions of ovftool put the files into a directory named after the descriptor.
    """
    descriptors = [*exporting.glob("*.ovf"), *exporting.glob("*/*.ovf")]
    if len(descriptors) != 1:
        raise FailedPreconditionError("ovftool ended well but left no OVF descriptor", "EXPORT_INCOMPLETE")
    files = sorted(descriptors[0].parent.iterdir(), key=lambda path: path == descriptors[0])
    for path in files:
        if is_staged_name(path.name) and is_regular(path):
            fsync_file(path)
            path.rename(directory / path.name)
    fsync_directory(directory)


def _check_source(source: ovftool.Source) -> None:
    """Raises InvalidArgumentError for what could mean something else to ovftool than it should."""
    if not _SERVER.fullmatch(source.server):
        raise bad_field("server", 'must be a host name or address, with ":port" if it is not 443')
    if not 1 <= len(source.username) <= _MAX_USERNAME_CHARS or not source.username.isprintable():
        raise bad_field("username", f"must be 1 to {_MAX_USERNAME_CHARS} printable characters")
    password = source.password.reveal()
    if not 1 <= len(password) <= _MAX_PASSWORD_BYTES or b"\n" in password or b"\0" in password:
        raise bad_field("password", f"must be 1 to {_MAX_PASSWORD_BYTES} bytes without a line break")
    if not _THUMBPRINT.fullmatch(source.thumbprint):
        raise bad_field("thumbprint", "must be 20 or 32 pairs of hex digits, separated by colons")
    if not _MOREF.fullmatch(source.moref):
        raise bad_field("vm_moref", 'must be a managed object id like "vm-42"')
