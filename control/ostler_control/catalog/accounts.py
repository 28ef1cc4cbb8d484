"""Accounts: owners of VMs and volumes."""

from __future__ import annotations

from ostler_common.errors import AlreadyExistsError, FailedPreconditionError
from peewee import IntegrityError

from ostler_control import database, events, settings
from ostler_control.catalog.names import check_name
from ostler_control.models import Account, Backup, Snapshot, User, Vm, VmSnapshot, Volume


def create(name: str, actor: str) -> Account:
    """Creates an account. Raises AlreadyExistsError when the name is taken."""
    check_name("name", name)
    try:
        with database.transaction():
            account: Account = Account.create(name=name)
            events.done("account.create", actor, account)
            return account
    except IntegrityError:
        raise AlreadyExistsError(f'there is an account "{name}" already', "NAME_TAKEN", {"name": name}) from None


def delete(account: Account, actor: str) -> None:
    """Deletes an account that owns nothing; FailedPreconditionError (NOT_EMPTY) otherwise."""
    try:
        with database.transaction():
            settings.forget(settings.Scope.ACCOUNT, account.id)
            account.delete_instance()
            events.done("account.delete", actor, account)
    except IntegrityError:
        counts = {
            word: model.select().where(model.account == account).count()
            for word, model in (
                ("users", User),
                ("VMs", Vm),
                ("volumes", Volume),
                ("snapshots", Snapshot),
                ("VM snapshots", VmSnapshot),
                ("backups", Backup),
            )
        }
        owned = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
        raise FailedPreconditionError(
            f'account "{account.name}" still has {owned}: delete them first', "NOT_EMPTY", {"name": account.name}
        ) from None
