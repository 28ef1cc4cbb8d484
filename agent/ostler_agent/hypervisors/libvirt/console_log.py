"""What guests print on their serial consoles: kept bounded, in memory, by libvirt's `<log>` element.

libvirt (its virtlogd, or QEMU itself) appends to one file for each VM, also while the agent does not run. The driver
trims the files: a VM has the current file, VM.log, and what came before it, VM.log.0, which is also the name that
virtlogd gives to a full file. Guests print secrets (generated passwords, what is typed), so the directory is memory
that only root can read: a stolen disk holds nothing of it.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path

import structlog

from ostler_agent.files import write_file
from ostler_agent.hypervisors.libvirt.key_directory import mount_memory
from ostler_agent.tools.mounts import mounts

log = structlog.get_logger(__name__)

DIRECTORY = Path("/run/ostler/consoles")
TRIM_ABOVE_BYTES = 256 * 1024
MAX_PREVIOUS_BYTES = 512 * 1024
TRIM_INTERVAL_S = 5.0
_MAX_READ_BYTES = 4 << 20
_LEFTOVER_AGE_S = 24 * 3600.0


class ConsoleLogs:
    """The logs of this host's VMs."""

    def __init__(self, directory: Path = DIRECTORY) -> None:
        self._directory = directory
        self._closed = threading.Event()

    def mount(self) -> None:
        """Mounts memory over the directory unless that was done before."""
        self._create()
        if not any(found.path == self._directory for found in mounts()):
            mount_memory("ostler-consoles", self._directory, "0700")

    def open(self) -> None:
        """Creates the directory, and trims the logs until `close`."""
        self._create()
        threading.Thread(target=self._keep_trimmed, name="console-logs", daemon=True).start()

    def close(self) -> None:
        """Ends the trimming. libvirt continues to write."""
        self._closed.set()

    def path(self, vm_id: str) -> Path:
        """The file that libvirt appends to."""
        return self._directory / f"{vm_id}.log"

    def mark_start(self, vm_id: str) -> None:
        """Appends a line that says when the VM starts, so that boots can be told apart. Without room there is none."""
        line = f"\r\n[VM starts at {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}]\r\n".encode()
        try:
            file = os.open(self.path(vm_id), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            with open(file, "wb") as stream:
                stream.write(line)
        except OSError as error:
            log.warning("cannot mark a VM's start in its console log", vm=vm_id, error=error.strerror)

    def reader(self, vm_id: str) -> FileReader:
        """Reads a VM's log; one without a log reads as empty."""
        return FileReader(self.path(vm_id))

    def delete(self, vm_id: str) -> None:
        """Deletes a VM's log. Succeeds if there is none."""
        for path in self._directory.glob(f"{vm_id}.log*"):
            path.unlink(missing_ok=True)

    def sweep(self, known: Collection[str]) -> None:
        """Deletes old logs of VMs that this host does not know."""
        now = datetime.now(UTC).timestamp()
        for path in self._directory.glob("*.log"):
            if path.stem not in known and now - path.stat().st_mtime > _LEFTOVER_AGE_S:
                self.delete(path.stem)

    def trim(self) -> None:
        """Moves logs that are too long to their second file, and deletes what is older: that first, for the memory may
        be full."""
        for path in self._directory.glob("*.log.[1-9]*"):
            path.unlink(missing_ok=True)
        for path in self._directory.glob("*.log"):
            with contextlib.suppress(FileNotFoundError):  # its VM was deleted meanwhile
                if path.stat().st_size > TRIM_ABOVE_BYTES:
                    _keep_tail(path)
                    os.truncate(path, 0)  # its writer appends

    def _create(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory.chmod(0o700)

    def _keep_trimmed(self) -> None:
        while not self._closed.wait(TRIM_INTERVAL_S):
            try:
                self.trim()
            except OSError as error:
                log.warning("cannot trim console logs", error=error.strerror)


class FileReader:
    """`interaction.LogReader` on the files of one VM."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode: int | None = None
        self._offset = 0

    def read(self) -> bytes:
        """See `interaction.LogReader`."""
        first = self._inode is None
        try:
            with open(self._path, "rb") as file:
                state = os.fstat(file.fileno())
                moved = state.st_ino != self._inode or state.st_size < self._offset
                before = self._before(whole=first) if moved else b""
                self._inode, start = state.st_ino, 0 if moved else self._offset
                file.seek(max(start, state.st_size - _MAX_READ_BYTES))
                data = file.read(_MAX_READ_BYTES)
                self._offset = file.tell()
        except FileNotFoundError:
            return b""
        return before + data

    def _before(self, *, whole: bool) -> bytes:
        """What the second file has beyond what was read; b"" if that cannot be told."""
        second = previous(self._path)
        try:
            with open(second, "rb") as file:
                state = os.fstat(file.fileno())
                if whole:
                    return _tail(second, MAX_PREVIOUS_BYTES)
                if state.st_ino == self._inode or state.st_size < MAX_PREVIOUS_BYTES:  # it has its first byte
                    file.seek(self._offset)
                    return file.read(_MAX_READ_BYTES)
        except FileNotFoundError:
            pass
        return b""


def previous(path: Path) -> Path:
    """The file with what came before."""
    return path.with_name(f"{path.name}.0")


def _keep_tail(path: Path) -> None:
    """Replaces a log's second file; without room for another one, what came before goes first, or is not kept."""
    second, data = previous(path), _tail(path, MAX_PREVIOUS_BYTES)
    for _ in range(2):
        try:
            write_file(second, data)
            return
        except OSError as error:
            log.warning("cannot keep the older part of a console log", file=path.name, error=error.strerror)
            for old in (second, second.with_name(f"{second.name}.tmp")):
                old.unlink(missing_ok=True)


def _tail(path: Path, count: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - count))
        return file.read(count)
