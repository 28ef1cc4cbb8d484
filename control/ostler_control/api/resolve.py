"""Resolves an id or name to an object that the caller may see."""

from __future__ import annotations

import difflib
import functools
import re
from typing import Any, TypeVar

from ostler_common.errors import FailedPreconditionError, NotFoundError, bad_field
from peewee import ColumnBase, ModelSelect

from ostler_control import networks
from ostler_control.caller import Caller
from ostler_control.catalog.names import is_id
from ostler_control.models import (
    Account,
    BackupSchedule,
    BaseModel,
    DiskOffering,
    Host,
    Network,
    ServiceOffering,
    SnapshotSchedule,
    Vm,
    VmSnapshotSchedule,
    Volume,
    tuples,
)
from ostler_control.models.joined import objects
from ostler_control.prepared import Prepared

_Row = TypeVar("_Row", bound=BaseModel)

# What is longer than any name is no typo, and comparing it takes long.
_MAX_SUGGESTED = 63
# Names looked at for "did you mean": enough for a typo, never a scan of the whole fleet.
_SUGGESTION_POOL = 2000
_AMBIGUOUS_LISTED = 20


def resolve(model: type[_Row], ref: str, field: str, *, caller: Caller | None = None, account_id: str = "") -> _Row:
    """The one object of this model whose id or name is `ref`.

    field: the request's field, for the error. caller: given for what accounts own (VMs, volumes, operations, events):
    a member finds only the own account's, and of networks those that the account may use. account_id: only this
    account's are found. Retired offerings and removed hosts are not found.
    Raises InvalidArgumentError (empty), NotFoundError (reason VM_NOT_FOUND for a Vm, and so on; the same whether the
    object is not there or another account's) or FailedPreconditionError (AMBIGUOUS_NAME, with the ids).
    """
    if not ref:
        raise bad_field(field, "is required: an id or a name", reason="REQUIRED")
    found = list[_Row]()
    if (by_id := is_id(ref)) or "name" in model._meta.fields:
        text = ref.lower() if by_id else ref
        if account_id or (caller is not None and not caller.is_admin):
            found = list(_having(_of_account(model, caller, account_id), model, by_id, text))
        else:
            found = [row for (row,) in objects(_live(model, by_id).rows(tuple[object, ...], ref=text), model)]
    if not found:
        raise _not_found(model, ref, _of_account(model, caller, account_id))
    if len(found) > 1:
        ids = [str(row.id) for row in found[:_AMBIGUOUS_LISTED]]
        more = ", ..." if len(found) > _AMBIGUOUS_LISTED else ""
        raise FailedPreconditionError(
            f'more than one {word(model)} is named "{ref}": say which by id ({", ".join(ids)}{more})',
            "AMBIGUOUS_NAME",
            {"type": word(model).replace(" ", "_"), "name": ref, "ids": ",".join(ids)},
        )
    row: _Row = found[0]
    return row


def _of_account(model: type[_Row], caller: Caller | None, account_id: str) -> ModelSelect[_Row]:
    """What the caller may see, of this account unless it is ""."""
    query = visible(model, caller)
    return query.where(owner(model) == account_id) if account_id else query


def _having(query: ModelSelect[_Row], model: type[_Row], by_id: bool, ref: str | ColumnBase) -> ModelSelect[_Row]:
    """Those with this id or name. Of those with one name the oldest, and enough to say that they are many."""
    if by_id:
        return query.where(model.id == ref)
    return query.where(_name(model) == ref).order_by(model.create_time).limit(_AMBIGUOUS_LISTED + 1)


@functools.cache
def _live(model: type[BaseModel], by_id: bool) -> Prepared:
    """The same of all accounts, written once."""
    return Prepared(lambda value: _having(visible(model, None), model, by_id, value("ref")))


def optional(model: type[_Row], ref: str, field: str, *, caller: Caller | None = None) -> _Row | None:
    """The same for a field that may be empty: None then."""
    return resolve(model, ref, field, caller=caller) if ref else None


def visible(model: type[_Row], caller: Caller | None) -> ModelSelect[_Row]:
    """A select of what of this model the caller may see and name; None: whatever is live."""
    query = model.select()
    if issubclass(model, (ServiceOffering, DiskOffering)):
        query = query.where(model.retire_time.is_null())
    if model is Host:
        query = query.where(~Host.removed)
    if model is SnapshotSchedule and caller is not None and not caller.is_admin:
        return query.where(SnapshotSchedule.volume.in_(visible(Volume, caller).select(Volume.id)))
    if model is VmSnapshotSchedule and caller is not None and not caller.is_admin:
        return query.where(VmSnapshotSchedule.vm.in_(visible(Vm, caller).select(Vm.id)))
    if model is BackupSchedule and caller is not None and not caller.is_admin:
        return query.where(BackupSchedule.vm.in_(visible(Vm, caller).select(Vm.id)))
    if caller is not None and not caller.is_admin and model is Network:
        return query.where(networks.usable_by(caller.account_id))
    if caller is not None and not caller.is_admin:
        query = query.where(owner(model) == caller.account_id)
    return query


def owner(model: type[BaseModel]) -> Any:
    """The column that says which account a row of this model belongs to."""
    fields = model._meta.fields
    return model.id if model is Account else fields.get("account", fields.get("account_id"))


def word(model: type[BaseModel]) -> str:
    """The model's name for people: "service offering"."""
    return re.sub(r"(?<!^)(?=[A-Z])", " ", model.__name__).lower()


def _name(model: type[BaseModel]) -> Any:
    return model._meta.fields["name"]


def _not_found(model: type[_Row], ref: str, query: ModelSelect[_Row]) -> NotFoundError:
    hint = ""
    if "name" in model._meta.fields and not is_id(ref) and len(ref) <= _MAX_SUGGESTED:
        found = tuples(query.select(_name(model)).limit(_SUGGESTION_POOL), tuple[str])
        names = [name for (name,) in found]
        near = difflib.get_close_matches(ref, names, n=3, cutoff=0.7)
        hint = f" (did you mean {' or '.join(near)}?)" if near else ""
    kind = word(model)
    reason = f"{kind.replace(' ', '_').upper()}_NOT_FOUND"
    return NotFoundError(f'{kind} "{ref}" does not exist{hint}', reason, {"type": kind.replace(" ", "_"), "name": ref})
