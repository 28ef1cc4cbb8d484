"""Disks of another host, as one flat disk on a local NBD socket.

A `FileServer` shows each image file of a chain as it is; qemu-storage-daemon joins the chain. It gets each image and
its format from the caller: an image that a header names and the caller does not is never opened. QEMU would open what a
header names as its data file, so such an image is refused; what was read of a header while it was checked is what QEMU
sees later, so that the other host cannot show it another one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from ostler_common.errors import AbortedError, FailedPreconditionError, InvalidArgumentError, bad_field
from ostler_common.image_header import HEAD_BYTES, SECTOR_BYTES, check_iterations, luks_offset, parse_qcow2
from ostler_common.secret import Secret

from ostler_agent.keyfile import KeyFile
from ostler_agent.process import Cancellation, Limits, daemon
from ostler_agent.spec import DiskFormat
from ostler_agent.tools.backing_chain import Backing, backing_of
from ostler_agent.tools.nbd import NbdExport

MAX_LAYERS = 64
MAX_PATH_BYTES = 1024
_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 30.0
_LUKS_HEAD_BYTES = 4096
_KEY_NAME = "key{}"
_LIMITS = Limits(cpu_s=7 * 24 * 3600, memory_bytes=4 << 30)  # what bounds the time is the job's timeout


class ServedFile(Protocol):
    """A file of another host on a local NBD socket."""

    @property
    def socket(self) -> Path: ...

    def read(self, offset: int, count: int, cancel: Cancellation) -> bytes:
        """Reads bytes, fewer at the end of the file; whoever reads the socket sees the same ones. offset: a multiple of
        a sector. Raises FailedPreconditionError DISK_UNREADABLE; what the connection raises."""

    def end_checks(self) -> None:
        """From now on bytes need not be kept to be the same when they are read again."""


class FileServer(Protocol):
    """The way to files of another host."""

    def open(self, path: str, place: Path, cancel: Cancellation) -> AbstractContextManager[ServedFile]:
        """Serves a file, read-only, while the block lasts. place: its socket is beside it, with a suffix."""


@dataclass(frozen=True)
class Layer:
    """An image file on the other host. passphrase: for LUKS, within qcow2 or as the whole of a raw file.

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
    files: FileServer, path: str, format: DiskFormat, directory: Path, cancel: Cancellation
) -> tuple[ChainImage, ...]:
    """The images that an image consists of, by their headers: itself first, its base last.

    directory: see `served`. Raises FailedPreconditionError NOT_AN_IMAGE, BACKING_FILE_REFUSED, DATA_FILE_REFUSED,
    CHAIN_TOO_LONG; what `ServedFile.read` raises.
    """
    found: list[ChainImage] = []
    below: Backing | None = Backing(path, format)
    while below is not None:
        if len(found) == MAX_LAYERS:
            raise FailedPreconditionError(
                f"{path} has more than {MAX_LAYERS} images below it", "CHAIN_TOO_LONG", {"path": path}
            )
        layer = Layer(below.path, below.format)
        with files.open(layer.path, directory / f"chain{len(found)}", cancel) as file:
            head = file.read(0, HEAD_BYTES, cancel)
        encrypted = layer.format is DiskFormat.QCOW2 and _check_header(layer, head)
        found.append(ChainImage(layer.path, layer.format, encrypted))
        below = backing_of(layer.path, head) if layer.format is DiskFormat.QCOW2 else None
    return tuple(found)


@contextmanager
def served(files: FileServer, layers: Sequence[Layer], directory: Path, cancel: Cancellation) -> Iterator[NbdExport]:
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
            stack.enter_context(_file(files, layer, below, directory / f"file{number}", cancel))
            for number, (layer, below) in enumerate(zip(layers, [*layers[1:], None], strict=True))
        ]
        yield stack.enter_context(_joined(layers, sockets, directory, cancel))


@contextmanager
def _file(files: FileServer, layer: Layer, below: Layer | None, place: Path, cancel: Cancellation) -> Iterator[Path]:
    """Serves one file of the other host as it is, once its header is checked."""
    with files.open(layer.path, place, cancel) as file:
        _check(layer, below, file, cancel)
        file.end_checks()
        yield file.socket


def _check(layer: Layer, below: Layer | None, file: ServedFile, cancel: Cancellation) -> None:
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


def _check_luks(layer: Layer, head: bytes, file: ServedFile, cancel: Cancellation) -> None:
    offset = luks_offset(head)
    if offset is None:
        raise _refused(layer, "is not encrypted with LUKS, although a passphrase was given", "NOT_AN_IMAGE")
    luks = file.read(offset // SECTOR_BYTES * SECTOR_BYTES, _LUKS_HEAD_BYTES, cancel) if offset else head
    try:
        check_iterations(luks)
    except InvalidArgumentError as error:
        raise _refused(layer, f"cannot be opened: {error.message}", error.reason) from None


def _refused(layer: Layer, what: str, reason: str) -> FailedPreconditionError:
    return FailedPreconditionError(f"{layer.path} {what}", reason, {"path": layer.path})


@contextmanager
def _joined(
    layers: Sequence[Layer], sockets: Sequence[Path], directory: Path, cancel: Cancellation
) -> Iterator[NbdExport]:
    command: list[str | Path] = []
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
        yield stack.enter_context(storage_daemon(command, "image0", directory, descriptors, cancel))


@contextmanager
def storage_daemon(
    arguments: Sequence[str | Path], node: str, directory: Path, pass_fds: Sequence[int], cancel: Cancellation
) -> Iterator[NbdExport]:
    """Runs qemu-storage-daemon with these arguments; yields a node of theirs as an export."""
    socket, ready = directory / "disk.sock", directory / "disk.pid"
    command = ["qemu-storage-daemon", "--pidfile", ready, *arguments]
    command += ["--nbd-server", f"addr.type=unix,addr.path={str(socket).replace(',', ',,')}"]
    command += ["--export", f"type=nbd,id=disk,node-name={node},name=disk,writable=off"]
    with daemon(
        command,
        ready=ready,
        start_timeout_s=_START_TIMEOUT_S,
        stop_timeout_s=_STOP_TIMEOUT_S,
        pass_fds=pass_fds,
        limits=_LIMITS,
        cancel=cancel,
    ):
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
