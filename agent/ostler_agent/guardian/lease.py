"""A host's lease: a small file in a shared pool. Its guardian writes a new number into it every few seconds, and other
hosts read whether the number still changes. Times of different machines are never compared.

Reads and writes bypass the page cache, so that what one host has written is what another one reads. Both may hang with
the storage.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from ostler_agent.pools import fingerprint

SIZE = 4096  # a block of every kind of storage; the text fits into one sector, which is written as a whole


@dataclass(frozen=True)
class Place:
    """Where a host's lease is. directory: the pool's; mark: its fingerprint, without which it is another directory."""

    directory: Path
    mark: str
    host_id: str

    @property
    def name(self) -> str:
        return f".ostler-lease.{self.host_id}"


@dataclass(frozen=True)
class Lease:
    """What a lease says. term: names one life of a guardian; number: grows with each renewal; released: the guardian
    has ended in an orderly way, and nobody guards the VMs now."""

    term: str
    number: int
    released: bool = False


def write(place: Place, lease: Lease) -> None:
    """Writes a lease, durably. Raises OSError; also when the pool is not mounted, or its file system cannot do without
    the page cache."""
    text = json.dumps(asdict(lease)).encode()
    with _directory(place) as directory, mmap.mmap(-1, SIZE) as block:
        block.write(text)
        flags = os.O_WRONLY | os.O_CREAT | os.O_DIRECT | os.O_DSYNC | os.O_CLOEXEC | os.O_NOFOLLOW
        file = os.open(place.name, flags, 0o600, dir_fd=directory)
        try:
            if os.pwritev(file, [block], 0) != SIZE:
                raise OSError(f"{place.directory}: the lease was written in part only")
        finally:
            os.close(file)


def read(place: Place) -> Lease | None:
    """Reads a lease from the storage; None if there is none or it makes no sense. Raises OSError."""
    with _directory(place) as directory, mmap.mmap(-1, SIZE) as block:
        try:
            file = os.open(place.name, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=directory)
        except FileNotFoundError:
            return None
        try:
            length = os.preadv(file, [block], 0)
        finally:
            os.close(file)
        return _parse(block[:length].rstrip(b"\0"))


def _parse(text: bytes) -> Lease | None:
    try:
        data = json.loads(text)
        return Lease(str(data["term"]), int(data["number"]), bool(data["released"]))
    except (ValueError, KeyError, TypeError):
        return None


@contextmanager
def _directory(place: Place) -> Iterator[int]:
    """The pool's directory, once its mark was found in it: below a pool that is not mounted there is another one."""
    directory = os.open(place.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        mark = os.open(fingerprint.NAME, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
        try:
            found = os.read(mark, 256).decode(errors="replace").strip()
        finally:
            os.close(mark)
        if found != place.mark:
            raise OSError(f"{place.directory} is not the pool any more: its mark is {found or 'missing'}")
        yield directory
    finally:
        os.close(directory)
