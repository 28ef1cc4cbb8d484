"""The rows of import sources of every type: each has a secret of its own, and is changed only as it was read."""

from __future__ import annotations

from ostler_common.errors import AbortedError, AlreadyExistsError
from ostler_common.secret import Secret
from peewee import IntegrityError

from ostler_control import events
from ostler_control.database import transaction
from ostler_control.keys import Keyring
from ostler_control.keys.passphrases import delete_passphrase
from ostler_control.models import ImportSource, KvmSource, KvmTlsSource


def create_source(
    row: ImportSource, secret: Secret, actor: str, keys: Keyring, *details: KvmSource | KvmTlsSource
) -> ImportSource:
    """Records a source that was proved. row: not in the database yet; details: of a KVM host, not there either.

    Raises AlreadyExistsError SOURCE_EXISTS.
    """
    try:
        with transaction():
            row.passphrase = keys.store(secret, row.id)
            row.save(force_insert=True)
            for detail in details:
                detail.source = row
                detail.save(force_insert=True)
            events.record(
                "import-source.create", events.Outcome.SUCCEEDED, actor, "import-source", row.id, row.name, row.address
            )
    except IntegrityError:
        raise AlreadyExistsError(
            f"there is an import source named {row.name} already; choose another name", "SOURCE_EXISTS"
        ) from None
    return row


def update_source(
    read: ImportSource,
    secret: Secret,
    actor: str,
    keys: Keyring,
    *details: KvmSource | KvmTlsSource,
    **columns: str,
) -> ImportSource:
    """Records a changed source that was proved. Imports under way use it from their next step on.

    read: the row that the change was made of; details: of a KVM host, in place of its own; columns: that change. Raises
    AbortedError SOURCE_CHANGED_MEANWHILE when the row is another one by now, because every change brings a passphrase
    of its own.
    """
    with transaction():
        unchanged = (ImportSource.id == read.id) & (ImportSource.passphrase == read.passphrase_id)
        passphrase = keys.store(secret, read.id)
        if not ImportSource.update(passphrase=passphrase, **columns).where(unchanged).execute():
            raise AbortedError(
                f"import source {read.name} was changed or deleted meanwhile; look at it, then try again",
                "SOURCE_CHANGED_MEANWHILE",
                {"source": read.name},
            )
        for detail in details:
            type(detail).delete().where(type(detail).source == read.id).execute()
            detail.source = read
            detail.save(force_insert=True)
        delete_passphrase(read.passphrase_id)
        events.record("import-source.update", events.Outcome.SUCCEEDED, actor, "import-source", read.id, read.name)
        return ImportSource.get_by_id(read.id)
