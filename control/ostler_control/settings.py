"""Settings that can be changed while everything runs: one table says all of each."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ostler_common.errors import FailedPreconditionError, NotFoundError, bad_field

from ostler_control import database, events
from ostler_control.drs import settings as drs
from ostler_control.hypervisors import registry
from ostler_control.models import Cluster, SettingValue

MIB = 1 << 20
CUSTOM_NAME = "hypervisor.custom.display.name"
HYPERVISOR_LIST = "hypervisor.list"


@dataclass(frozen=True)
class Kind:
    """A type of value. parse raises ValueError, whose text says what is wrong."""

    name: str
    parse: Callable[[str], Any]


def _whole(text: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,18}", text, re.ASCII):
        raise ValueError("is no whole number")
    return int(text)


def _integer(low: int, high: int, unit: str) -> Kind:
    def parse(text: str) -> int:
        value = _whole(text)
        if not low <= value <= high:
            raise ValueError(f"must be {low} to {high}")
        return value

    return Kind(f"integer, {low} to {high}, {unit}", parse)


def _truth(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError("must be true or false")
    return text == "true"


def _proxy(text: str) -> str:
    if text and not re.fullmatch(r"https?://[^\s/@]+/?", text):
        raise ValueError("must be http://HOST:PORT, without user name and password, or empty")
    return text


_BOOLEAN = Kind("boolean, true or false", _truth)


def _types() -> dict[str, registry.Known]:
    return registry.known(get(CUSTOM_NAME))


def _custom_name(text: str) -> str:
    registry.check_custom_name(text, _types())
    return text


def _shown_types(text: str) -> str:
    types = _types()
    return ", ".join(types[word].display_name if word in types else word for word in _WORDS.parse(text))


_NAME = Kind(f"text, {registry.NAME_RULE}", str)
_WORDS = Kind(
    "list of types of hypervisor or their names, separated by commas", lambda text: tuple(filter(None, text.split(",")))
)


@dataclass(frozen=True)
class Setting:
    """A setting. default: as text, like every value on the wire and in the database.

    accept: from a new value to what is stored, or ValueError; looks at the rest of the database. show: the way back.
    """

    name: str
    kind: Kind
    default: str
    description: str
    cluster_scoped: bool = False
    accept: Callable[[str], str] = str
    show: Callable[[str], str] = str


def _of_drs(spec: drs.Spec) -> Setting:
    """A setting of the planner, which knows its own type and range."""
    default = str(spec.default).lower() if spec.type is bool else str(spec.default)
    return Setting(spec.name, Kind(spec.allowed, spec.parse), default, spec.description, spec.cluster_scoped)


_TABLE = (
    Setting("agent.load.interval", _integer(1, 300, "seconds"), "5", "How often hosts report their load."),
    Setting(
        "direct.download.allow.private",
        _BOOLEAN,
        "false",
        "Whether hosts may fetch templates from addresses that are not of the public Internet (10.0.0.0/8 and such).",
    ),
    Setting(
        "direct.download.max.size",
        _integer(1, 1 << 30, "MiB"),
        str(1 << 20),
        "The largest file that hosts fetch as a template by themselves.",
    ),
    Setting(
        "direct.download.proxy",
        Kind("an http:// or https:// address, or nothing", _proxy),
        "",
        "HTTP proxy through which hosts fetch templates by themselves; empty: none.",
    ),
    Setting(
        "drs.plan.max.failures",
        _integer(1, 1000, "moves"),
        "3",
        "A plan of which so many moves have failed begins no further ones.",
        cluster_scoped=True,
    ),
    Setting("event.retention", _integer(1, 3650, "days"), "90", "How long events are kept."),
    Setting(
        "host.reserved.memory",
        _integer(0, 1 << 40, "bytes"),
        str(512 * MIB),
        "Memory of each host that is kept for the host itself and never given to VMs.",
        cluster_scoped=True,
    ),
    Setting(
        CUSTOM_NAME,
        _NAME,
        registry.DEFAULT_CUSTOM_NAME,
        "What people call the type of hypervisor that drivers call custom.",
        accept=_custom_name,
    ),
    Setting(
        HYPERVISOR_LIST,
        _WORDS,
        "",
        "Types of hypervisor that new clusters and VMs may be of; empty: all.",
        accept=lambda text: registry.parse_list(text, _types()),
        show=_shown_types,
    ),
    Setting(
        "luks.iter.time",
        _integer(1, 10_000, "milliseconds"),
        "10",
        "Time spent on stretching an encrypted volume's passphrase at every opening. Passphrases are 256 random bits, "
        "which need no stretching; more only costs CPU.",
    ),
    Setting(
        "luks.chosen.iter.time",
        _integer(1, 60_000, "milliseconds"),
        "2000",
        "The same for passphrases that people choose: those of downloads, and of templates made of encrypted volumes. "
        "Whoever has such a file needs that long for each guess; so does each opening.",
    ),
    Setting(
        "migration.auto.converge",
        _BOOLEAN,
        "true",
        "Whether a VM that dirties memory faster than it is copied is slowed until its migration converges.",
        cluster_scoped=True,
    ),
    Setting(
        "migration.bandwidth",
        _integer(0, 1_000_000, "MiB per second"),
        "0",
        "The most that one live migration sends; 0 means no limit.",
        cluster_scoped=True,
    ),
    Setting(
        "migration.max.downtime",
        _integer(1, 60_000, "milliseconds"),
        "300",
        "How long a VM may stand still at the end of a live migration.",
        cluster_scoped=True,
    ),
    Setting(
        "migration.timeout",
        _integer(10, 604_800, "seconds"),
        "3600",
        "A live migration that takes longer is given up; the VM stays where it was.",
        cluster_scoped=True,
    ),
    Setting(
        "vm.stop.timeout",
        _integer(1, 3600, "seconds"),
        "60",
        "How long a guest gets to shut down before its plug is pulled.",
        cluster_scoped=True,
    ),
)
SETTINGS = {
    setting.name: setting
    for setting in sorted(
        # Overcommit is the cluster's own, not a setting.
        (*_TABLE, *(_of_drs(spec) for spec in drs.TABLE if spec.name.startswith("drs."))),
        key=lambda setting: setting.name,
    )
}


@dataclass(frozen=True)
class InForce:
    """A setting's value as it applies. cluster_id: the cluster whose own value it is, else ""."""

    setting: Setting
    value: str
    cluster_id: str


