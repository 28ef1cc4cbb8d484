"""Where key-encryption keys come from."""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import os
import secrets
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from ostler_common.errors import FailedPreconditionError, InternalError
from ostler_common.secret import Secret

_KEY_BYTES = 32
_NONCE_BYTES = 12
CREDENTIAL = "ostler-kek"


class KeyProvider(Protocol):
    """Seals and opens passphrases under key-encryption keys that it keeps."""

    @property
    def kek_id(self) -> str:
        """Names the key that `seal` uses now; kept beside what was sealed."""

    def seal(self, secret: Secret, associated: bytes) -> bytes:
        """The secret, readable only by `open` with the same `associated` data."""

    def open(self, kek_id: str, sealed: bytes, associated: bytes) -> Secret:
        """What was sealed.

        Raises FailedPreconditionError KEK_MISSING when the provider does not have that key, InternalError
        SEAL_BROKEN when the bytes were changed or belong to something else.
        """


class FileProvider:
    """One 256-bit key in a file: base64, as `create_key_file` writes it. AES-256-GCM, a random nonce each time."""

    def __init__(self, path: Path) -> None:
        """Raises FailedPreconditionError when there is no key in the file."""
        key = _read_key(path)
        self._cipher = AESGCM(key.reveal())
        self.kek_id = f"file:{hashlib.sha256(key.reveal()).hexdigest()[:16]}"

    def seal(self, secret: Secret, associated: bytes) -> bytes:
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, secret.reveal(), associated)

    def open(self, kek_id: str, sealed: bytes, associated: bytes) -> Secret:
        if kek_id != self.kek_id:
            raise FailedPreconditionError(
                f"the passphrase is sealed under the key {kek_id}, and this control plane has {self.kek_id}; "
                "put that key's file back",
                "KEK_MISSING",
                {"kek_id": kek_id},
            )
        try:
            return Secret(self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], associated))
        except InvalidTag:
            raise InternalError(
                "a sealed passphrase was changed, or belongs to another volume", "SEAL_BROKEN"
            ) from None


def create_key_file(path: Path) -> None:
    """Writes a new key, mode 0600, durable when this returns. One that is there already stays."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    text = base64.b64encode(secrets.token_bytes(_KEY_BYTES)) + b"\n"
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(part, path)  # never over an older key: what it sealed could not be opened any more
    finally:
        part.unlink()
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def open_provider(state_dir: Path, kek_file: Path | None = None) -> KeyProvider:
    """The provider `file`: `kek_file`, else systemd's credential `ostler-kek`, else `kek` in the state directory."""
    return FileProvider(kek_file or _credential() or state_dir / "kek")


def _credential() -> Path | None:
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    path = Path(directory) / CREDENTIAL if directory else None
    return path if path and path.exists() else None


def _read_key(path: Path) -> Secret:
    try:
        key = base64.b64decode(path.read_bytes().strip(), validate=True)
    except OSError as error:
        raise FailedPreconditionError(
            f"the key-encryption key {path} cannot be read: {error.strerror}; without it no encrypted volume opens",
            "KEK_MISSING",
        ) from None
    except binascii.Error:
        key = b""
    if len(key) != _KEY_BYTES:
        raise FailedPreconditionError(f"{path} holds no key: it should be 32 bytes as base64", "KEK_INVALID")
    return Secret(key)
