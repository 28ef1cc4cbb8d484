"""Import sources: servers that VMs are imported from, with the password sealed like a passphrase."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

from ostler_common.errors import FailedPreconditionError, bad_field
from ostler_common.secret import Secret

from ostler_control import events
from ostler_control.catalog.names import check_name
from ostler_control.database import transaction
from ostler_control.imports.rows import delete_imports
from ostler_control.imports.source_rows import create_source, update_source
from ostler_control.keys import Keyring
from ostler_control.keys.passphrases import delete_passphrase
from ostler_control.models import ImportPlan, ImportSource, Operation, VmImport, tuples
from ostler_control.states import ACTIVE_IMPORT_PLANS, UNFINISHED_OPERATIONS
from ostler_control.vmware.connection import Connection, Server, connected, parse_address
from ostler_control.vmware.trust import Trust

TYPE = "vmware"
MAX_USERNAME, MAX_PASSWORD_BYTES = 256, 1024


@dataclass(frozen=True)
class NewSource:
    """A source to be registered. address: as the operator wrote it."""

    id: str
    name: str
    address: str
    username: str
    password: Secret
    trust: Trust


def check(new: NewSource) -> Server:
    """Checks every field; returns how to connect. Raises InvalidArgumentError."""
    check_name("name", new.name)
    host, port = parse_address(new.address)
    if not 0 < len(new.username) <= MAX_USERNAME or not new.username.isprintable():
        raise bad_field("username", f"must be 1 to {MAX_USERNAME} printable characters", "INVALID_USERNAME")
    password = new.password.reveal()
    try:
        password.decode()
    except UnicodeDecodeError:
        raise bad_field("password", "must be text in UTF-8", "INVALID_PASSWORD") from None
    if not 0 < len(password) <= MAX_PASSWORD_BYTES:
        raise bad_field("password", f"must have 1 to {MAX_PASSWORD_BYTES} bytes", "INVALID_PASSWORD")
    return Server(host, new.username, new.trust, port)


def prove(new: NewSource) -> None:
    """Logs in and out again: outside of transactions. Raises what `check` and `Connection` raise."""
    with connected(check(new), new.password):
        pass


def create(new: NewSource, actor: str, keys: Keyring) -> ImportSource:
    """Records a source that was proved. Raises as `create_source` does."""
    row = ImportSource(
        id=new.id,
        name=new.name,
        type=TYPE,
        address=new.address,
        username=new.username,
        ca_pem=new.trust.ca_pem,
        thumbprint=new.trust.sha256,
    )
    return create_source(row, new.password, actor, keys)


def changed(
    source: ImportSource, username: str, password: Secret | None, trust: Trust | None, keys: Keyring
) -> NewSource:
    """A source as it is to be; what is "" or None stays. Its address stays: the password is for no other server."""
    return NewSource(
        id=source.id,
        name=source.name,
        address=source.address,
        username=username or source.username,
        password=password or keys.open(source),
        trust=trust or server_of(source).trust,
    )


def update(source: ImportSource, new: NewSource, actor: str, keys: Keyring) -> ImportSource:
    """Records a changed source that was proved. source: as `changed` got it. Raises as `update_source` does."""
    trust = {"ca_pem": new.trust.ca_pem, "thumbprint": new.trust.sha256}
    return update_source(source, new.password, actor, keys, username=new.username, **trust)


def delete(source: ImportSource, actor: str) -> None:
    """Forgets a source and its password, and what failed imports may have left there.

    Raises FailedPreconditionError SOURCE_IN_USE while a VM is imported from it.
    """
    with transaction():
        mine = VmImport.source == source.id
        unfinished = Operation.select(Operation.id).where(Operation.state.in_(UNFINISHED_OPERATIONS))
        if VmImport.select().where(mine & VmImport.id.in_(unfinished)).exists():
            raise FailedPreconditionError(
                f"VMs are being imported from {source.name}; wait for them, or cancel them (ostler operation list)",
                "SOURCE_IN_USE",
                {"source": source.name},
            )
        plans = ImportPlan.select(ImportPlan.name).where(ImportPlan.source_id == source.id)
        active = tuples(plans.where(ImportPlan.state.in_(ACTIVE_IMPORT_PLANS)), tuple[str])
        if active:
            raise FailedPreconditionError(
                f"import plan {active[0][0]} imports from {source.name}; cancel it first"
                f" (ostler import plan cancel {active[0][0]})",
                "SOURCE_IN_USE",
                {"source": source.name},
            )
        delete_imports(mine)
        ImportSource.delete().where(ImportSource.id == source.id).execute()
        delete_passphrase(source.passphrase_id)
        events.record("import-source.delete", events.Outcome.SUCCEEDED, actor, "import-source", source.id, source.name)


def server_of(source: ImportSource) -> Server:
    """How to connect to a source. Raises FailedPreconditionError NOT_VMWARE."""
    if source.type != TYPE:
        raise FailedPreconditionError(
            f"import source {source.name} is of type {source.type}, and this works with VMware only", "NOT_VMWARE"
        )
    host, port = parse_address(source.address)
    return Server(host, source.username, Trust(ca_pem=source.ca_pem, sha256=source.thumbprint), port)


def connect(source: ImportSource, keys: Keyring) -> AbstractContextManager[Connection]:
    """A session on a source. Raises what `Connection` raises."""
    return connected(server_of(source), keys.open(source))
