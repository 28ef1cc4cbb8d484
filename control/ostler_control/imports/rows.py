"""The end of imports' rows."""

from __future__ import annotations

from peewee import Expression

from ostler_control.keys.passphrases import delete_passphrase
from ostler_control.models import ImportDiskPassphrase, VmImport, tuples


def delete_imports(which: Expression) -> None:
    """Forgets imports, with the passphrases of their disks: within the caller's transaction. which: on `VmImport`."""
    mine = ImportDiskPassphrase.select(ImportDiskPassphrase.passphrase).join(VmImport).where(which)
    passphrase_ids = [passphrase_id for (passphrase_id,) in tuples(mine, tuple[str])]
    VmImport.delete().where(which).execute()
    for passphrase_id in passphrase_ids:
        delete_passphrase(passphrase_id)
