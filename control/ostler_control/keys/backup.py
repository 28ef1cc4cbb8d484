"""Backing up the key file, reading a backup, restoring it."""

from __future__ import annotations

from pathlib import Path

from ostler_common import key_backup
from ostler_common.key_backup import Backup, Stretching
from ostler_common.secret import Secret

from ostler_control import events
from ostler_control.database import transaction
from ostler_control.keys import key_file
from ostler_control.keys.file import FixedKeys
from ostler_control.keys.passphrases import Keyring
from ostler_control.models import now


def create(keys: Keyring, wrapping_key: Secret, stretching: Stretching, actor: str) -> Backup:
    """A backup of all versions that this control plane has, recorded as an event.

    Raises FailedPreconditionError KEK_NOT_EXPORTABLE, InvalidArgumentError BACKUP_INVALID.
    """
    content = keys.provider.export()
    ids = [key.id for key in key_file.parse(content.reveal(), "the key file")]
    backup = key_backup.seal(content, ids, f"{now().isoformat(timespec='seconds')}Z", wrapping_key, stretching)
    with transaction():
        current = keys.current()
        events.record("key.backup", events.Outcome.SUCCEEDED, actor, "key", current, current, f"of {', '.join(ids)}")
    return backup


def read_keys(data: bytes, wrapping_key: Secret) -> FixedKeys:
    """The keys of a backup. Raises InvalidArgumentError: BACKUP_INVALID, BACKUP_NOT_OPENED."""
    return FixedKeys(_content(data, wrapping_key))


def restore(data: bytes, passphrase: Secret, path: Path) -> list[str]:
    """Appends a backup's keys to a key file; returns the ids of those that the file did not have.

    Raises InvalidArgumentError (BACKUP_INVALID, BACKUP_NOT_OPENED), FailedPreconditionError, OSError.
    """
    found = _content(data, key_backup.parse(data).stretching.key(passphrase))
    return key_file.add_missing(path, found)


def _content(data: bytes, wrapping_key: Secret) -> tuple[key_file.FileKey, ...]:
    return key_file.parse(key_backup.parse(data).open(wrapping_key).reveal(), "the backup")
