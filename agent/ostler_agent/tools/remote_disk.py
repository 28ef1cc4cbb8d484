"""Disks of a server that ssh reaches, as one flat disk on a local NBD socket.

nbdkit reads each image file of a chain through sftp, which every sshd has: nothing runs and no file changes on the
server, and a connection that breaks is opened again where the reading stood. qemu-storage-daemon joins the chain. It
gets each image and its format from the caller: an image that a header names and the caller does not is never opened.
QEMU would open what a header names as its data file, so such an image is refused; nbdkit keeps a copy of the header
that was checked, so that the server cannot show QEMU another one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ostler_common.errors import AbortedError, FailedPreconditionError, InvalidArgumentError, OstlerError, bad_field
from ostler_common.image_header import HEAD_BYTES, SECTOR_BYTES, check_iterations, luks_offset, parse_qcow2
from ostler_common.secret import Secret

from ostler_agent.error_tail import ErrorTail
from ostler_agent.keyfile import KeyFile
from ostler_agent.process import Cancellation, Limits, RunError, daemon, run
from ostler_agent.spec import DiskFormat
from ostler_agent.tools.backing_chain import Backing, backing_of
from ostler_agent.tools.nbd import NbdExport
from ostler_agent.tools.ssh import CONNECT_TIMEOUT_S, SshServer, explained

MAX_LAYERS = 64
MAX_PATH_BYTES = 1024
_RETRIES = 20  # nbdkit doubles the delay each time up to a minute: about 15 minutes in all
_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 30.0
_READ_TIMEOUT_S = 120.0
_LUKS_HEAD_BYTES = 4096
_KEY_NAME = "key{}"
# What libssh says of a file that the server does not show.
_UNREADABLE = (
    ("SFTP server: Permission denied", "may not be read by {server.username} on {server.host}"),
    ("SFTP server: No such file", "is not on {server.host}"),
)
_LIMITS = Limits(cpu_s=7 * 24 * 3600, memory_bytes=4 << 30)  # what bounds the time is the job's timeout


@dataclass(frozen=True)
class Layer:
    """An image file on the server. passphrase: for LUKS, within qcow2 or as the whole of a raw file.

    Raises InvalidArgumentError INVALID_PATH.
    """

    path: str
    format: DiskFormat
    passphrase: Secret | None = None

    def __post_init__(self) -> None:
        plain = len(self.path.encode()) <= MAX_PATH_BYTES and self.path.isprintable()
        if not plain or not self.path.startswith("/") or ".." in PurePosixPath(self.path).parts:
            raise bad_field("path", 'must be absolute, printable and without ".."', "INVALID_PATH")


@dataclass(frozen=True)
class ChainImage:
    """An image of a chain. encrypted: with LUKS, within qcow2."""

    path: str
    format: DiskFormat
    encrypted: bool


def read_chain(
    server: SshServer, path: str, format: DiskFormat, directory: Path, cancel: Cancellation
) -> tuple[ChainImage, ...]:
    """The images that an image consists of, by their headers: itself first, its base last.

    directory: see `served`. Raises FailedPreconditionError NOT_AN_IMAGE, BACKING_FILE_REFUSED, DATA_FILE_REFUSED,
    CHAIN_TOO_LONG, DISK_UNREADABLE; UnavailableError SSH_FAILED and what else `ssh.explained` tells.
    """
    found: list[ChainImage] = []
    below: Backing | None = Backing(path, format)
    while below is not None:
        if len(found) == MAX_LAYERS:
            raise FailedPreconditionError(
                f"{path} has more than {MAX_LAYERS} images below it", "CHAIN_TOO_LONG", {"path": path}
            )
        layer = Layer(below.path, below.format)
        with _nbdkit(server, layer, directory / f"chain{len(found)}", cancel) as file:
            head = file.read(0, HEAD_BYTES, cancel)
        encrypted = layer.format is DiskFormat.QCOW2 and _check_header(layer, head)
        found.append(ChainImage(layer.path, layer.format, encrypted))
        below = backing_of(layer.path, head) if layer.format is DiskFormat.QCOW2 else None
    return tuple(found)


@contextmanager
def served(server: SshServer, layers: Sequence[Layer], directory: Path, cancel: Cancellation) -> Iterator[NbdExport]:
    """Serves a chain, read-only, while the block lasts; yields its export.

    layers: the guest's own image first, its base last; directory: empty, only this user can enter it. Stay in one
    thread within the block. Raises InvalidArgumentError INVALID_CHAIN; AbortedError SOURCE_CHANGED when a header names
    another image below it than the next layer; FailedPreconditionError NOT_AN_IMAGE, DATA_FILE_REFUSED,
    BACKING_FILE_REFUSED, KEY_MISSING, STRETCHED_TOO_LONG; what `read_chain` raises.
    """
    if not 0 < len(layers) <= MAX_LAYERS:
        raise bad_field("layers", f"must be 1 to {MAX_LAYERS} images", "INVALID_CHAIN")
    with ExitStack() as stack:
        sockets = [
            stack.enter_context(_file(server, layer, below, directory / f"file{number}", cancel))
            for number, (layer, below) in enumerate(zip(layers, [*layers[1:], None], strict=True))
        ]
        yield stack.enter_context(_joined(layers, sockets, directory, cancel))


@contextmanager
def _file(server: SshServer, layer: Layer, below: Layer | None, place: Path, cancel: Cancellation) -> Iterator[Path]:
    """Serves one file of the server as it is, once its header is checked."""
    with _nbdkit(server, layer, place, cancel) as file:
        _check(layer, below, file, cancel)
        _checking(place).unlink()
        yield file.socket


@dataclass(frozen=True)
class _File:
    """A file of the server that nbdkit serves. errors: nbdkit's error output."""

    server: SshServer
    layer: Layer
    socket: Path
    errors: ErrorTail

    def read(self, offset: int, count: int, cancel: Cancellation) -> bytes:
        """Reads bytes. offset: a multiple of a sector. Raises DISK_UNREADABLE; what `ssh.explained` tells."""
        try:
            return _read(self.socket, offset, count, cancel)
        except RunError as error:
            raise self._explained(self.errors.text() or error.stderr) from None

    def _explained(self, said: str) -> OstlerError:
        for text, what in _UNREADABLE:
            if text in said:
                return _refused(self.layer, what.format(server=self.server), "DISK_UNREADABLE")
        return explained(self.server.host, said)


