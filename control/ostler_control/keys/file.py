"""The provider `file`: key-encryption keys in a file, passphrases sealed here."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Sequence
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from ostler_common.errors import FailedPreconditionError, InternalError, OstlerError
from ostler_common.secret import Secret

from ostler_control.keys import key_file
from ostler_control.keys.key_file import FileKey
from ostler_control.keys.providers import Opener, Sealed, kek_missing

_NONCE_BYTES = 12


class FixedKeys:
    """Keys that were read once, from a backup or a key file: they only open passphrases."""

    def __init__(self, keys: Sequence[FileKey]) -> None:
        self._ciphers = _ciphers(keys)

    def open(self, kek_id: str, data: bytes, associated: bytes) -> Secret:
        if kek_id not in self._ciphers:
            raise kek_missing(kek_id, list(self._ciphers))
        return _unseal(self._ciphers[kek_id], data, associated)


class FileProvider:
    """AES-256-GCM under the keys of a file, with a random nonce each time.

    The file is read again when it has changed, and when a version is needed that was not in it. Keys that were read
    once stay in use when the file goes away, until the process ends.
    """

    kind = "file"

    def __init__(self, path: Path, *, writable: bool = True) -> None:
        """writable: whether `add_version` and `remove_version` may change the file; systemd credentials are copies.

        Raises FailedPreconditionError (KEK_MISSING, KEK_INVALID) when there is no key in the file.
        """
        self._path = path
        self._writable = writable
        self._lock = threading.Lock()
        self._stamp: tuple[int, int, int] | None = None
        self._keys: dict[str, AESGCM] = {}
        self._load()

    def versions(self) -> list[str]:
        return list(self._load())

    def local_versions(self) -> list[str]:
        return list(self._load())

    def stored_versions(self) -> list[str]:
        return [key.id for key in key_file.read(self._path)]

    def stored(self) -> Opener:
        return FixedKeys(key_file.read(self._path))

    def prepare(self, kek_id: str) -> None:
        pass

    def seal(self, kek_id: str, secret: Secret, associated: bytes) -> bytes:
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._cipher(kek_id).encrypt(nonce, secret.reveal(), associated)

    def open(self, kek_id: str, data: bytes, associated: bytes) -> Secret:
        return _unseal(self._cipher(kek_id), data, associated)

    def reseal(self, kek_id: str, items: Sequence[Sealed]) -> list[bytes | OstlerError]:
        self._cipher(kek_id)

        def one(item: Sealed) -> bytes | OstlerError:
            try:
                return self.seal(kek_id, self.open(item.kek_id, item.data, item.associated), item.associated)
            except OstlerError as error:
                return error

        return [one(item) for item in items]

    def add_version(self) -> str:
        if not self._writable:
            raise key_file.read_only(self._path, "it is a systemd credential")
        return key_file.change(self._path, lambda keys: (key_file.new_key(), *keys))[0].id

    def removed_together(self, kek_id: str, others: Sequence[str]) -> list[str]:
        return []

    def remove_version(self, kek_id: str) -> bool:
        if not self._writable:
            return False
        left = key_file.change(self._path, lambda keys: [key for key in keys if key.id != kek_id])
        with self._lock:
            self._keys = _ciphers(left)
            self._stamp = None
        return True

    def export(self) -> Secret:
        return Secret(key_file.render(key_file.read(self._path)))

    def _cipher(self, kek_id: str) -> AESGCM:
        keys = self._keys if kek_id in self._keys else self._load()
        if kek_id not in keys:
            raise kek_missing(kek_id, list(keys))
        return keys[kek_id]

    def _load(self) -> dict[str, AESGCM]:
        """The file's keys; those read before when the file is gone or broken now."""
        with self._lock:
            try:
                stat = self._path.stat()
                stamp = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
                if stamp != self._stamp:
                    found = _ciphers(key_file.read(self._path))
                    self._keys, self._stamp = found, stamp
            except (OSError, FailedPreconditionError):
                if not self._keys:
                    key_file.read(self._path)  # raises the error that says what is wrong
                    raise
            return self._keys


def _ciphers(keys: Sequence[FileKey]) -> dict[str, AESGCM]:
    return {key.id: AESGCM(key.key.reveal()) for key in keys}


def _unseal(cipher: AESGCM, data: bytes, associated: bytes) -> Secret:
    try:
        return Secret(cipher.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], associated))
    except (InvalidTag, ValueError):
        raise InternalError("a sealed passphrase was modified, or belongs to another volume", "SEAL_BROKEN") from None
