"""The passphrases' rows: never without their volume, never deleted before its file.

`create` and `destroy` work within the caller's transaction, together with the volume's row. That transaction commits
before an agent creates the file, or after it has deleted it. So a crash at any line may leave a passphrase without its
file, but never a file that nobody can open.
"""

from __future__ import annotations

from ostler_common.errors import FailedPreconditionError
from ostler_common.secret import Secret, new_passphrase
from peewee import Field

from ostler_control import events
from ostler_control.database import erase_deleted, session, transaction
from ostler_control.keys.providers import KeyProvider
from ostler_control.models import (
    BackupDisk,
    BackupFirmwareState,
    BackupTpm,
    FenceDevice,
    ImportDiskPassphrase,
    ImportSource,
    Kek,
    Passphrase,
    Pool,
    Snapshot,
    StoreBucket,
    Template,
    UserData,
    VmFirmwareState,
    VmSnapshotFirmwareState,
    VmSnapshotMemory,
    VmTpm,
    VmUserData,
    Volume,
    VolumeFile,
)
from ostler_control.prepared import Prepared

# The rows that may refer to a passphrase.
KeyHolder = (
    Volume
    | VolumeFile
    | Snapshot
    | BackupDisk
    | VmSnapshotMemory
    | Template
    | Pool
    | ImportSource
    | ImportDiskPassphrase
    | UserData
    | VmUserData
    | FenceDevice
    | StoreBucket
    | VmTpm
    | VmFirmwareState
    | VmSnapshotFirmwareState
    | BackupFirmwareState
    | BackupTpm
)
HOLDERS: tuple[type[KeyHolder], ...] = (
    Volume,
    VolumeFile,
    Snapshot,
    BackupDisk,
    VmSnapshotMemory,
    Template,
    Pool,
    ImportSource,
    ImportDiskPassphrase,
    UserData,
    VmUserData,
    FenceDevice,
    StoreBucket,
    VmTpm,
    VmFirmwareState,
    VmSnapshotFirmwareState,
    BackupFirmwareState,
    BackupTpm,
)


def owner_column(model: type[KeyHolder]) -> Field[str]:
    """The column that holds the associated data of a row's passphrase."""
    column: Field[str] = model.volume_id if issubclass(model, (VolumeFile, Snapshot)) else model.id
    return column


_CURRENT = Prepared(lambda value: Kek.select(Kek.id).where(Kek.current).limit(1))


class Keyring:
    """Creates, opens and deletes passphrases under a provider's key. The database says which version is current."""

    def __init__(self, provider: KeyProvider) -> None:
        self.provider = provider

    def create(self, owner_id: str) -> Passphrase:
        """A new random passphrase for a row inserted in the same transaction; its row's id is the key's.

        owner_id: the volume's id, also for its snapshots and further files; the id of the row itself for all others.
        Raises FailedPreconditionError KEK_MISSING when this control plane lacks the current version of the key.
        """
        return self.store(new_passphrase(), owner_id)

    def store(self, passphrase: Secret, owner_id: str) -> Passphrase:
        """Like `create`, with a passphrase that somebody chose."""
        kek_id = self.current()
        sealed = self.provider.seal(kek_id, passphrase, owner_id.encode())
        return Passphrase.create(kek=kek_id, sealed=sealed, bound_id=owner_id)

    def open(self, row: KeyHolder) -> Secret:
        """The passphrase of a row that has one: for the call that sends it to a host, and for nothing else."""
        assert row.passphrase_id is not None
        owner_id = row.volume_id if isinstance(row, (VolumeFile, Snapshot)) else row.id
        with session():
            passphrase = row.passphrase  # whoever reads many rows reads them with their passphrases
        assert passphrase is not None
        try:
            return self.provider.open(passphrase.kek_id, bytes(passphrase.sealed), owner_id.encode())
        except FailedPreconditionError:
            again = self._row(row.passphrase_id)
            if again.kek_id == passphrase.kek_id:
                raise
            # It was sealed under another version just now, and the old one is already gone.
            return self.provider.open(again.kek_id, bytes(again.sealed), owner_id.encode())

    def _row(self, passphrase_id: str) -> Passphrase:
        with session():
            return Passphrase.get_by_id(passphrase_id)

    def current(self) -> str:
        """Id of the version that new passphrases are sealed under: within the caller's transaction.

        In a new database the provider's newest becomes it.
        """
        found = _CURRENT.first(tuple[str])
        return found[0] if found else self._make_current(self.provider.versions()[0])

    def _make_current(self, kek_id: str) -> str:
        """In a new database, unless another control plane was faster; returns the id of the version that is current."""
        Kek.insert(id=kek_id, name=kek_id, current=True).on_conflict_ignore().execute()
        return Kek.get(Kek.current).id

    def prepare(self) -> None:
        """Does in advance what `create` would wait for: call it outside of transactions, regularly.

        Raises OstlerError when the provider cannot be asked.
        """
        newest = self.provider.versions()[0] if Kek.get_or_none(Kek.current) is None else ""
        with transaction():
            current = self._make_current(newest) if newest else self.current()
        self.provider.prepare(current)

    def sweep(self) -> int:
        """Deletes passphrases that no row refers to; returns how many.

        There are none unless somebody edited the database: both rows are inserted and deleted together.
        """
        with transaction():
            query = Passphrase.delete()
            for model in HOLDERS:
                query = query.where(
                    Passphrase.id.not_in(model.select(model.passphrase).where(model.passphrase.is_null(False)))
                )
            return int(query.execute())


def delete_passphrase(passphrase_id: str | None) -> None:
    """Deletes a passphrase for good: within the caller's transaction. None: there was none."""
    Passphrase.delete().where(Passphrase.id == passphrase_id).execute()
    erase_deleted()


def delete_volume(volume: Volume, actor: str, operation_id: str = "") -> None:
    """Deletes the row of a volume whose file is gone, and its passphrase: within the caller's transaction.

    operation_id: of the operation that does it, if one does.
    """
    Volume.delete().where(Volume.id == volume.id).execute()
    message = f"the file of volume {volume.name} is gone, and its key destroyed"
    destroy(volume.passphrase_id, actor, volume, message, operation_id)


def destroy(passphrase_id: str | None, actor: str, volume: Volume, message: str, operation_id: str = "") -> None:
    """Deletes a passphrase that no row refers to any more, and records an event: within the caller's transaction.

    passphrase_id None: a plain file had none, and nothing is recorded. volume: the event's object; operation_id: of the
    operation that does it, if one does.
    """
    if passphrase_id is None:
        return
    delete_passphrase(passphrase_id)
    events.record(
        "volume.key.destroy",
        events.Outcome.SUCCEEDED,
        actor,
        "volume",
        volume.id,
        volume.name,
        f"{message} (key {passphrase_id})",
        operation_id=operation_id,
        account_id=str(volume.account_id or ""),
    )
