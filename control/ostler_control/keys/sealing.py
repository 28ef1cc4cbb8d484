"""Content at rest: encrypted under a passphrase of its own, which the key-encryption key seals."""

from __future__ import annotations

import secrets
from base64 import b64decode

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from ostler_common.errors import FailedPreconditionError
from ostler_common.secret import Secret

_NONCE_BYTES = 12


def seal(passphrase: Secret, content: bytes, row_id: str) -> bytes:
    """Content under AES-256-GCM, bound to the row that it belongs to."""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + AESGCM(b64decode(passphrase.reveal())).encrypt(nonce, content, row_id.encode())


def unseal(passphrase: Secret, sealed: bytes, row_id: str, what: str, remedy: str) -> bytes:
    """The content; raises FailedPreconditionError SEAL_BROKEN when it was changed or is another row's.

    what, remedy: for the message, such as "the user data" and "register it again".
    """
    try:
        return AESGCM(b64decode(passphrase.reveal())).decrypt(
            sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], row_id.encode()
        )
    except (InvalidTag, ValueError):  # it may also be too short
        raise FailedPreconditionError(f"{what} in the database was damaged; {remedy}", "SEAL_BROKEN") from None
