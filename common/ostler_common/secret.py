"""Secret bytes."""

from __future__ import annotations

import hmac
import secrets
from base64 import b64encode


class Secret:
    """Holds secret bytes; prints as stars, compares in constant time, refuses to be pickled."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = value

    def reveal(self) -> bytes:
        """The bytes; only for the place that passes them on."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._value, other._value)

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a Secret cannot be pickled")


def new_passphrase() -> Secret:
    """32 random bytes as base64 text: QEMU wants a passphrase that is valid UTF-8."""
    return Secret(b64encode(secrets.token_bytes(32)))
