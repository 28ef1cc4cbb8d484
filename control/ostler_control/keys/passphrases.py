"""The passphrases' rows: never without their volume, never gone before its file.

`create` and `destroy` work within the caller's transaction, together with the volume's row; that transaction commits
before an agent makes the file, or after it has removed it. So a crash at any line leaves a row too many at most for a
volume that has one, and never a file that nobody can open.
"""

from __future__ import annotations

from typing import Any

from ostler_common.secret import Secret, new_passphrase

from ostler_control.database import session, transaction
from ostler_control.keys.providers import KeyProvider
from ostler_control.models import Passphrase, Volume


class Keyring:
    """Makes, opens and destroys passphrases under a provider's key."""

    def __init__(self, provider: KeyProvider) -> None:
        self._provider = provider

    def create(self, volume_id: str) -> Passphrase:
        """A new passphrase for a volume whose row is made in the same transaction. Its id is the key's."""
        sealed = self._provider.seal(new_passphrase(), volume_id.encode())
        return Passphrase.create(kek_id=self._provider.kek_id, sealed=sealed)

    def open(self, volume: Any) -> Secret:
        """The volume's passphrase: for the call that sends it to a host, and for nothing else."""
        with session():
            row = Passphrase.get_by_id(volume.passphrase_id)
        return self._provider.open(row.kek_id, bytes(row.sealed), volume.id.encode())

    def sweep(self) -> int:
        """Deletes passphrases that no volume refers to; returns how many. There are none, unless someone had a hand in
        the database: rows are made and deleted together."""
        used = Volume.select(Volume.passphrase).where(Volume.passphrase.is_null(False))
        with transaction():
            count: int = Passphrase.delete().where(Passphrase.id.not_in(used)).execute()
            return count


def delete_volume(volume: Any) -> None:
    """Deletes the row of a volume whose file is gone, and its passphrase: within the caller's transaction."""
    Volume.delete().where(Volume.id == volume.id).execute()
    if volume.passphrase_id:
        Passphrase.delete().where(Passphrase.id == volume.passphrase_id).execute()
