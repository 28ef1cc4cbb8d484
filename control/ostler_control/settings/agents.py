"""Settings about hosts and their agents."""

from __future__ import annotations

from ostler_control.settings.kinds import integer
from ostler_control.settings.scopes import PER_CLUSTER
from ostler_control.settings.setting import Setting

AGENT_LOAD_INTERVAL = Setting(
    "agent.load.interval",
    integer(1, 300, "seconds"),
    "5",
    "How often hosts report their load. A change is in force for a host once the control plane connects to it again.",
    dynamic=False,
)
HOST_RESERVED_MEMORY = Setting(
    "host.reserved.memory",
    integer(0, 1 << 40, "bytes"),
    str(512 << 20),
    "Memory of each host that is reserved for the host itself and never allocated to VMs.",
    PER_CLUSTER,
)

SETTINGS = (AGENT_LOAD_INTERVAL, HOST_RESERVED_MEMORY)
