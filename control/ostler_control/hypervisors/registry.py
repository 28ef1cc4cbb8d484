"""The types that hosts have reported, and their names.

A driver chooses its type and display name; the administrator names the type "custom". All of these are accepted
wherever a type is given, case ignored; the database holds the type.
"""

from __future__ import annotations

import functools
import json
import math
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ostler.types.v1 import host_pb2, volume_pb2
from peewee import SQL, SelectBase

from ostler_control.models import Cluster, Host, HypervisorType, tuples
from ostler_control.prepared import Prepared, Value

CUSTOM = "custom"
DEFAULT_CUSTOM_NAME = "Custom"
NAME_RULE = "1 to 32 letters, digits, spaces and . _ + -, a letter or digit at both ends"

_TYPE = re.compile(r"[a-z][a-z0-9-]{0,31}", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9 ._+-]{0,30}[A-Za-z0-9])?", re.ASCII)
# How often all hosts of a type are read although a report changes nothing: one of them may have been removed.
_READ_INTERVAL_S = 60.0
# When they were last read, by the type's row.
_read_s: dict[str, float] = {}
# Words that mean something else where a type is given.
_RESERVED = frozenset({"all", "any", "default", "none"})


@dataclass(frozen=True)
class Known:
    """A type. display_name: no other type has it, case ignored; reported: by some host, now or once.

    template_formats, functions: what any of its hosts supports; own_name: what its driver calls it.
    """

    type: str
    display_name: str
    template_formats: frozenset[str] = frozenset()
    functions: frozenset[str] = frozenset()
    reported: bool = True
    own_name: str = ""


class Reported(NamedTuple):
    """What is kept of a type that hosts have reported."""

    type: str
    display_name: str
    template_formats: str
    functions: str


_COLUMNS = (
    HypervisorType.type,
    HypervisorType.display_name,
    HypervisorType.template_formats,
    HypervisorType.functions,
)


def reported() -> list[Reported]:
    """Every type that hosts have reported."""
    return [Reported(*row) for row in _REPORTED.rows(tuple[str, str, str, str])]


def reported_and_used(cluster_id: str = "", zone_id: str = "") -> tuple[list[Reported], set[str]]:
    """The same, and the types of the hosts (of this cluster, of this zone), in one statement."""
    query = _reported_and_used(bool(cluster_id), bool(zone_id))
    rows = query.rows(tuple[str, str, str, str, str], cluster=cluster_id, zone=zone_id)
    types = [Reported(*row[1:]) for row in rows if row[0] == "type"]
    return types, {row[1] for row in rows if row[0] == "host"}


_REPORTED = Prepared(lambda value: HypervisorType.select(*_COLUMNS))


@functools.cache
def _reported_and_used(by_cluster: bool, by_zone: bool) -> Prepared:
    def query(value: Value) -> SelectBase:
        empty = SQL("''")
        used = Host.select(SQL("'host'"), Host.hypervisor_type, empty, empty, empty).join(Cluster)
        used = used.where(~Host.removed & (Host.hypervisor_type != "")).distinct()
        if by_cluster:
            used = used.where(Cluster.id == value("cluster"))
        if by_zone:
            used = used.where(Cluster.zone == value("zone"))
        return HypervisorType.select(SQL("'type'"), *_COLUMNS).union_all(used)

    return Prepared(query)


def known(custom_name: str, of_hosts: Iterable[Reported] | None = None) -> dict[str, Known]:
    """Every type by its word.

    custom_name: the name in force of the type "custom", which is always among them; of_hosts: those that hosts have
    reported, where they were read.
    """
    rows = sorted(reported() if of_hosts is None else of_hosts)
    words = {CUSTOM, *(row.type for row in rows)}
    taken = {custom_name.casefold()}
    found: dict[str, Known] = {CUSTOM: Known(CUSTOM, custom_name, reported=False)}
    for row in rows:
        name = row.display_name
        if row.type == CUSTOM:
            name = custom_name
        elif not is_name(name) or name.casefold() in taken | (words - {row.type}):
            name = row.type  # its driver chose a name that is taken or not valid
        taken.add(name.casefold())
        found[row.type] = Known(
            row.type, name, split(row.template_formats), split(row.functions), own_name=row.display_name
        )
    return dict(sorted(found.items()))


def look_up(text: str, types: Mapping[str, Known]) -> Known:
    """The type that is named so; a type's own word comes before another's name, and what a driver calls its type last,
    if no other does. Raises ValueError naming the known."""
    wanted = text.strip().casefold()
    for of_type in (types.get(wanted), *types.values()):
        if of_type is not None and wanted in (of_type.type, of_type.display_name.casefold()):
            return of_type
    called = [of_type for of_type in types.values() if of_type.own_name and of_type.own_name.casefold() == wanted]
    if len(called) == 1:
        return called[0]
    names = ", ".join(of_type.display_name for of_type in types.values())
    raise ValueError(f'"{text.strip()}" is not a hypervisor type that hosts have reported (known: {names})')


