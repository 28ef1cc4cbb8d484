"""The file format of a key backup: a key file, encrypted under the operator's passphrase.

The CLI derives a wrapping key from the passphrase (scrypt); the control plane receives that key and returns the
encrypted file. Neither the passphrase nor the key-encryption keys travel, and the file alone reveals nothing.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ostler_common.errors import InvalidArgumentError, bad_field
from ostler_common.secret import Secret

FORMAT = "ostler-kek-backup-1"
MIN_PASSPHRASE_LENGTH = 12
_KEY_BYTES, _SALT_BYTES, _NONCE_BYTES = 32, 16, 12
_MAX_FILE_BYTES = 1 << 20


@dataclass(frozen=True)
class Stretching:
    """The parameters that derive a key from a passphrase: scrypt, RFC 7914 (uses 128 * n * r bytes of memory)."""

    salt: bytes
    n: int = 1 << 17
    r: int = 8
    p: int = 1

    def check(self) -> None:
        """Raises InvalidArgumentError BACKUP_INVALID for parameters that are too weak or use too much memory."""
        power_of_two = self.n & (self.n - 1) == 0
        if not (power_of_two and 1 << 14 <= self.n <= 1 << 20 and 8 <= self.r <= 16 and 1 <= self.p <= 4):
            raise bad_field("stretching", "is out of range", "BACKUP_INVALID")
        if len(self.salt) < _SALT_BYTES:
            raise bad_field("stretching.salt", f"must be at least {_SALT_BYTES} bytes", "BACKUP_INVALID")

    def key(self, passphrase: Secret) -> Secret:
        """Derives the wrapping key; takes about a second and 128 MiB. Raises what `check` raises."""
        from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

        self.check()
        return Secret(Scrypt(self.salt, _KEY_BYTES, self.n, self.r, self.p).derive(passphrase.reveal()))


def new_stretching() -> Stretching:
    """Returns the default parameters with a new salt."""
    return Stretching(secrets.token_bytes(_SALT_BYTES))


@dataclass(frozen=True)
class Backup:
    """A backup that is not decrypted yet. keys: ids of the key versions in it; time: creation time, RFC 3339."""

    keys: tuple[str, ...]
    time: str
    stretching: Stretching
    nonce: bytes
    sealed: bytes

    def open(self, wrapping_key: Secret) -> Secret:
        """Decrypts the key file's content. Raises InvalidArgumentError BACKUP_NOT_OPENED."""
        from cryptography.exceptions import InvalidTag

        try:
            return Secret(_cipher(wrapping_key).decrypt(self.nonce, self.sealed, self._header()))
        except InvalidTag:
            raise InvalidArgumentError(
                "cannot decrypt the backup: the passphrase is wrong, or the file was changed", "BACKUP_NOT_OPENED"
            ) from None

    def text(self) -> bytes:
        """The content of the backup file."""
        sealed = {"nonce": _text(self.nonce), "sealed": _text(self.sealed)}
        return json.dumps({**json.loads(self._header()), **sealed}, indent=1).encode() + b"\n"

    def _header(self) -> bytes:
        """The associated data that authenticates the encrypted part."""
        stretching = self.stretching
        scrypt = {"salt": _text(stretching.salt), "n": stretching.n, "r": stretching.r, "p": stretching.p}
        return json.dumps({"format": FORMAT, "time": self.time, "keys": list(self.keys), "scrypt": scrypt}).encode()


def seal(content: Secret, keys: Sequence[str], time: str, wrapping_key: Secret, stretching: Stretching) -> Backup:
    """Encrypts a key file's content. Raises InvalidArgumentError BACKUP_INVALID."""
    stretching.check()
    nonce = secrets.token_bytes(_NONCE_BYTES)
    blank = Backup(tuple(keys), time, stretching, nonce, b"")
    sealed = _cipher(wrapping_key).encrypt(nonce, content.reveal(), blank._header())
    return Backup(blank.keys, time, stretching, nonce, sealed)


def parse(data: bytes) -> Backup:
    """Parses the content of a backup file. Raises InvalidArgumentError BACKUP_INVALID."""
    try:
        if len(data) > _MAX_FILE_BYTES:
            raise ValueError
        found: Mapping[str, Any] = json.loads(data)
        if found["format"] != FORMAT:
            raise ValueError
        scrypt = found["scrypt"]
        numbers = [scrypt[name] for name in "nrp"]
        if not all(isinstance(number, int) for number in numbers):
            raise ValueError
        stretching = Stretching(_bytes(scrypt["salt"]), *numbers)
        keys = tuple(str(key) for key in found["keys"])
        backup = Backup(keys, str(found["time"]), stretching, _bytes(found["nonce"]), _bytes(found["sealed"]))
    except (ValueError, KeyError, TypeError):
        raise InvalidArgumentError(
            "the file is not a key backup (`ostler key backup` creates one)", "BACKUP_INVALID"
        ) from None
    stretching.check()
    return backup


def _cipher(wrapping_key: Secret) -> Any:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    if len(wrapping_key.reveal()) != _KEY_BYTES:
        raise bad_field("wrapping_key", f"must be {_KEY_BYTES} bytes", "BACKUP_INVALID")
    return AESGCM(wrapping_key.reveal())


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