@contextmanager
def _nbdkit(server: SshServer, layer: Layer, place: Path, cancel: Cancellation) -> Iterator[_File]:
    """Serves one file. While `_checking(place)` exists, nbdkit keeps what is read, in a nameless file beside it."""
    socket, ready = place.with_suffix(".sock"), place.with_suffix(".pid")
    _checking(place).touch()
    with server.credentials() as credentials:
        command: list[str | Path] = [
            "nbdkit", "--foreground", "--readonly", "--unix", socket, "--pidfile", ready,
            "--filter=cow", "--filter=retry", "ssh",
            f"host={server.host}", f"port={server.port}", f"user={server.username}", f"path={layer.path}",
            f"identity={credentials.private_key}", f"known-hosts={credentials.known_hosts}", "verify-remote-host=true",
            f"timeout={CONNECT_TIMEOUT_S}", f"retries={_RETRIES}", "retry-delay=1", f"cow-on-read={_checking(place)}",
        ]  # fmt: skip
        with daemon(
            command,
            env={"TMPDIR": str(place.parent)},
            ready=ready,
            start_timeout_s=_START_TIMEOUT_S,
            stop_timeout_s=_STOP_TIMEOUT_S,
            cancel=cancel,
        ) as nbdkit:
            yield _File(server, layer, socket, nbdkit.errors)


def _checking(place: Path) -> Path:
    return place.with_suffix(".checking")


def _check(layer: Layer, below: Layer | None, file: _File, cancel: Cancellation) -> None:
    head = file.read(0, HEAD_BYTES, cancel)
    if layer.format is DiskFormat.QCOW2:
        if _check_header(layer, head) and not layer.passphrase:
            raise _refused(layer, "is encrypted, and no LUKS passphrase was given", "KEY_MISSING")
        named = backing_of(layer.path, head)
    else:
        named = None
    if named != (Backing(below.path, below.format) if below else None):
        raise AbortedError(
            f"{layer.path} has another image below it than when it was inspected; import the VM again",
            "SOURCE_CHANGED",
            {"path": layer.path},
        )
    if layer.passphrase:
        _check_luks(layer, head, file, cancel)


