"""Files on their way to and from the control plane: digests, progress, and nothing half done under its final name."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import click
from ostler_common import image_header
from ostler_common.errors import AlreadyExistsError, InternalError

from ostler_control.cli import text

CHUNK_BYTES = 1 << 20


def detect_format(source: BinaryIO) -> tuple[str, bool]:
    """The format that a file appears to have (qcow2 | raw), and whether it is encrypted."""
    source.seek(0)
    return image_header.detect_format(source.read(image_header.HEAD_BYTES))


def pieces(source: BinaryIO) -> Iterator[bytes]:
    """The file's bytes from the beginning, as the API takes them."""
    source.seek(0)
    while data := source.read(CHUNK_BYTES):
        yield data


def digest(source: BinaryIO, advance: Callable[[int], None]) -> str:
    """SHA-256 of a file, hex."""
    sha256 = hashlib.sha256()
    for data in pieces(source):
        sha256.update(data)
        advance(len(data))
    return sha256.hexdigest()


@contextmanager
def progress(title: str, size_bytes: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal; one line elsewhere. Gives what is told how many bytes more are done."""
    if not sys.stderr.isatty():
        click.echo(f"{title} of {text.size(size_bytes)}", err=True)
        yield lambda done: None
        return
    from ostler_control.cli.waiting import bar

    with bar("") as shown:
        task = shown.add_task(title, total=size_bytes)
        yield lambda done: shown.advance(task, done)


@contextmanager
def percentage(title: str) -> Iterator[Callable[[int], None]]:
    """The same for work whose size is not known; gives what is told the percentage."""
    if not sys.stderr.isatty():
        click.echo(title, err=True)
        yield lambda percent: None
        return
    from ostler_control.cli.waiting import bar

    with bar("") as shown:
        task = shown.add_task(title, total=100)
        yield lambda percent: shown.update(task, completed=percent)


def create_private(path: Path) -> BinaryIO:
    """A new file that only its owner can read: it may hold a disk in clear.

    It replaces what a killed run left there, rather than write to a file that somebody else may have open.
    """
    path.unlink(missing_ok=True)
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "w+b")


class Digest:
    """Of bytes that come in pieces: how many, and their SHA-256."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self.size_bytes = 0

    def add(self, data: bytes) -> None:
        self._sha256.update(data)
        self.size_bytes += len(data)

    def check(self, size_bytes: int, sha256: str, name: str) -> None:
        """Raises InternalError DAMAGED when they are not what was sent. name: of the file, for people."""
        if (self.size_bytes, self._sha256.hexdigest()) != (size_bytes, sha256):
            raise InternalError(f"{name} was damaged on its way and is not kept; try again", "DAMAGED")


class Receiver:
    """A file that comes in pieces: written beside its place, and put there once it is whole and verified."""

    def __init__(self, path: Path, force: bool) -> None:
        """Raises AlreadyExistsError FILE_EXISTS for a file that is there, unless `force`."""
        self._path, self._force = path, force
        self._part = path.with_name(f".{path.name}.{os.getpid()}.part")
        self._digest = Digest()
        if not force and path.exists():
            raise _exists(path)

    @property
    def size_bytes(self) -> int:
        return self._digest.size_bytes

    def __enter__(self) -> Receiver:
        self._file = create_private(self._part)
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()
        self._part.unlink(missing_ok=True)

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.add(data)

    def keep(self, size_bytes: int, sha256: str) -> None:
        """Gives the file its name. Raises InternalError DAMAGED when it is not what was sent, AlreadyExistsError."""
        self._digest.check(size_bytes, sha256, str(self._path))
        self._file.flush()
        os.fsync(self._file.fileno())
        if self._force:
            os.replace(self._part, self._path)
            return
        try:
            os.link(self._part, self._path)  # never over a file that came meanwhile
        except FileExistsError:
            raise _exists(self._path) from None


def _exists(path: Path) -> AlreadyExistsError:
    return AlreadyExistsError(f"{path} already exists; --force overwrites it", "FILE_EXISTS")
