"""The passphrases' rows: never without their volume, never gone before its file.

`create` and `destroy` work within the caller's transaction, together with the volume's row; that transaction commits
before an agent makes the file, or after it has removed it. So a crash at any line leaves a row too many at most for a
volume that has one, and never a file that nobody can open.
"""

from __future__ import annotations

from typing import Any

from ostler_common.errors import FailedPreconditionError
from ostler_common.secret import Secret, new_passphrase

from ostler_control import events
from ostler_control.database import session, transaction
from ostler_control.keys.providers import KeyProvider
from ostler_control.models import Kek, Passphrase, Pool, Snapshot, Template, Volume, VolumeFile

# What may refer to a passphrase.
HOLDERS: tuple[Any, ...] = (Volume, VolumeFile, Snapshot, Template, Pool)


def owner_column(model: Any) -> Any:
    """The column of a model of `HOLDERS` that has the associated data of its passphrase."""
    return model.volume_id if model in (VolumeFile, Snapshot) else model.id


class Keyring:
    """Makes, opens and destroys passphrases under a provider's key. Which version is current the database says."""

    def __init__(self, provider: KeyProvider) -> None:
        self.provider = provider

    def create(self, owner_id: str) -> Passphrase:
        """A new passphrase for a row made in the same transaction; the new row's id is the key's.

        owner_id: the volume's id, also for its snapshots and further files; a template's or pool's own id for
        these.
        Raises FailedPreconditionError KEK_MISSING when this control plane lacks the current version of the key.
        """
        return self.store(new_passphrase(), owner_id)

    def store(self, passphrase: Secret, owner_id: str) -> Passphrase:
        """`create` with a passphrase that somebody chose."""
        kek_id = self.current()
        sealed = self.provider.seal(kek_id, passphrase, owner_id.encode())
        return Passphrase.create(kek=kek_id, sealed=sealed, bound_id=owner_id)

    def open(self, row: Any) -> Secret:
        """The passphrase of a Volume, VolumeFile, Snapshot or Template, or a Pool's password: for the call that
        sends it to a host, and for nothing else."""
        owner_id = getattr(row, owner_column(type(row)).name)
        passphrase = self._row(row.passphrase_id)
        try:
            return self.provider.open(passphrase.kek_id, bytes(passphrase.sealed), owner_id.encode())
        except FailedPreconditionError:
            again = self._row(row.passphrase_id)
            if again.kek_id == passphrase.kek_id:
                raise
            # It was sealed under another version this moment, and the old one is gone already.
            return self.provider.open(again.kek_id, bytes(again.sealed), owner_id.encode())

    def _row(self, passphrase_id: str) -> Any:
        with session():
            return Passphrase.get_by_id(passphrase_id)

    def current(self) -> str:
        """Id of the version that passphrases are sealed under; in a new database the provider's newest becomes it.
        Within the caller's transaction."""
        kek = Kek.get_or_none(Kek.current)
        return kek.id if kek else self._made_current(self.provider.versions()[0])

    def _made_current(self, kek_id: str) -> str:
        """In a new database, and unless another control plane was faster; answers with what is current now."""
        Kek.insert(id=kek_id, name=kek_id, current=True).on_conflict_ignore().execute()
        current: str = Kek.get(Kek.current).id
        return current

    def prepare(self) -> None:
        """Does ahead what `create` would wait for: to be called outside transactions, now and then. Raises OstlerError
        when the provider cannot be asked."""
        newest = self.provider.versions()[0] if Kek.get_or_none(Kek.current) is None else ""
        with transaction():
            current = self._made_current(newest) if newest else self.current()
        self.provider.prepare(current)

    def sweep(self) -> int:
        """Deletes passphrases that no row refers to; returns how many. There are none, unless someone had a hand in
        the database: rows are made and deleted together."""
        with transaction():
            query = Passphrase.delete()
            for model in HOLDERS:
                query = query.where(
                    Passphrase.id.not_in(model.select(model.passphrase).where(model.passphrase.is_null(False)))
                )
            count: int = query.execute()
            return count


def delete_volume(volume: Any, actor: str) -> None:
    """Deletes the row of a volume whose file is gone, and its passphrase: within the caller's transaction."""
    Volume.delete().where(Volume.id == volume.id).execute()
    destroy(volume.passphrase_id, actor, volume, f"the file of volume {volume.name} is gone, and its key destroyed")


def destroy(passphrase_id: str | None, actor: str, volume: Any, message: str) -> None:
    """Deletes a passphrase that no row refers to any more, and records that: within the caller's transaction.

    None: a plain file had none, and nothing is recorded. volume: whose event it is.
    """
    if passphrase_id is None:
        return
    Passphrase.delete().where(Passphrase.id == passphrase_id).execute()
    events.record(
        "volume.key.destroy",
        events.Outcome.SUCCEEDED,
        actor,
        "volume",
        volume.id,
        volume.name,
        f"{message} (key {passphrase_id})",
        account_id=str(volume.account_id or ""),
    )
