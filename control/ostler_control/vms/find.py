"""The hosts that a VM can run on."""

from __future__ import annotations

from ostler_control.hosts import cpus
from ostler_control.models import Host, Vm
from ostler_control.placement import Candidate, Demand
from ostler_control.scheduling import placement_query


def find_hosts(vm: Vm) -> list[Candidate]:
    """Every host and what placement says of it for this VM, best first. For one that runs: where it could move to."""
    return placement_query.candidates(migration_demand(vm) if vm.host_id else placement_query.demand_of(vm))


def migration_demand(vm: Vm, **changes: object) -> Demand:
    """What a running VM demands of its next host: another one than its present host, in the same zone, of the same
    hypervisor type. changes: further fields of Demand."""
    host = Host.get_by_id(vm.host_id)
    fields = {
        "excluded_host_id": host.id,
        "reserve_of": host.cluster_id,
        "zone_id": host.cluster.zone_id,
        "hypervisor_type": host.hypervisor_type,
        "cpu_hosts": cpus.hosts_for(vm),
    }
    return placement_query.demand_of(vm, **{**fields, **changes})
