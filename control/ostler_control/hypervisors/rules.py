"""Checks on hypervisor types, made before anything starts."""

from __future__ import annotations

from collections.abc import Iterable

from ostler_common.errors import FailedPreconditionError, bad_field
from ostler_common.hypervisors import Function, not_supported

from ostler_control import settings
from ostler_control.hypervisors import registry
from ostler_control.hypervisors.registry import Known, Reported
from ostler_control.models import Cluster, Host


def known(of_hosts: Iterable[Reported] | None = None) -> dict[str, Known]:
    """Every type by its word. of_hosts: see `registry.known`."""
    return registry.known(settings.hypervisors.CUSTOM_DISPLAY_NAME.get(), of_hosts)


def names() -> dict[str, str]:
    """Display names by type; a type that is not among them is its own name."""
    return {of_type.type: of_type.display_name for of_type in known().values()}


def name_of(hypervisor_type: str) -> str:
    return names().get(hypervisor_type, hypervisor_type)


def find(text: str, field: str) -> Known:
    """The type of this word or name. Raises InvalidArgumentError UNKNOWN_HYPERVISOR_TYPE."""
    try:
        return registry.look_up(text, known())
    except ValueError as error:
        raise bad_field(field, str(error), "UNKNOWN_HYPERVISOR_TYPE") from None


def allowed() -> frozenset[str]:
    """The types that new clusters and VMs may be of; empty: all."""
    return frozenset(settings.hypervisors.HYPERVISOR_LIST.get())


def check_allowed(hypervisor_type: str) -> None:
    """Raises FailedPreconditionError HYPERVISOR_NOT_ALLOWED."""
    may = allowed()
    if may and hypervisor_type not in may:
        raise _not_allowed([hypervisor_type], may)


def _not_allowed(types: Iterable[str], may: Iterable[str]) -> FailedPreconditionError:
    shown = names()
    refused, listed = (", ".join(shown.get(word, word) for word in sorted(words)) for words in (types, may))
    return FailedPreconditionError(
        f"hypervisors of type {refused} are not allowed: the setting hypervisor.list has only {listed}",
        "HYPERVISOR_NOT_ALLOWED",
        {"hypervisor_type": ",".join(sorted(types))},
    )


def admit(cluster: Cluster, host_name: str, hypervisor_type: str) -> None:
    """Admits a host of a type to a cluster, within the caller's transaction; the first host sets the cluster's type.

    Raises FailedPreconditionError OTHER_HYPERVISOR_TYPE, HYPERVISOR_NOT_ALLOWED, BAD_HYPERVISOR_TYPE.
    """
    if not registry.is_type(hypervisor_type):
        raise FailedPreconditionError(
            f'host {host_name} reports the hypervisor type "{hypervisor_type}", which is not a lower-case word: '
            "tell its driver's authors",
            "BAD_HYPERVISOR_TYPE",
        )
    if not cluster.hypervisor_type:
        check_allowed(hypervisor_type)
        Cluster.update(hypervisor_type=hypervisor_type).where(
            (Cluster.id == cluster.id) & (Cluster.hypervisor_type == "")
        ).execute()
        cluster = Cluster.get_by_id(cluster.id)
    check_same(cluster, host_name, hypervisor_type)


def check_same(cluster: Cluster, host_name: str, hypervisor_type: str) -> None:
    """Raises FailedPreconditionError OTHER_HYPERVISOR_TYPE when a host's type is not its cluster's."""
    if cluster.hypervisor_type and hypervisor_type and cluster.hypervisor_type != hypervisor_type:
        shown = names()
        own, theirs = (shown.get(word, word) for word in (hypervisor_type, cluster.hypervisor_type))
        raise FailedPreconditionError(
            f"the hypervisor of host {host_name} is {own}, and cluster {cluster.name} is of type {theirs}: no VM is "
            f"placed there (have it join a cluster of its own type)",
            "OTHER_HYPERVISOR_TYPE",
            {"host": host_name, "hypervisor_type": hypervisor_type, "cluster_type": cluster.hypervisor_type},
        )


def need(function: Function, host: Host) -> None:
    """Raises FailedPreconditionError FUNCTION_NOT_SUPPORTED when the host has reported, and not this function."""
    if not supports(function, host):
        raise not_supported(function, name_of(host.hypervisor_type))


def supports(function: Function, host: Host) -> bool:
    """Whether the host has reported the function, or nothing yet."""
    return not host.hypervisor_type or function in registry.split(host.functions)


def need_of_type(function: Function, hypervisor_type: str) -> None:
    """The same for a type: raises when it is known, and none of its hosts has reported the function."""
    if not may_support(function, hypervisor_type):
        raise not_supported(function, name_of(hypervisor_type))


def may_support(function: Function, hypervisor_type: str) -> bool:
    """Whether some host of the type has reported the function, or nothing is known of the type."""
    return may_have(function, known().get(hypervisor_type))


def may_have(function: Function, of_type: Known | None) -> bool:
    """The same of a type that is at hand; None: nothing is known of it."""
    return of_type is None or not of_type.reported or function in of_type.functions