def parse_list(text: str, types: Mapping[str, Known]) -> str:
    """A comma-separated list of types or their names as a sorted list of types. Raises ValueError."""
    return ",".join(sorted({look_up(part, types).type for part in text.split(",") if part.strip()}))


def check_custom_name(name: str, types: Mapping[str, Known]) -> None:
    """Raises ValueError unless the type "custom" can be named so: a valid name that no other type has."""
    if not is_name(name):
        raise ValueError(f"must be {NAME_RULE}")
    if name.casefold() in _RESERVED:
        raise ValueError(f'must not be "{name}", which would be taken for something else')
    for other in types.values():
        if other.type != CUSTOM and name.casefold() in (other.type, other.display_name.casefold()):
            raise ValueError(f'"{name}" is the name of another type of hypervisor, {other.type}')


def is_type(text: str) -> bool:
    """Whether this can be the word of a type."""
    return bool(_TYPE.fullmatch(text)) and text not in _RESERVED


def is_name(text: str) -> bool:
    return bool(_NAME.fullmatch(text))


def split(text: str) -> frozenset[str]:
    """A column's comma-separated words."""
    return frozenset(filter(None, text.split(",")))


def columns(capabilities: host_pb2.Capabilities) -> dict[str, str]:
    """What of a report the host's row keeps in columns of its own."""
    formats = [volume_pb2.DiskFormat.Name(value) for value in capabilities.template_formats]
    return {
        "template_formats": _join(name.removeprefix("DISK_FORMAT_").lower() for name in formats),
        "functions": _join(capabilities.functions),
    }


def learn(capabilities: host_pb2.Capabilities, before: tuple[str, str] = ("", "")) -> None:
    """Records what a type's hosts report, within the caller's transaction, after the host's own row.

    before: the host's template formats and functions in its row until now. A type keeps its name until all of its hosts
    report another one, so that no host alone renames it for the fleet.
    """
    if is_known(capabilities, before):
        return
    row = HypervisorType.get_or_none(HypervisorType.type == capabilities.hypervisor_type)
    if row is not None:
        _read_s[row.id] = time.monotonic()
    query = Host.select(Host.template_formats, Host.functions).distinct()
    query = query.where((Host.hypervisor_type == capabilities.hypervisor_type) & ~Host.removed)
    reports = tuples(query, tuple[str, str])
    values = {
        "display_name": _name_to_keep(capabilities),
        "template_formats": _join(word for formats, _ in reports for word in split(formats)),
        "functions": _join(word for _, functions in reports for word in split(functions)),
    }
    (
        HypervisorType.insert(type=capabilities.hypervisor_type, **values)
        .on_conflict(conflict_target=[HypervisorType.type], update=values)
        .execute()
    )


def is_known(capabilities: host_pb2.Capabilities, before: tuple[str, str]) -> bool:
    """Whether a report changes nothing of its type: it withdraws nothing, and all hosts were read a moment ago.

    Thousands of hosts report at once after a restart; each must not read the rows of all others.
    """
    row = HypervisorType.get_or_none(HypervisorType.type == capabilities.hypervisor_type)
    if row is None:
        return False
    report = columns(capabilities)
    formats, functions = split(report["template_formats"]), split(report["functions"])
    adds_nothing = (
        row.display_name == capabilities.hypervisor_display_name
        and formats <= split(row.template_formats)
        and functions <= split(row.functions)
    )
    withdraws_nothing = split(before[0]) <= formats and split(before[1]) <= functions
    is_new = time.monotonic() - _read_s.get(row.id, -math.inf) < _READ_INTERVAL_S
    return adds_nothing and withdraws_nothing and is_new


def _name_to_keep(capabilities: host_pb2.Capabilities) -> str:
    reported = capabilities.hypervisor_display_name
    row = HypervisorType.get_or_none(HypervisorType.type == capabilities.hypervisor_type)
    if row is None or row.display_name in ("", reported):
        return reported
    query = Host.select(Host.capabilities).where(
        (Host.hypervisor_type == capabilities.hypervisor_type) & ~Host.removed & (Host.capabilities != "")
    )
    for (text,) in tuples(query, tuple[str]):
        if json.loads(text).get("hypervisorDisplayName", "") != reported:
            return row.display_name
    return reported


def _join(words: Iterable[str]) -> str:
    return ",".join(sorted(set(words)))
