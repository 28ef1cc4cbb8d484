"""The rows of labels: one place knows the SQL, for every kind of object that has them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TypeVar

from ostler_common.errors import FailedPreconditionError, NotFoundError, bad_field
from peewee import ModelSelect

from ostler_control import events
from ostler_control.database import locked, transaction
from ostler_control.labels.selector import Operator, Requirement, check_key, check_value
from ostler_control.models import (
    Backup,
    BackupLabel,
    BaseModel,
    Cluster,
    ClusterLabel,
    Host,
    HostLabel,
    Iso,
    IsoLabel,
    Network,
    NetworkLabel,
    Pool,
    PoolLabel,
    Snapshot,
    SnapshotLabel,
    Template,
    TemplateLabel,
    Vm,
    VmLabel,
    VmSnapshot,
    VmSnapshotLabel,
    Volume,
    VolumeLabel,
    Zone,
    ZoneLabel,
    tuples,
)

MAX_LABELS = 64

Label = (
    type[VmLabel]
    | type[VolumeLabel]
    | type[HostLabel]
    | type[TemplateLabel]
    | type[ClusterLabel]
    | type[NetworkLabel]
    | type[PoolLabel]
    | type[SnapshotLabel]
    | type[VmSnapshotLabel]
    | type[ZoneLabel]
    | type[IsoLabel]
    | type[BackupLabel]
)
Labeled = Vm | Volume | Host | Template | Cluster | Network | Pool | Snapshot | VmSnapshot | Zone | Iso | Backup
_TABLES: Mapping[type[BaseModel], Label] = {
    Vm: VmLabel,
    Volume: VolumeLabel,
    Host: HostLabel,
    Template: TemplateLabel,
    Cluster: ClusterLabel,
    Network: NetworkLabel,
    Pool: PoolLabel,
    Snapshot: SnapshotLabel,
    VmSnapshot: VmSnapshotLabel,
    Zone: ZoneLabel,
    Iso: IsoLabel,
    Backup: BackupLabel,
}
_Row = TypeVar("_Row", bound=BaseModel)


def check_new(field: str, labels: Mapping[str, str]) -> None:
    """Checks the labels of a new object. Raises InvalidArgumentError INVALID_LABEL, TOO_MANY_LABELS."""
    for key, value in labels.items():
        check_key(field, key)
        check_value(field, key, value)
    if len(labels) > MAX_LABELS:
        raise bad_field(field, f"has {len(labels)} labels; at most {MAX_LABELS} are allowed", "TOO_MANY_LABELS")


def add(row: Labeled, labels: Mapping[str, str]) -> None:
    """Gives a new object labels that were checked, within the caller's transaction."""
    table = _TABLES[type(row)]
    for key, value in labels.items():
        table.create(object=row.id, key=key, value=value)


def update(row: Labeled, labels: Mapping[str, str], remove: Collection[str], actor: str) -> dict[str, str]:
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
    table = _TABLES[type(row)]
    with transaction():
        _lock(row)
        table.delete().where(table.object == row.id, table.key.in_([*labels, *remove])).execute()
        add(row, labels)
        present = of_objects(type(row), [row.id]).get(row.id, {})
        if len(present) > MAX_LABELS:
            raise FailedPreconditionError(
                f"{row.name} would have {len(present)} labels; at most {MAX_LABELS} are allowed: remove some",
                "TOO_MANY_LABELS",
            )
        changed = [f"{key}={value}" for key, value in labels.items()] + [f"{key} removed" for key in remove]
        noun = "vm-snapshot" if isinstance(row, VmSnapshot) else type(row).__name__.lower()
        account_id = row.account_id if isinstance(row, (Vm, Volume, Snapshot, VmSnapshot, Backup)) else ""
        outcome = events.Outcome.SUCCEEDED
        message = ", ".join(changed)
        events.record(f"{noun}.label", outcome, actor, noun, row.id, row.name, message, account_id=account_id)
    return present


def _lock(row: BaseModel) -> None:
    """Of two changes of one object's labels at once the second waits: both would insert the same key otherwise."""
    model = type(row)
    if locked(model.select(model.id).where(model.id == row.id)).get_or_none() is None:
        raise NotFoundError(f"{model.__name__.lower()} {row.id} is gone", f"{model.__name__.upper()}_NOT_FOUND")


def of_objects(model: type[Labeled], ids: Iterable[str]) -> dict[str, dict[str, str]]:
    """The labels of these objects by id; objects without any are left out."""
    table = _TABLES[model]
    query = table.select(table.object, table.key, table.value).where(table.object.in_(list(ids)))
    found: dict[str, dict[str, str]] = {}
    for object_id, key, value in tuples(query.order_by(table.key), tuple[str, str, str]):
        found.setdefault(object_id, {})[key] = value
    return found


def selected(query: ModelSelect[_Row], model: type[_Row], requirements: Sequence[Requirement]) -> ModelSelect[_Row]:
    """The query with only those objects that meet all requirements. Still one query, answered from indexes."""
    table = _TABLES[model]
    for requirement in requirements:
        objects = table.select(table.object).where(table.key == requirement.key)
        if requirement.values:
            objects = objects.where(table.value.in_(requirement.values))
        wanted = requirement.operator in (Operator.EXISTS, Operator.IN)
        query = query.where(model.id.in_(objects) if wanted else model.id.not_in(objects))
    return query
