"""Settings of high availability."""

from __future__ import annotations

from ostler_control.settings.kinds import BOOLEAN, integer
from ostler_control.settings.scopes import PER_CLUSTER
from ostler_control.settings.setting import AnySetting, Setting

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
    "How many hosts of a cluster are fenced in an hour without an admin.",
    PER_CLUSTER,
)
RESERVE_HOSTS = Setting(
    "ha.reserve.hosts",
    integer(0, 16, "hosts"),
    "0",
    "How many failed hosts' worth of capacity placement leaves free in a cluster for restarting VMs.",
    PER_CLUSTER,
)

SETTINGS: tuple[AnySetting, ...] = (ENABLE, FENCE_DELAY, FENCE_LIMIT, RESERVE_HOSTS)
