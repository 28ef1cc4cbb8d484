"""Power plans out of the database."""

from __future__ import annotations

import datetime
from collections.abc import Collection

from ostler_common.hypervisors import Function

from ostler_control.drs.power import PowerPlan, power_plan
from ostler_control.drs_plans.snapshot import take
from ostler_control.hypervisors import rules
from ostler_control.models import Cluster, FenceDevice, Host, Pool, Volume, tuples


def plan_power(cluster: Cluster, time: datetime.datetime | None = None, leave_out: Collection[str] = ()) -> PowerPlan:
    """Which hosts of the cluster could be off, or should be on. Raises FailedPreconditionError FUNCTION_NOT_SUPPORTED
    where VMs cannot migrate.

    Only hosts with a fence device are switched, and none that has volumes on storage of its own: those could not be
    used meanwhile. leave_out: ids of hosts that are not to be switched either.
    """
    rules.need_of_type(Function.LIVE_MIGRATION, cluster.hypervisor_type)
    present = take(cluster, time)
    return power_plan(present.snapshot, present.settings, _switchable(cluster) - set(leave_out))


def _switchable(cluster: Cluster) -> set[str]:
    query = FenceDevice.select(FenceDevice.host).join(Host).where(Host.cluster == cluster.id)
    with_device = {host_id for (host_id,) in tuples(query, tuple[str])}
    own = Volume.select(Pool.scope_id).join(Pool, on=(Volume.pool == Pool.id)).where(Pool.scope == "host")
    return with_device - {host_id for (host_id,) in tuples(own.distinct(), tuple[str])}
