"""Settings."""

from __future__ import annotations

from collections.abc import Sequence

from ostler.control.v1 import setting_pb2 as pb

from ostler_control.api.convert.enums import to_enum
from ostler_control.models import Account, Cluster, Zone
from ostler_control.models.columns import tuples
from ostler_control.settings import InForce, Scope

_NAMED: tuple[tuple[Scope, type[Zone] | type[Cluster] | type[Account]], ...] = (
    (Scope.ZONE, Zone),
    (Scope.CLUSTER, Cluster),
    (Scope.ACCOUNT, Account),
)


def settings(found: Sequence[InForce]) -> list[pb.Setting]:
    """All of them, with the names of those whose values they are."""
    names = _names(found)
    return [_setting(one, names.get(one.scope_id, "")) for one in found]


def _setting(found: InForce, origin_name: str) -> pb.Setting:
    setting = found.setting
    return pb.Setting(
        name=setting.name,
        value=setting.show(found.value),
        default_value=setting.default,
        type=setting.kind.type,
        allowed=setting.kind.allowed,
        unit=setting.kind.unit,
        description=setting.description,
        origin=to_enum(pb.Setting.Scope, "", found.scope or "default"),
        origin_id=found.scope_id,
        origin_name=origin_name,
        scopes=[to_enum(pb.Setting.Scope, "", scope) for scope in setting.scopes],
        dynamic=setting.dynamic,
        changed_by=setting.changed_by,
    )


def _names(found: Sequence[InForce]) -> dict[str, str]:
    names: dict[str, str] = {}
    for scope, model in _NAMED:
        ids = {one.scope_id for one in found if one.scope is scope}
        if ids:
            names.update(tuples(model.select(model.id, model.name).where(model.id.in_(ids)), tuple[str, str]))
    return names
