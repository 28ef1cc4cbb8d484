"""The file with the key-encryption keys: one per line, the newest first, each 32 bytes as base64.

A key's id is a digest of the key, so that the file holds nothing else. The order of lines matters only for a database
that knows none of the keys, and for a rotation, which looks for a new key in the first line.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import fcntl
import hashlib
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ostler_common import pki
from ostler_common.errors import FailedPreconditionError
from ostler_common.secret import Secret

KEY_BYTES = 32


@dataclass(frozen=True)
class FileKey:
    """A version of the key. id: "file:" and 16 hexadecimal digits of its SHA-256."""

    id: str
    key: Secret


def new_key() -> FileKey:
    """A new random key."""
    return _file_key(secrets.token_bytes(KEY_BYTES))


def parse(data: bytes, name: str) -> tuple[FileKey, ...]:
    """The keys in a file's content. Empty lines, and those that start with #, are ignored.

    name: the file's, for the error. Raises FailedPreconditionError KEK_INVALID, also when there is no key.
    """
    keys: dict[str, FileKey] = {}
    for number, line in enumerate(data.splitlines(), start=1):
        text = line.strip()
        if not text or text.startswith(b"#"):
            continue
        try:
            raw = base64.b64decode(text, validate=True)
        except binascii.Error:
            raw = b""
        if len(raw) != KEY_BYTES:
            raise FailedPreconditionError(
                f"{name}, line {number}, is not a key: it must be {KEY_BYTES} bytes as base64", "KEK_INVALID"
            )
        found = _file_key(raw)
        keys.setdefault(found.id, found)
    if not keys:
        raise FailedPreconditionError(
            f"{name} holds no key: it must have a line with {KEY_BYTES} bytes as base64", "KEK_INVALID"
        )
    return tuple(keys.values())


def render(keys: Sequence[FileKey]) -> bytes:
    """The content of a file with these keys, the newest first."""
    return b"".join(base64.b64encode(key.key.reveal()) + b"\n" for key in keys)


def read(path: Path) -> tuple[FileKey, ...]:
    """The keys of a file. Raises FailedPreconditionError: KEK_MISSING when it cannot be read, KEK_INVALID."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FailedPreconditionError(
            f"the key-encryption key {path} cannot be read: {error.strerror}; without it no encrypted volume opens "
            "(restore it: `ostler-control key-restore`)",
            "KEK_MISSING",
        ) from None
    return parse(data, str(path))


def create_key_file(path: Path) -> None:
    """Writes a file with a new key, mode 0600, durably. An existing file stays as it is."""
    with _locked(path):
        if not path.exists():
            _write(path, (new_key(),))


def change(path: Path, edit: Callable[[tuple[FileKey, ...]], Sequence[FileKey]]) -> tuple[FileKey, ...]:
    """Replaces the file's keys by what `edit` returns, atomically, durably, and under a lock.

    Raises what `read` raises, and FailedPreconditionError KEK_READ_ONLY when the file cannot be written.
    """
    try:
        with _locked(path):
            before = read(path)
            after = tuple(edit(before))
            if not after:
                path.unlink()
            elif after != before:
                _write(path, after)
            return after
    except OSError as error:
        raise read_only(path, error.strerror) from None


def add_missing(path: Path, keys: Sequence[FileKey]) -> list[str]:
    """Appends keys to a file, which is created if need be; returns the ids of those that it did not have."""
    with _locked(path):
        present = read(path) if path.exists() else ()
        missing = [key for key in keys if key.id not in {known.id for known in present}]
        if missing:
            _write(path, (*present, *missing))
        return [key.id for key in missing]


def read_only(path: Path, why: str | None) -> FailedPreconditionError:
    """The error for a key file that this process may not change."""
    return FailedPreconditionError(
        f"the control plane cannot change the key file {path} ({why}): create a new version with `ostler-control "
        "key-add`, replace the file with it, restart the control plane, then run `ostler key rotate` (docs/keys.md)",
        "KEK_READ_ONLY",
    )


def _file_key(raw: bytes) -> FileKey:
    return FileKey(f"file:{hashlib.sha256(raw).hexdigest()[:16]}", Secret(raw))


def _write(path: Path, keys: Sequence[FileKey]) -> None:
    for leftover in path.parent.glob(f".{path.name}.*"):
        leftover.unlink()  # of a writer that was killed: the lock excludes a live one
    owner = (path if path.exists() else path.parent).stat()
    pki.write_private(path, render(keys))
    if os.geteuid() == 0:
        os.chown(path, owner.st_uid, owner.st_gid)  # run by root, for a service that is another user


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds a lock on the file's directory against other threads and other commands on this machine."""
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
