"""The values that were set: the one place that knows their table."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from peewee import Expression

from ostler_control.models import Cluster, SettingValue
from ostler_control.models.columns import tuples
from ostler_control.settings.scopes import At
from ostler_control.states import Scope

_WIDTH = {scope: place for place, scope in enumerate(Scope)}


@dataclass(frozen=True)
class Stored:
    """A value as text, and whose it is. scope_id: "" for the global one."""

    scope: Scope
    scope_id: str
    value: str


def find(names: Collection[str], at: At) -> dict[str, list[Stored]]:
    """The values in reach at a place, by name, the narrowest first."""
    rows = SettingValue.select().where(SettingValue.name.in_(names), _reach(at))
    found: dict[str, list[Stored]] = {}
    for row in rows:
        found.setdefault(row.name, []).append(Stored(row.scope, row.scope_id, row.value))
    for values in found.values():
        values.sort(key=lambda stored: _WIDTH[stored.scope], reverse=True)
    return found


def _reach(at: At) -> Expression:
    reach: Expression = SettingValue.scope == Scope.GLOBAL
    if at.account_id:
        reach |= (SettingValue.scope == Scope.ACCOUNT) & (SettingValue.scope_id == at.account_id)
    if at.cluster_id:
        zone = Cluster.select(Cluster.zone).where(Cluster.id == at.cluster_id)
        reach |= (SettingValue.scope == Scope.CLUSTER) & (SettingValue.scope_id == at.cluster_id)
        reach |= (SettingValue.scope == Scope.ZONE) & SettingValue.scope_id.in_(zone)
    elif at.zone_id:
        reach |= (SettingValue.scope == Scope.ZONE) & (SettingValue.scope_id == at.zone_id)
    return reach


def of_clusters(name: str) -> dict[str, str]:
    """The values of the clusters that have their own or their zone's; under "" the global one, if there is one."""
    columns = (SettingValue.scope, SettingValue.scope_id, SettingValue.value)
    rows = tuples(SettingValue.select(*columns).where(SettingValue.name == name), tuple[Scope, str, str])
    stored = {(scope, scope_id): value for scope, scope_id, value in rows}
    found = {"": stored[Scope.GLOBAL, ""]} if (Scope.GLOBAL, "") in stored else {}
    if all(scope == Scope.GLOBAL for scope, _ in stored):
        return found
    for cluster_id, zone_id in tuples(Cluster.select(Cluster.id, Cluster.zone), tuple[str, str]):
        value = stored.get((Scope.CLUSTER, cluster_id), stored.get((Scope.ZONE, zone_id)))
        if value is not None:
            found[cluster_id] = value
    return found


def put(name: str, scope: Scope, scope_id: str, value: str) -> None:
    """Writes a value, within the caller's transaction."""
    key = [SettingValue.name, SettingValue.scope, SettingValue.scope_id]
    insert = SettingValue.insert(name=name, scope=scope, scope_id=scope_id, value=value)
    insert.on_conflict(conflict_target=key, update={SettingValue.value: value}).execute()


def remove(name: str, scope: Scope, scope_id: str) -> bool:
    """Removes a value; returns whether there was one."""
    of_scope = (SettingValue.scope == scope) & (SettingValue.scope_id == scope_id)
    return bool(SettingValue.delete().where((SettingValue.name == name) & of_scope).execute())


def forget(scope: Scope, scope_id: str) -> None:
    """Removes all values of a zone, cluster or account that goes away, within the caller's transaction."""
    SettingValue.delete().where(SettingValue.scope == scope, SettingValue.scope_id == scope_id).execute()
