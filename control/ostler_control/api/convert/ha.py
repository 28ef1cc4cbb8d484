"""Fence devices, priorities and the status of high availability."""

from __future__ import annotations

import json

from ostler.control.v1 import ha_pb2 as pb
from ostler.control.v1 import host_pb2

from ostler_control.api.convert.enums import to_enum
from ostler_control.api.convert.guards import guard_word
from ostler_control.api.convert.times import timestamp
from ostler_control.ha.status import HostStatus, Status
from ostler_control.models import FenceDevice, Priority, VmRestart
from ostler_control.placement.reserve import Shortfall

PREFIX = "PRIORITY_"


def priority(word: Priority | None) -> pb.Priority.ValueType:
    """None: unspecified."""
    value: pb.Priority.ValueType = to_enum(pb.Priority, PREFIX, word or "")
    return value


def device(row: FenceDevice) -> pb.FenceDevice:
    """Without its password, of course."""
    return pb.FenceDevice(
        host_name=row.name,
        host_id=row.host_id,
        agent=row.agent,
        address=row.address,
        username=row.username,
        options=json.loads(row.options),
        power_on=row.power_on,
        test_time=timestamp(row.test_time),
        test_power=row.test_power,
        test_error=row.test_error,
    )


def status(found: Status) -> pb.HaStatus:
    return pb.HaStatus(
        cluster_name=found.cluster.name,
        enabled=found.enabled,
        reserve_hosts=found.reserve_hosts,
        reserve_holds=found.shortfall is None,
        reserve_explanation=_explanation(found.shortfall),
        protected_vms=found.protected_vms,
        hosts=[_host(host) for host in found.hosts],
        restarts=[_restart(row) for row in found.restarts],
    )


def _explanation(missing: Shortfall | None) -> str:
    if missing is None:
        return ""
    what = "protected VM finds" if missing.vms == 1 else "protected VMs find"
    return f"if {' and '.join(missing.hosts)} fails, {missing.vms} {what} no place on the other hosts"


def _host(host: HostStatus) -> pb.HaStatus.HostStatus:
    return pb.HaStatus.HostStatus(
        host_name=host.row.name,
        state=to_enum(host_pb2.Host.State, "", host.row.state),
        has_fence_device=host.facts.has_device,
        fence_device_error=host.device_error,
        verdict=host.verdict,
        explanation=host.explanation,
        protected_vms=host.facts.protected_vms,
        self_fencing=guard_word(host.guard),
        self_fencing_error=host.guard.reason if host.guard else "",
    )


def _restart(row: VmRestart) -> pb.HaStatus.Restart:
    return pb.HaStatus.Restart(
        vm_name=row.vm.name,
        priority=priority(row.priority),
        attempts=row.attempts,
        reason=row.reason,
        next_time=timestamp(row.next_time),
    )
