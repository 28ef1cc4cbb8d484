"""How the content of encrypted volumes leaves Ostler's keeping: the caller says it, nothing is decrypted silently."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ostler_common.errors import FailedPreconditionError, InvalidArgumentError, bad_field
from ostler_common.secret import Secret

from ostler_control import events
from ostler_control.volumes.sources import Source

_SHORTEST, _LONGEST = 8, 512


@dataclass(frozen=True)
class ExportEncryption:
    """decrypt: in clear; passphrase: re-encrypted under this one. Neither: nothing was said."""

    decrypt: bool = False
    passphrase: Secret | None = None

    @property
    def encrypt_format(self) -> str:
        """What the file that leaves is: luks | none."""
        return "luks" if self.passphrase else "none"


def check_new_passphrase(field: str, value: bytes) -> Secret | None:
    """A passphrase that the caller has chosen just now, None for b"".

    Raises InvalidArgumentError: INVALID_PASSPHRASE.
    """
    passphrase = check_known_passphrase(field, value)
    if passphrase and len(value) < _SHORTEST:
        raise bad_field(field, f"must have at least {_SHORTEST} bytes", "INVALID_PASSPHRASE")
    return passphrase


def check_known_passphrase(field: str, value: bytes) -> Secret | None:
    """A passphrase that opens a file already, None for b"". Raises InvalidArgumentError: INVALID_PASSPHRASE."""
    if not value:
        return None
    if len(value) > _LONGEST:
        raise bad_field(field, f"must have at most {_LONGEST} bytes", "INVALID_PASSPHRASE")
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise bad_field(field, "must be UTF-8 text", "INVALID_PASSPHRASE") from None
    if "\0" in text or "\n" in text:
        raise bad_field(field, "must be one line of text", "INVALID_PASSPHRASE")
    return Secret(value)


def check(encryption: ExportEncryption, source: Any) -> None:
    """Checks what is asked of the encryption against what the source has.

    Raises InvalidArgumentError ENCRYPTION_AMBIGUOUS or ENCRYPTION_CHOICE_NOT_NEEDED, FailedPreconditionError
    ENCRYPTION_CHOICE_REQUIRED.

    source: the volume or the snapshot whose content is to leave.
    """
    if encryption.decrypt and encryption.passphrase:
        raise InvalidArgumentError(
            "encryption: either decrypt it or give a passphrase, not both",
            "ENCRYPTION_AMBIGUOUS",
            {"field": "encryption"},
        )
    said = encryption.decrypt or encryption.passphrase is not None
    if source.passphrase_id and not said:
        raise FailedPreconditionError(
            f"{source.name} is encrypted; say how its content is to leave: under a passphrase of yours, or decrypted",
            "ENCRYPTION_CHOICE_REQUIRED",
        )
    if said and not source.passphrase_id:
        raise InvalidArgumentError(
            f"{source.name} is not encrypted, so there is nothing to say about how it leaves; "
            "encrypt the file that you get, or encrypt the volume first",
            "ENCRYPTION_CHOICE_NOT_NEEDED",
            {"field": "encryption"},
        )


def record(encryption: ExportEncryption, source: Source, user: str, what_for: str, operation_id: str) -> None:
    """Writes down that content is about to leave in clear, in the transaction that allows it: before a byte does.

    what_for: "a download as raw".
    """
    if encryption.decrypt:
        events.record(
            "volume.decrypted",
            events.Outcome.STARTED,
            user,
            source.kind,
            source.row.id,
            source.row.name,
            f"the content of {source.title} leaves unencrypted, for {what_for}",
            operation_id=operation_id,
            account_id=source.row.account_id,
        )
