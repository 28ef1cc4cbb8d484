"""The values that were set: the one place that knows their table."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from peewee import ColumnBase, Expression

from ostler_control.models import Cluster, SettingValue
from ostler_control.models.columns import tuples
from ostler_control.prepared import Prepared
from ostler_control.settings.scopes import ANYWHERE, At
from ostler_control.states import Scope

_WIDTH = {scope: place for place, scope in enumerate(Scope)}


@dataclass(frozen=True)
class Stored:
    """A value as text, and whose it is. scope_id: "" for the global one."""

    scope: Scope
    scope_id: str
    value: str


_ByName = dict[str, list[Stored]]


class _Kept(threading.local):
    """What `read_once` has read for this thread: the account, and the values; None outside."""

    values: tuple[str, _ByName] | None = None


_kept = _Kept()


@contextlib.contextmanager
def read_once(account_id: str) -> Iterator[None]:
    """Inside, this thread reads the values in one statement instead of at each question: for a transaction that asks
    for many settings and changes none.

    account_id: the account whose values may be asked for; those of others are still read when they are.
    """
    before = _kept.values
    _kept.values = (account_id, _by_name(_OF_ACCOUNT.rows(tuple[str, str, str, str], account=account_id)))
    try:
        yield
    finally:
        _kept.values = before


_COLUMNS = (SettingValue.name, SettingValue.scope, SettingValue.scope_id, SettingValue.value)
# Those that an account may ask for, and those of one name that hold everywhere.
_OF_ACCOUNT = Prepared(
    lambda value: SettingValue.select(*_COLUMNS).where(
        (SettingValue.scope != Scope.ACCOUNT) | (SettingValue.scope_id == value("account"))
    )
)
_GLOBAL = Prepared(
    lambda value: SettingValue.select(*_COLUMNS).where(
        SettingValue.name == value("name"), SettingValue.scope == Scope.GLOBAL
    )
)


def _read(which: ColumnBase) -> _ByName:
    return _by_name(tuples(SettingValue.select(*_COLUMNS).where(which), tuple[str, str, str, str]))


def _by_name(rows: Iterable[tuple[str, str, str, str]]) -> _ByName:
    found: _ByName = {}
    for name, scope, scope_id, value in rows:
        found.setdefault(name, []).append(Stored(Scope(scope), scope_id, value))
    return found


def find(names: Collection[str], at: At) -> _ByName:
    """The values in reach at a place, by name, the narrowest first."""
    found = _kept_in_reach(names, at)
    if found is None and len(names) == 1 and at == ANYWHERE:
        found = _by_name(_GLOBAL.rows(tuple[str, str, str, str], name=next(iter(names))))
    elif found is None:
        found = _read(SettingValue.name.in_(names) & _reach(at))
    for values in found.values():
        values.sort(key=lambda stored: _WIDTH[stored.scope], reverse=True)
    return found


def _kept_in_reach(names: Collection[str], at: At) -> _ByName | None:
    """The same from what is kept; None where the database must be asked."""
    if _kept.values is None or at.cluster_id or at.zone_id or at.account_id not in ("", _kept.values[0]):
        return None
    reach = {(Scope.GLOBAL, "")} | ({(Scope.ACCOUNT, at.account_id)} if at.account_id else set())
    kept = _kept.values[1]
    return {name: [one for one in kept[name] if (one.scope, one.scope_id) in reach] for name in names if name in kept}


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
    known = _read(SettingValue.name == name) if _kept.values is None else _kept.values[1]
    stored = {(one.scope, one.scope_id): one.value for one in known.get(name, ()) if one.scope is not Scope.ACCOUNT}
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
