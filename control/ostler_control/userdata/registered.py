"""Registered user data: documents that accounts keep under a name."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable

from ostler_common.errors import AlreadyExistsError, FailedPreconditionError
from ostler_common.secret import new_passphrase
from peewee import IntegrityError

from ostler_control import database, events, settings
from ostler_control.catalog.names import check_name
from ostler_control.catalog.row_limits import check_rows
from ostler_control.keys import Keyring, sealing
from ostler_control.keys.passphrases import delete_passphrase
from ostler_control.models import Account, Template, TemplateUserData, UserData, new_id
from ostler_control.models.columns import tuples
from ostler_control.userdata import documents, variables
from ostler_control.userdata.packing import decode_base64
from ostler_control.userdata.rendering import Source


def register(name: str, account: Account, data: bytes, declared: list[str], actor: str, keys: Keyring) -> UserData:
    """Keeps a document that cloud-init can read.

    Raises InvalidArgumentError (reasons that begin with USERDATA_, INVALID_VARIABLE, INVALID_NAME) and
    AlreadyExistsError USERDATA_EXISTS; ResourceExhaustedError TOO_MANY_OBJECTS.
    """
    check_name("name", name)
    title = f"user data {name}"
    document = documents.read(data, title, settings.vms.USERDATA_MAX_LENGTH.get())
    kept = decode_base64(data, title)
    row_id, passphrase = new_id(), new_passphrase()
    names = variables.check_declared(declared)
    try:
        with database.transaction():
            check_rows(UserData, account.id)
            row: UserData = UserData.create(
                id=row_id,
                name=name,
                account=account,
                format=str(document.format),
                size_bytes=len(kept),
                variables=json.dumps(names),
                passphrase=keys.store(passphrase, row_id),
                sealed=sealing.seal(passphrase, kept, row_id),
            )
            _record("userdata.register", row, actor)
            return row
    except IntegrityError:
        raise AlreadyExistsError(
            f"account {account.name} has user data named {name} already; choose another name", "USERDATA_EXISTS"
        ) from None


def load(row: UserData, keys: Keyring) -> Source:
    """The document, ready to be rendered."""
    content = sealing.unseal(keys.open(row), bytes(row.sealed), row.id, f"user data {row.name}", "register it again")
    return Source(f"user data {row.name}", content, declared_by(row))


def declared_by(row: UserData) -> tuple[str, ...]:
    """The names of its variables."""
    return tuple(json.loads(row.variables))


def linked_by(rows: Iterable[UserData]) -> dict[str, list[str]]:
    """The names of the templates that link these documents, by the document's id."""
    query = TemplateUserData.select(TemplateUserData.user_data, Template.name).join(Template)
    query = query.where(TemplateUserData.user_data.in_([row.id for row in rows])).order_by(Template.name)
    found: dict[str, list[str]] = defaultdict(list)
    for row_id, name in tuples(query, tuple[str, str]):
        found[row_id].append(name)
    return found


def delete(row: UserData, actor: str) -> None:
    """Deletes a document; VMs keep their copy. Raises FailedPreconditionError USERDATA_IN_USE when a template links
    it."""
    with database.transaction():
        if templates := linked_by([row])[row.id]:
            raise FailedPreconditionError(
                f"user data {row.name} is linked by template {', '.join(templates)}; change them first "
                "(ostler template update TEMPLATE --no-user-data)",
                "USERDATA_IN_USE",
            )
        UserData.delete().where(UserData.id == row.id).execute()
        delete_passphrase(row.passphrase_id)
        _record("userdata.delete", row, actor)


def _record(event: str, row: UserData, actor: str) -> None:
    outcome = events.Outcome.SUCCEEDED
    events.record(event, outcome, actor, "userdata", row.id, row.name, account_id=row.account_id)