def _check_header(layer: Layer, head: bytes) -> bool:
    """Whether a qcow2 image is encrypted. Raises FailedPreconditionError NOT_AN_IMAGE, DATA_FILE_REFUSED."""
    header = parse_qcow2(head)
    if header is None or not header.complete:
        raise _refused(layer, "is not a qcow2 image", "NOT_AN_IMAGE")
    if header.has_external_data_file:
        raise _refused(layer, "keeps its data in another file", "DATA_FILE_REFUSED")
    if header.is_encrypted and not header.is_luks:
        raise _refused(layer, "is encrypted in a way that is not LUKS", "NOT_AN_IMAGE")
    return header.is_encrypted


def _check_luks(layer: Layer, head: bytes, file: _File, cancel: Cancellation) -> None:
    offset = luks_offset(head)
    if offset is None:
        raise _refused(layer, "is not encrypted with LUKS, although a passphrase was given", "NOT_AN_IMAGE")
    luks = file.read(offset // SECTOR_BYTES * SECTOR_BYTES, _LUKS_HEAD_BYTES, cancel) if offset else head
    try:
        check_iterations(luks)
    except InvalidArgumentError as error:
        raise _refused(layer, f"cannot be opened: {error.message}", error.reason) from None


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


def _refused(layer: Layer, what: str, reason: str) -> FailedPreconditionError:
    return FailedPreconditionError(f"{layer.path} {what}", reason, {"path": layer.path})


@contextmanager
def _joined(
    layers: Sequence[Layer], sockets: Sequence[Path], directory: Path, cancel: Cancellation
) -> Iterator[NbdExport]:
    socket, ready = directory / "disk.sock", directory / "disk.pid"
    command: list[str | Path] = ["qemu-storage-daemon", "--pidfile", ready]
    descriptors: list[int] = []
    with ExitStack() as stack:
        for number, (layer, file) in reversed(list(enumerate(zip(layers, sockets, strict=True)))):
            if layer.passphrase:
                key = stack.enter_context(KeyFile(layer.passphrase))
                descriptors.append(key.fd)
                command += ["--object", f"secret,id={_KEY_NAME.format(number)},file={key.path}"]
            base = number + 1 if number + 1 < len(layers) else None
            for node in _nodes(layer, number, file, base):
                command += ["--blockdev", json.dumps(node)]
        command += ["--nbd-server", f"addr.type=unix,addr.path={str(socket).replace(',', ',,')}"]
        command += ["--export", "type=nbd,id=disk,node-name=image0,name=disk,writable=off"]
        stack.enter_context(
            daemon(
                command,
                ready=ready,
                start_timeout_s=_START_TIMEOUT_S,
                stop_timeout_s=_STOP_TIMEOUT_S,
                pass_fds=descriptors,
                limits=_LIMITS,
                cancel=cancel,
            )
        )
        yield NbdExport(socket, "disk")


def _nodes(layer: Layer, number: int, socket: Path, base: int | None) -> list[dict[str, object]]:
    """QEMU's nodes of one image. The backing file is always stated, also that there is none."""
    server = {"type": "unix", "path": str(socket)}
    file: dict[str, object] = {
        "driver": "nbd", "node-name": f"file{number}", "server": server, "read-only": True,
        "reconnect-delay": 60,
    }  # fmt: skip
    image: dict[str, object] = {"node-name": f"image{number}", "file": f"file{number}", "read-only": True}
    if layer.format is DiskFormat.QCOW2:
        image |= {"driver": "qcow2", "backing": f"image{base}" if base is not None else None}
        if layer.passphrase:
            image["encrypt"] = {"format": "luks", "key-secret": _KEY_NAME.format(number)}
    elif layer.passphrase:
        image |= {"driver": "luks", "key-secret": _KEY_NAME.format(number)}
    else:
        image |= {"driver": "raw"}
    return [file, image]
