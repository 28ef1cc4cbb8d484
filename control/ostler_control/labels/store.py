"""The rows of labels: one place knows the SQL, for every kind of object that has them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol, TypeVar, cast

from ostler_common.errors import FailedPreconditionError, NotFoundError, bad_field
from peewee import ModelSelect

from ostler_control import events
from ostler_control.database import locked, transaction
from ostler_control.labels.kinds import OF_MODEL, Kind
from ostler_control.labels.selector import Operator, Requirement, check_key, check_value
from ostler_control.models import BaseModel, tuples

MAX_LABELS = 64

_Row = TypeVar("_Row", bound=BaseModel)


class _Owned(Protocol):
    name: str
    account_id: str


def check_new(field: str, labels: Mapping[str, str]) -> None:
    """Checks the labels of a new object. Raises InvalidArgumentError INVALID_LABEL, TOO_MANY_LABELS."""
    for key, value in labels.items():
        check_key(field, key)
        check_value(field, key, value)
    if len(labels) > MAX_LABELS:
        raise bad_field(field, f"has {len(labels)} labels; at most {MAX_LABELS} are allowed", "TOO_MANY_LABELS")


def add(row: BaseModel, labels: Mapping[str, str]) -> None:
    """Gives a new object labels that were checked, within the caller's transaction."""
    table = OF_MODEL[type(row)].table
    for key, value in labels.items():
        table.create(object=row.id, key=key, value=value)


def update(row: BaseModel, labels: Mapping[str, str], remove: Collection[str], actor: str) -> dict[str, str]:
    """Adds or changes some labels of an object and removes others; returns all that it has then.

    Raises InvalidArgumentError INVALID_LABEL, TOO_MANY_LABELS (in the request), REQUIRED, or for a key that is both in
    labels and in remove; FailedPreconditionError TOO_MANY_LABELS (with those that the object has); NotFoundError when
    it is gone. Then nothing has changed.
    """
    if not labels and not remove:
        raise bad_field("set", "must have a label, or remove a key", "REQUIRED")
    check_new("set", labels)
    for key in remove:
        check_key("remove", key)
        if key in labels:
            raise bad_field("remove", f"the key {key} is in `set`, too", "INVALID_LABEL")
    kind = OF_MODEL[type(row)]
    name, account_id = _named(row, kind)
    with transaction():
        _lock(row, kind)
        kind.table.delete().where(kind.table.object == row.id, kind.table.key.in_([*labels, *remove])).execute()
        add(row, labels)
        present = of_objects(type(row), [row.id]).get(row.id, {})
        if len(present) > MAX_LABELS:
            raise FailedPreconditionError(
                f"{name} would have {len(present)} labels; at most {MAX_LABELS} are allowed: remove some",
                "TOO_MANY_LABELS",
            )
        changed = [f"{key}={value}" for key, value in labels.items()] + [f"{key} removed" for key in remove]
        outcome, message = events.Outcome.SUCCEEDED, ", ".join(changed)
        event = f"{kind.noun}.label"
        events.record(event, outcome, actor, kind.noun, row.id, name, message, account_id=account_id)
    return present


def clear(row: BaseModel) -> None:
    """Removes all labels of an object that nobody sees any more, but whose row stays: in the caller's transaction."""
    table = OF_MODEL[type(row)].table
    table.delete().where(table.object == row.id).execute()


def _named(row: BaseModel, kind: Kind) -> tuple[str, str]:
    """What people call the object, and whose members may see the event."""
    owned = cast("_Owned", getattr(row, kind.subject) if kind.subject else row)
    return owned.name, owned.account_id if kind.of_account else ""


def _lock(row: BaseModel, kind: Kind) -> None:
    """Of two changes of one object's labels at once the second waits: both would insert the same key otherwise."""
    model = kind.model
    if locked(model.select(model.id).where(model.id == row.id)).get_or_none() is None:
        raise NotFoundError(f"{kind.noun} {row.id} is gone", kind.not_found)


def of_objects(model: type[BaseModel], ids: Collection[str]) -> dict[str, dict[str, str]]:
    """The labels of these objects by id; objects without any are left out."""
    if not ids:
        return {}
    table = OF_MODEL[model].table
    query = table.select(table.object, table.key, table.value).where(table.object.in_(list(ids)))
    found: dict[str, dict[str, str]] = {}
    for object_id, key, value in tuples(query.order_by(table.key), tuple[str, str, str]):
        found.setdefault(object_id, {})[key] = value
    return found


def selected(query: ModelSelect[_Row], model: type[_Row], requirements: Sequence[Requirement]) -> ModelSelect[_Row]:
    """The query with only those objects that meet all requirements. Still one query, answered from indexes."""
    table = OF_MODEL[model].table
    for requirement in requirements:
        objects = table.select(table.object).where(table.key == requirement.key)
        if requirement.values:
            objects = objects.where(table.value.in_(requirement.values))
        wanted = requirement.operator in (Operator.EXISTS, Operator.IN)
        query = query.where(model.id.in_(objects) if wanted else model.id.not_in(objects))
    return query
