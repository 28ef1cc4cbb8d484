"""Where a VM could go."""

from __future__ import annotations

from typing import Any

from ostler_control.models import Host
from ostler_control.placement import Candidate
from ostler_control.scheduling import placement_query


def find_hosts(vm: Any) -> list[Candidate]:
    """Every host and what placement says of it for this VM, best first. For one that runs: where it could move to."""
    return placement_query.candidates(migration_demand(vm) if vm.host_id else placement_query.demand_of(vm))


def migration_demand(vm: Any, **changes: Any) -> Any:
    """What a running VM asks of a host to move to: as ever, and not where it is, in its zone, of the same type."""
    host: Any = Host.get_by_id(vm.host_id)
    fields = {
        "excluded_host_id": host.id,
        "zone_id": host.cluster.zone_id,
        "hypervisor_type": host.hypervisor_type,
    }
    return placement_query.demand_of(vm, **{**fields, **changes})
