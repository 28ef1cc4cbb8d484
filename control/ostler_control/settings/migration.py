"""Settings of live migration."""

from __future__ import annotations

from ostler_control.settings.kinds import BOOLEAN, integer
from ostler_control.settings.scopes import PER_CLUSTER
from ostler_control.settings.setting import Setting

AUTO_CONVERGE = Setting(
    "migration.auto.converge",
    BOOLEAN,
    "true",
    "Whether a VM that dirties memory faster than it is copied is slowed until its migration converges.",
    PER_CLUSTER,
)
BANDWIDTH = Setting(
    "migration.bandwidth",
    integer(0, 1_000_000, "MiB per second"),
    "0",
    "Maximum bandwidth of one live migration; 0: no limit.",
    PER_CLUSTER,
)
MAX_DOWNTIME = Setting(
    "migration.max.downtime",
    integer(1, 60_000, "milliseconds"),
    "300",
    "Maximum time for which a VM is paused at the end of a live migration.",
    PER_CLUSTER,
)
TIMEOUT = Setting(
    "migration.timeout",
    integer(10, 604_800, "seconds"),
    "3600",
    "A live migration that takes longer is cancelled; the VM stays on its host.",
    PER_CLUSTER,
)

SETTINGS = (AUTO_CONVERGE, BANDWIDTH, MAX_DOWNTIME, TIMEOUT)
