"""Settings of DRS: the planner knows their types and ranges."""

from __future__ import annotations

from typing import Any

from ostler_common.errors import FailedPreconditionError

from ostler_control.drs.settings import SPECS, Settings, Spec
from ostler_control.models import Cluster
from ostler_control.settings import ha
from ostler_control.settings.kinds import BOOLEAN, Kind, integer
from ostler_control.settings.scopes import GLOBAL_ONLY, PER_CLUSTER, PER_ZONE, At
from ostler_control.settings.setting import AnySetting, Setting, in_force

_TYPES = {int: "integer", float: "number", str: "text"}


def _kind(spec: Spec) -> Kind[Any]:
    if spec.type is bool:
        return BOOLEAN
    if spec.type is str:
        return Kind("choice" if spec.choices else "text", spec.parse, spec.allowed)
    return Kind(_TYPES[spec.type], spec.parse, f"{spec.low:g} to {spec.high:g}", spec.unit)


def _setting(spec: Spec) -> AnySetting:
    default = str(spec.default).lower() if spec.type is bool else str(spec.default)
    scopes = PER_CLUSTER if spec.cluster_scoped else GLOBAL_ONLY
    accept = _usable if spec.name == "drs.algorithm" else str
    return Setting(spec.name, _kind(spec), default, spec.description, scopes, accept=accept)


def _usable(name: str) -> str:
    # Imported here: numpy takes longer to load than all that reads settings.
    from ostler_control.drs.algorithms import algorithm

    try:
        algorithm(name)
    except FailedPreconditionError as error:
        raise ValueError(error.message) from None
    return name


# Overcommit is the cluster's own, not a setting; the reserve is a setting of high availability.
_PLANNER: dict[str, AnySetting] = {name: _setting(spec) for name, spec in SPECS.items() if name.startswith("drs.")}

AUTOMATIC_ENABLE: Setting[bool] = _PLANNER["drs.automatic.enable"]
AUTOMATIC_INTERVAL: Setting[int] = _PLANNER["drs.automatic.interval"]
AUTOMATIC_HOLD: Setting[int] = _PLANNER["drs.automatic.hold"]
AUTOMATIC_SHADOW: Setting[bool] = _PLANNER["drs.automatic.shadow"]
AUTOMATIC_WINDOW: Setting[str] = _PLANNER["drs.automatic.window"]
PLAN_EXPIRE_INTERVAL: Setting[int] = _PLANNER["drs.plan.expire.interval"]
STORAGE_IMBALANCE = Setting(
    "drs.storage.imbalance",
    Kind("number", SPECS["drs.imbalance"].parse, "0 to 1"),
    "0.8",
    "How evenly storage pools of a zone must be filled: 1.0 allows no imbalance, 0.0 any.",
    PER_ZONE,
)
POWER_AUTOMATIC = Setting(
    "drs.power.automatic",
    BOOLEAN,
    "false",
    "Whether hosts are switched off and on automatically to save power; otherwise it is only suggested.",
    PER_CLUSTER,
)
PLAN_MAX_FAILURES = Setting(
    "drs.plan.max.failures",
    integer(1, 1000, "moves"),
    "3",
    "After this many failed moves a plan starts no further ones.",
    PER_CLUSTER,
)

SETTINGS = (*_PLANNER.values(), PLAN_MAX_FAILURES, POWER_AUTOMATIC, STORAGE_IMBALANCE)


def planner_settings(cluster: Cluster) -> Settings:
    """The planner's settings for a cluster."""
    found = in_force([*_PLANNER.values(), ha.RESERVE_HOSTS], At(cluster_id=cluster.id))
    overcommit = {
        "overcommit.cpu": float(cluster.cpu_overcommit),
        "overcommit.memory": float(cluster.memory_overcommit),
    }
    return Settings.of({**{row.setting.name: row.value for row in found}, **overcommit})


def of_zone(zone_id: str) -> Settings:
    """The planner's settings for what belongs to a zone rather than to one of its clusters."""
    found = in_force(list(_PLANNER.values()), At(zone_id=zone_id))
    return Settings.of({row.setting.name: row.value for row in found})
