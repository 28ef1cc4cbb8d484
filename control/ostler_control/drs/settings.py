"""The settings of DRS: one table says name, default, range and meaning of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from typing import Any

from ostler_common.errors import InvalidArgumentError, Violation

from ostler_control.drs import windows


@dataclass(frozen=True)
class Spec:
    """One setting. type: bool, int, float or str; choices: for text, empty: any name; unit: for people; check: of text,
    raises ValueError."""

    name: str
    type: type
    default: Any
    description: str
    low: float = 0
    high: float = 0
    unit: str = ""
    choices: tuple[str, ...] = ()
    cluster_scoped: bool = True
    check: Callable[[Any], object] | None = None

    @property
    def attribute(self) -> str:
        """Its name in `Settings`."""
        return self.name.removeprefix("drs.").replace(".", "_")

    @property
    def allowed(self) -> str:
        """What it may be, in words."""
        if self.type is bool:
            return "true or false"
        if self.type is str:
            return " or ".join(self.choices) if self.choices else "a name"
        kind = "a whole number" if self.type is int else "a number"
        return f"{kind}, {self.low:g} to {self.high:g}{' ' + self.unit if self.unit else ''}"

    def parse(self, value: object) -> Any:
        """The value as its type, from JSON or from text. Raises ValueError, whose text says what it must be."""
        parsed: object = _from_text(self.type, value) if isinstance(value, str) and self.type is not str else value
        if self.type is float and type(parsed) is int:
            parsed = float(parsed)
        if type(parsed) is not self.type or not self._holds(parsed):
            raise ValueError(f"must be {self.allowed}")
        if self.check is not None:
            self.check(parsed)
        return parsed

    def _holds(self, value: object) -> bool:
        if self.type is bool:
            return True
        if self.type is str:
            text = str(value)
            return text in self.choices if self.choices else 0 < len(text) <= 1024 and text.isprintable()
        return isinstance(value, int | float) and self.low <= value <= self.high


def _from_text(type_: type, text: str) -> object:
    if type_ is bool:
        return {"true": True, "false": False}.get(text)
    try:
        return type_(text)
    except ValueError:
        return None


# Metrics that add the time in which work waits to what is used -> the resource whose use that is. No kernel says which
# VM waits for I/O; a VM's use of CPU stands for it.
PRESSURES = {"cpu-pressure": "cpu", "memory-pressure": "memory", "io-pressure": "cpu"}

TABLE = (
    Spec("drs.automatic.enable", bool, False, "Whether plans are generated and executed automatically."),
    Spec(
        "drs.automatic.interval",
        int,
        60,
        "Time from a plan to the next automatic one.",
        1,
        43_200,
        "minutes",
    ),
    Spec(
        "drs.automatic.hold",
        int,
        5,
        "How long a cluster must be unbalanced, or a host hot, before an automatic plan acts.",
        0,
        1440,
        "minutes",
    ),
    Spec(
        "drs.hot.threshold",
        float,
        0.9,
        "A host that uses more than this share of its CPUs or memory is hot, which brings a plan forward. 1: none is.",
        0,
        1,
    ),
    Spec(
        "drs.automatic.shadow",
        bool,
        False,
        "Whether automatic plans are only recorded, with what they would gain, and not executed.",
    ),
    Spec(
        "drs.automatic.window",
        str,
        windows.ALWAYS,
        'When automatic plans may move VMs, in UTC: always, or such as "Mon-Fri 22:00-06:00, Sat 00:00-24:00".',
        check=windows.parse,
    ),
    Spec("drs.max.migrations", int, 50, "The maximum number of moves of one plan.", 1, 1000),
    Spec("drs.algorithm", str, "balanced", "balanced, condensed, or the name of a plug-in."),
    Spec("drs.imbalance", float, 0.4, "How even a cluster must be: 1.0 allows no imbalance, 0.0 any.", 0, 1),
    Spec(
        "drs.metric",
        str,
        "memory",
        "Which load is evened out; a pressure is measured use and the share of time in which work waits, together.",
        choices=("memory", "cpu", "both", *PRESSURES),
    ),
    Spec("drs.metric.type", str, "used", "Whether what is used or what is free counts.", choices=("used", "free")),
    Spec("drs.metric.use.ratio", bool, True, "Whether shares of the host count, not absolute numbers."),
    Spec(
        "drs.imbalance.condensed.skip.threshold",
        float,
        0.95,
        "condensed does not measure hosts that use more than this share (drs.metric.type free: have less free).",
        0,
        1,
    ),
    Spec(
        "drs.source",
        str,
        "allocated",
        "Which numbers count: what is allocated to VMs, or what they use.",
        choices=("allocated", "measured"),
    ),
    Spec("drs.min.gain", float, 0.0, "A move (or swap) that gains less imbalance than this is not made.", 0, 1),
    Spec(
        "drs.cost.weight",
        float,
        0.1,
        "Imbalance that sending all of the cluster's memory must at least remove.",
        0,
        1000,
    ),
    Spec(
        "drs.vm.cooldown",
        int,
        30,
        "How long a VM stays where it was moved to; twice as long for each further move within a day.",
        0,
        43_200,
        "minutes",
    ),
    Spec(
        "drs.storage.motion", bool, False, "Whether a VM may move together with disks that its new host cannot reach."
    ),
    Spec(
        "drs.migration.speed",
        int,
        1000,
        "Expected speed of a live migration; tells what dirtied memory costs.",
        1,
        1_000_000,
        "MiB per second",
    ),
    Spec(
        "drs.max.parallel.per.host",
        int,
        2,
        "The maximum number of concurrent moves from and to one host.",
        1,
        100,
    ),
    Spec("drs.max.parallel.per.cluster", int, 4, "The maximum number of concurrent moves of a plan.", 1, 1000),
    Spec(
        "drs.power.off.threshold",
        float,
        0.6,
        "Hosts could be off as long as the others have at most this share of CPUs and memory allocated.",
        0,
        1,
    ),
    Spec(
        "drs.power.on.threshold",
        float,
        0.8,
        "Hosts are switched on once the others have more than this share of CPUs or memory allocated.",
        0,
        1,
    ),
    Spec("drs.plan.expire.interval", int, 30, "How long plans are kept.", 1, 3650, "days", cluster_scoped=False),
    Spec(
        "ha.reserve.hosts",
        int,
        0,
        "For how many failed hosts the others keep capacity free: a plan leaves no more protected VMs without a place.",
        0,
        16,
        "hosts",
    ),
    Spec("overcommit.cpu", float, 1.0, "CPU allocated per CPU of a host.", 1, 100),
    Spec("overcommit.memory", float, 1.0, "Memory allocated per memory of a host.", 1, 100),
)
SPECS = {spec.name: spec for spec in TABLE}


def _default(name: str) -> Any:
    return field(default=SPECS[name].default)


@dataclass(frozen=True)
class Settings:
    """The settings as values; `TABLE` explains each."""

    automatic_enable: bool = _default("drs.automatic.enable")
    automatic_interval: int = _default("drs.automatic.interval")
    automatic_hold: int = _default("drs.automatic.hold")
    hot_threshold: float = _default("drs.hot.threshold")
    automatic_shadow: bool = _default("drs.automatic.shadow")
    automatic_window: str = _default("drs.automatic.window")
    max_migrations: int = _default("drs.max.migrations")
    algorithm: str = _default("drs.algorithm")
    imbalance: float = _default("drs.imbalance")
    metric: str = _default("drs.metric")
    metric_type: str = _default("drs.metric.type")
    metric_use_ratio: bool = _default("drs.metric.use.ratio")
    imbalance_condensed_skip_threshold: float = _default("drs.imbalance.condensed.skip.threshold")
    source: str = _default("drs.source")
    min_gain: float = _default("drs.min.gain")
    cost_weight: float = _default("drs.cost.weight")
    vm_cooldown: int = _default("drs.vm.cooldown")
    storage_motion: bool = _default("drs.storage.motion")
    migration_speed: int = _default("drs.migration.speed")
    max_parallel_per_host: int = _default("drs.max.parallel.per.host")
    max_parallel_per_cluster: int = _default("drs.max.parallel.per.cluster")
    plan_expire_interval: int = _default("drs.plan.expire.interval")
    power_off_threshold: float = _default("drs.power.off.threshold")
    power_on_threshold: float = _default("drs.power.on.threshold")
    ha_reserve_hosts: int = _default("ha.reserve.hosts")
    overcommit_cpu: float = _default("overcommit.cpu")
    overcommit_memory: float = _default("overcommit.memory")

    @classmethod
    def of(cls, values: Mapping[str, object], path: str = "settings") -> Settings:
        """From values by their full names. Raises InvalidArgumentError (INVALID_SETTING) naming `path`["name"]."""
        parsed = {}
        for name, value in values.items():
            where = f'{path}["{name[:64]}"]'.encode("utf-8", "backslashreplace").decode()
            if name not in SPECS:
                near = get_close_matches(name, SPECS, 1)
                hint = f"did you mean {near[0]}?" if near else "docs/drs.md lists them"
                raise _invalid(where, f"there is no such setting ({hint})")
            try:
                parsed[SPECS[name].attribute] = SPECS[name].parse(value)
            except ValueError as error:
                raise _invalid(where, str(error)) from None
        return cls(**parsed)

    @property
    def resource(self) -> str:
        """Whose use is evened out: cpu, memory or both."""
        return PRESSURES.get(self.metric, self.metric)

    @property
    def measures(self) -> bool:
        """Whether numbers come from the hosts' load rather than from what is allocated."""
        return self.source == "measured" or self.metric in PRESSURES

    def of_allocated(self) -> Settings:
        """The same on what is allocated, for hosts whose load is not known."""
        return replace(self, source="allocated", metric=self.resource)

    def as_dict(self) -> dict[str, object]:
        """By full names."""
        by_attribute = {spec.attribute: spec.name for spec in TABLE}
        return {by_attribute[f.name]: getattr(self, f.name) for f in fields(self)}


def _invalid(where: str, what: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"{where} {what}", "INVALID_SETTING", violations=[Violation(where, what)])
