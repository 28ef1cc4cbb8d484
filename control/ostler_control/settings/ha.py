"""Settings of high availability."""

from __future__ import annotations

from ostler_control.models import Pool
from ostler_control.settings.kinds import BOOLEAN, integer, text
from ostler_control.settings.scopes import PER_CLUSTER
from ostler_control.settings.setting import AnySetting, Setting


def _accept_pool(name: str) -> str:
    if not name:
        return ""
    pool = Pool.get_or_none(Pool.name == name) or Pool.get_or_none(Pool.id == name)
    if pool is None:
        raise ValueError(f"there is no pool {name}")
    if not pool.shared:
        raise ValueError(f"pool {name} is not shared: other hosts must read the leases")
    return str(pool.id)


def _show_pool(stored: str) -> str:
    pool = Pool.get_or_none(Pool.id == stored) if stored else None
    return pool.name if pool else stored


ENABLE = Setting(
    "ha.enable",
    BOOLEAN,
    "true",
    "Whether silent hosts that have protected VMs and a fence device are fenced without an admin.",
    PER_CLUSTER,
)
FENCE_DELAY = Setting(
    "ha.fence.delay",
    integer(10, 3600, "seconds"),
    "60",
    "How long a host must be silent without a break before it is fenced.",
    PER_CLUSTER,
)
FENCE_LIMIT = Setting(
    "ha.fence.limit",
    integer(1, 100, "fencings"),
    "3",
    "How many hosts of a cluster are fenced in an hour without an admin, and how often each of them.",
    PER_CLUSTER,
)
RESERVE_HOSTS = Setting(
    "ha.reserve.hosts",
    integer(0, 16, "hosts"),
    "0",
    "How many failed hosts' worth of capacity placement leaves free in a cluster for restarting VMs.",
    PER_CLUSTER,
)

LEASE_POOL = Setting(
    "ha.lease.pool",
    text("name of a shared pool, or empty"),
    "",
    "Pool in which hosts keep the leases by which they fence themselves; empty: they do not.",
    PER_CLUSTER,
    accept=_accept_pool,
    show=_show_pool,
)

SETTINGS: tuple[AnySetting, ...] = (ENABLE, FENCE_DELAY, FENCE_LIMIT, RESERVE_HOSTS, LEASE_POOL)