def find(name: str) -> Setting:
    """The setting of this name; NotFoundError when there is none."""
    if name in SETTINGS:
        return SETTINGS[name]
    raise NotFoundError(
        f'there is no setting "{name}" (there are {", ".join(SETTINGS)})', "SETTING_NOT_FOUND", {"name": name}
    )


def get(name: str, cluster_id: str | None = None) -> Any:
    """The value in force, as its type: the cluster's own, else the global one, else the default."""
    setting = SETTINGS[name]
    return setting.kind.parse(in_force([setting], cluster_id)[0].value)


def of_drs(cluster: Cluster) -> drs.Settings:
    """The planner's settings for a cluster."""
    names = [name for name in drs.SPECS if name in SETTINGS]
    found = in_force([SETTINGS[name] for name in names], str(cluster.id))
    overcommit = {
        "overcommit.cpu": float(cluster.cpu_overcommit),
        "overcommit.memory": float(cluster.memory_overcommit),
    }
    return drs.Settings.of({**{row.setting.name: row.value for row in found}, **overcommit})


def by_cluster(name: str) -> dict[str, Any]:
    """The values of those clusters that have their own; under "" the one for all others."""
    setting = SETTINGS[name]
    rows = SettingValue.select(SettingValue.cluster_id, SettingValue.value).where(SettingValue.name == name).tuples()
    return {cluster_id: setting.kind.parse(value) for cluster_id, value in [("", setting.default), *rows]}


def in_force(settings: list[Setting], cluster_id: str | None = None) -> list[InForce]:
    """These settings with their values for this cluster, or globally."""
    scopes = ["", cluster_id] if cluster_id else [""]
    names = [setting.name for setting in settings]
    rows = SettingValue.select().where(SettingValue.name.in_(names), SettingValue.cluster_id.in_(scopes))
    changed = {(row.name, row.cluster_id): row.value for row in rows}

    def one(setting: Setting) -> InForce:
        for scope in reversed(scopes):
            if (setting.name, scope) in changed:
                return InForce(setting, changed[setting.name, scope], scope)
        return InForce(setting, setting.default, "")

    return [one(setting) for setting in settings]


def change(name: str, value: str, actor: str, cluster: Cluster | None = None) -> None:
    """Sets a value, for one cluster or globally. Raises InvalidArgumentError for a bad value."""
    setting = _scoped(name, cluster)
    value = value.strip()
    cluster_id = str(cluster.id) if cluster else ""
    with database.transaction():
        try:
            setting.kind.parse(value)
            value = setting.accept(value)
        except ValueError as error:
            raise bad_field("value", f"{error} ({name}: {setting.kind.name})", reason="INVALID_SETTING") from None
        (
            SettingValue.insert(name=name, cluster_id=cluster_id, value=value)
            .on_conflict(
                conflict_target=[SettingValue.name, SettingValue.cluster_id], update={SettingValue.value: value}
            )
            .execute()
        )
        _record("setting.update", actor, name, cluster, f"set to {setting.show(value)}")


def reset(name: str, actor: str, cluster: Cluster | None = None) -> None:
    """Puts the global value back to the default, or a cluster's to the global one."""
    _scoped(name, cluster)
    cluster_id = str(cluster.id) if cluster else ""
    with database.transaction():
        count = SettingValue.delete().where(SettingValue.name == name, SettingValue.cluster_id == cluster_id).execute()
        if count:
            _record("setting.reset", actor, name, cluster, "put back")


def _scoped(name: str, cluster: Cluster | None) -> Setting:
    setting = find(name)
    if cluster is not None and not setting.cluster_scoped:
        raise FailedPreconditionError(
            f"{name} has one value for the whole fleet: set it without a cluster", "NOT_CLUSTER_SCOPED", {"name": name}
        )
    return setting


def _record(type: str, actor: str, name: str, cluster: Cluster | None, message: str) -> None:
    where = f" for cluster {cluster.name}" if cluster else ""
    events.record(type, events.Outcome.SUCCEEDED, actor, "setting", name, name, message + where)
