"""What new VMs and volumes ask of hypervisors, checked against the types in question before anything is placed."""

from __future__ import annotations

from collections.abc import Iterable

from ostler_common.errors import FailedPreconditionError
from ostler_common.hypervisors import Function, not_supported

from ostler_control.hypervisors import registry, rules
from ostler_control.models import Cluster, Host, Pool, PoolHost, Template, Zone, tuples


def check_supported(
    template: Template | None,
    needed: Iterable[Function],
    *,
    host: Host | None = None,
    cluster: Cluster | None = None,
    zone: Zone | None = None,
) -> None:
    """Refuses what no host in question can do, however much of it is free.

    template None: an empty root disk. Where nothing is known of a type, placement tells what is missing.
    Raises FailedPreconditionError: OTHER_HYPERVISOR_TYPE when the template is for another type, HYPERVISOR_NOT_ALLOWED,
    FORMAT_NOT_SUPPORTED, FUNCTION_NOT_SUPPORTED.
    """
    if host is not None:
        types, known = {host.hypervisor_type} - {""}, rules.known()
    else:
        reports, types = registry.reported_and_used(cluster.id if cluster else "", zone.id if zone else "")
        known = rules.known(reports)
    if template and template.hypervisor_type and types:
        if template.hypervisor_type not in types:
            wanted = known[template.hypervisor_type].display_name
            raise FailedPreconditionError(
                f"template {template.name} is for hypervisors of type {wanted}, and {_where(host, cluster, zone)} has "
                f"only {', '.join(rules.name_of(word) for word in sorted(types))}",
                "OTHER_HYPERVISOR_TYPE",
                {"template": template.name, "hypervisor_type": template.hypervisor_type},
            )
        types = {template.hypervisor_type}
    if (may := rules.allowed()) and types:
        if not types & may:
            rules.check_allowed(min(types))
        types &= may
    reported = [known[word] for word in sorted(types) if word in known and known[word].reported]
    if not reported or len(reported) < len(types):
        return
    shown = ", ".join(of_type.display_name for of_type in reported)
    if template and not any(template.format in of_type.template_formats for of_type in reported):
        raise format_not_supported(f"template {template.name}", template.format, shown)
    for function in needed:
        if not any(function in of_type.functions for of_type in reported):
            raise not_supported(function, shown)


def check_pool_format(pool: Pool, disk_format: str) -> None:
    """Refuses a volume that no host reaching its pool could attach to a VM. Raises FORMAT_NOT_SUPPORTED."""
    query = Host.select(Host.hypervisor_type, Host.template_formats).join(PoolHost)
    query = query.where((PoolHost.pool == pool.id) & PoolHost.reachable & ~Host.removed).distinct()
    reaching = [(word, registry.split(formats)) for word, formats in tuples(query, tuple[str, str])]
    if reaching and not any(disk_format in formats or not formats for _, formats in reaching):
        types = ", ".join(sorted({rules.name_of(word) for word, _ in reaching}))
        raise format_not_supported(f"a volume in pool {pool.name}", disk_format, types)


def format_not_supported(what: str, disk_format: str, type_name: str) -> FailedPreconditionError:
    """The refusal of a disk's layout that a type of hypervisor cannot use."""
    return FailedPreconditionError(
        f"{what} is in the format {disk_format}, which hypervisors of type {type_name} cannot use",
        "FORMAT_NOT_SUPPORTED",
        {"format": disk_format, "hypervisor_type": type_name},
    )


def _where(host: Host | None, cluster: Cluster | None, zone: Zone | None) -> str:
    for kind, row in (("host", host), ("cluster", cluster), ("zone", zone)):
        if row is not None:
            return f"{kind} {row.name}"
    return "the fleet"
