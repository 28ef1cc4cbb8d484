"""The types with their hosts, and where those contradict each other."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ostler_control.hypervisors import registry, rules
from ostler_control.hypervisors.registry import Known
from ostler_control.models import Cluster, Host, HostState, HypervisorType

_HOSTS_NAMED = 5


@dataclass(frozen=True)
class Listed:
    """A type as it stands. pool_types: that its hosts can use; conflicts: for people; partial_functions: that only some
    of its hosts support."""

    type: Known
    pool_types: frozenset[str]
    host_count: int
    up_count: int
    cluster_count: int
    allowed: bool
    conflicts: tuple[str, ...]
    partial_functions: frozenset[str]


def types() -> list[Listed]:
    """Every known type."""
    known, may = rules.known(), rules.allowed()
    clusters: Counter[str] = Counter(row.hypervisor_type for row in Cluster.select(Cluster.hypervisor_type))
    told: dict[str, str] = {row.type: row.display_name for row in HypervisorType.select()}
    hosts: dict[str, list[Host]] = {}
    wanted = (Host.id, Host.name, Host.state, Host.hypervisor_type, Host.capabilities, Host.template_formats)
    for host in Host.select(*wanted, Host.functions).where(~Host.removed).order_by(Host.name):
        hosts.setdefault(host.hypervisor_type, []).append(host)

    def listed(of_type: Known) -> Listed:
        own = hosts.get(of_type.type, [])
        reports = {host.id: json.loads(host.capabilities or "{}") for host in own}
        return Listed(
            of_type,
            frozenset(word for report in reports.values() for word in report.get("poolTypes", ())),
            len(own),
            sum(host.state is HostState.UP for host in own),
            clusters[of_type.type],
            not may or of_type.type in may,
            (*_names(of_type, told.get(of_type.type, ""), known), *_reports(own, reports)),
            frozenset[str]().union(*(of_type.functions - registry.split(host.functions) for host in own)),
        )

    return [listed(of_type) for of_type in known.values()]


def _names(of_type: Known, told: str, known: Mapping[str, Known]) -> Iterable[str]:
    """Where a type's name was taken by another type."""
    if of_type.type == registry.CUSTOM:
        if of_type.display_name.casefold() in known.keys() - {of_type.type}:
            yield f'a driver has brought the type "{of_type.display_name.casefold()}": rename this one'
    elif told and told != of_type.display_name:
        yield f'its driver calls it "{told}", which is not a valid name, or is another type\'s'


def _reports(hosts: Sequence[Host], reports: Mapping[str, Mapping[str, str]]) -> Iterable[str]:
    """What its hosts report differently."""
    questions: dict[str, Callable[[Host], str]] = {
        "its name": lambda host: reports[host.id].get("hypervisorDisplayName", ""),
        "template formats": lambda host: host.template_formats,
        "functions": lambda host: host.functions,
    }
    for what, ask in questions.items():
        said: dict[str, list[str]] = {}
        for host in hosts:
            said.setdefault(ask(host), []).append(host.name)
        if len(said) > 1:
            parts = (f"{_listed(names)}: {answer or 'none'}" for answer, names in sorted(said.items()))
            yield f"hosts differ in {what} ({'; '.join(parts)})"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _HOSTS_NAMED} more" if len(names) > _HOSTS_NAMED else ""
    return ", ".join(names[:_HOSTS_NAMED]) + more
