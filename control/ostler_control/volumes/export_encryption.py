"""Encryption of content that leaves Ostler: the caller chooses, and nothing is decrypted without being asked for."""

from __future__ import annotations

from dataclasses import dataclass

from ostler_common.errors import FailedPreconditionError, InvalidArgumentError, bad_field
from ostler_common.secret import Secret

from ostler_control import events
from ostler_control.volumes.sources import Source, SourceRow

_MIN_BYTES, _MAX_BYTES = 8, 512


@dataclass(frozen=True)
class ExportEncryption:
    """decrypt: write it unencrypted; passphrase: re-encrypt it under this one. Neither: the caller chose nothing."""

    decrypt: bool = False
    passphrase: Secret | None = None

    @property
    def encrypt_format(self) -> str:
        """Of the exported file: luks | none."""
        return "luks" if self.passphrase else "none"


def check_new_passphrase(field: str, value: bytes) -> Secret | None:
    """A passphrase that the caller has chosen for a new file; None for b"".

    Raises InvalidArgumentError: INVALID_PASSPHRASE.
    """
    passphrase = check_known_passphrase(field, value)
    if passphrase and len(value) < _MIN_BYTES:
        raise bad_field(field, f"must have at least {_MIN_BYTES} bytes", "INVALID_PASSPHRASE")
    return passphrase


def check_known_passphrase(field: str, value: bytes) -> Secret | None:
    """A passphrase that opens an existing file; None for b"". Raises InvalidArgumentError: INVALID_PASSPHRASE."""
    if not value:
        return None
    if len(value) > _MAX_BYTES:
        raise bad_field(field, f"must have at most {_MAX_BYTES} bytes", "INVALID_PASSPHRASE")
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise bad_field(field, "must be UTF-8 text", "INVALID_PASSPHRASE") from None
    if "\0" in text or "\n" in text:
        raise bad_field(field, "must be one line of text", "INVALID_PASSPHRASE")
    return Secret(value)


def check(encryption: ExportEncryption, source: SourceRow) -> None:
    """Checks the chosen encryption against the source.

    Raises InvalidArgumentError ENCRYPTION_AMBIGUOUS or ENCRYPTION_CHOICE_NOT_NEEDED, FailedPreconditionError
    ENCRYPTION_CHOICE_REQUIRED.
    """
    if encryption.decrypt and encryption.passphrase:
        raise InvalidArgumentError(
            "encryption: choose either decrypt or a passphrase, not both",
            "ENCRYPTION_AMBIGUOUS",
            {"field": "encryption"},
        )
    chosen = encryption.decrypt or encryption.passphrase is not None
    if source.passphrase_id and not chosen:
        raise FailedPreconditionError(
            f"{source.name} is encrypted; choose how to export it: encrypted under a passphrase of yours, or decrypted",
            "ENCRYPTION_CHOICE_REQUIRED",
        )
    if chosen and not source.passphrase_id:
        raise InvalidArgumentError(
            f"{source.name} is not encrypted, so no encryption can be chosen for its export; encrypt the exported file "
            "yourself, or encrypt the volume first",
            "ENCRYPTION_CHOICE_NOT_NEEDED",
            {"field": "encryption"},
        )


def record(encryption: ExportEncryption, source: Source, user: str, purpose: str, operation_id: str) -> None:
    """Records an event if content will leave unencrypted, in the transaction that allows it: before any byte does.

    purpose: "a download as raw".
    """
    if encryption.decrypt:
        events.record(
            "volume.decrypted",
            events.Outcome.STARTED,
            user,
            source.kind,
            source.row.id,
            source.row.name,
            f"the content of {source.title} leaves unencrypted, for {purpose}",
            operation_id=operation_id,
            account_id=source.row.account_id,
        )
