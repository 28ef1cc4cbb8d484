"""Files of a server that ssh reaches: nbdkit reads them through sftp, which every sshd has. Nothing runs and no file
changes on the server, and a connection that breaks is opened again where the reading stood."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ostler_common.errors import FailedPreconditionError, OstlerError
from ostler_common.image_header import SECTOR_BYTES

from ostler_agent.error_tail import ErrorTail
from ostler_agent.process import Cancellation, RunError, daemon, run
from ostler_agent.tools.ssh import CONNECT_TIMEOUT_S, SshServer, explained

_RETRIES = 20  # nbdkit doubles the delay each time up to a minute: about 15 minutes in all
_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 30.0
_READ_TIMEOUT_S = 120.0
# What libssh says of a file that the server does not show.
_UNREADABLE = (
    ("SFTP server: Permission denied", "may not be read by {server.username} on {server.host}"),
    ("SFTP server: No such file", "is not on {server.host}"),
)


@dataclass(frozen=True)
class SshFiles:
    """The `remote_disk.FileServer` of a server that ssh reaches."""

    server: SshServer

    @contextmanager
    def open(self, path: str, place: Path, cancel: Cancellation) -> Iterator[SshFile]:
        """See `remote_disk.FileServer.open`. While `checking` exists, nbdkit keeps what is read, in a nameless file
        beside it."""
        server = self.server
        socket, ready, checking = (place.with_suffix(suffix) for suffix in (".sock", ".pid", ".checking"))
        checking.touch()
        with server.credentials() as credentials:
            command: list[str | Path] = [
                "nbdkit", "--foreground", "--readonly", "--unix", socket, "--pidfile", ready,
                "--filter=cow", "--filter=retry", "ssh",
                f"host={server.host}", f"port={server.port}", f"user={server.username}", f"path={path}",
                f"identity={credentials.private_key}", f"known-hosts={credentials.known_hosts}",
                "verify-remote-host=true", f"timeout={CONNECT_TIMEOUT_S}", f"retries={_RETRIES}", "retry-delay=1",
                f"cow-on-read={checking}",
            ]  # fmt: skip
            with daemon(
                command,
                env={"TMPDIR": str(place.parent)},
                ready=ready,
                start_timeout_s=_START_TIMEOUT_S,
                stop_timeout_s=_STOP_TIMEOUT_S,
                cancel=cancel,
            ) as nbdkit:
                yield SshFile(server, path, socket, checking, nbdkit.errors)


@dataclass(frozen=True)
class SshFile:
    """The `remote_disk.ServedFile` that nbdkit serves. errors: nbdkit's error output."""

    server: SshServer
    path: str
    socket: Path
    checking: Path
    errors: ErrorTail

    def read(self, offset: int, count: int, cancel: Cancellation) -> bytes:
        """See `remote_disk.ServedFile.read`. Raises DISK_UNREADABLE; what `ssh.explained` tells."""
        try:
            return _read(self.socket, offset, count, cancel)
        except RunError as error:
            raise self._explained(self.errors.text() or error.stderr) from None

    def end_checks(self) -> None:
        """See `remote_disk.ServedFile.end_checks`."""
        self.checking.unlink()

    def _explained(self, said: str) -> OstlerError:
        for text, what in _UNREADABLE:
            if text in said:
                message = f"{self.path} {what.format(server=self.server)}"
                return FailedPreconditionError(message, "DISK_UNREADABLE", {"path": self.path})
        return explained(self.server.host, said)


def _read(socket: Path, offset: int, count: int, cancel: Cancellation) -> bytes:
    """Reads bytes of a file that is served. offset: a multiple of a sector."""
    file = os.memfd_create("head", os.MFD_CLOEXEC)
    try:
        sectors = [f"bs={SECTOR_BYTES}", f"skip={offset // SECTOR_BYTES}", f"count={count // SECTOR_BYTES}"]
        source = [f"if=nbd+unix:///?socket={socket}", f"of=/proc/self/fd/{file}"]
        command = ["qemu-img", "dd", "-f", "raw", "-O", "raw", *sectors, *source]
        run(command, pass_fds=[file], timeout_s=_READ_TIMEOUT_S, cancel=cancel)
        return os.pread(file, count, 0)
    finally:
        os.close(file)
