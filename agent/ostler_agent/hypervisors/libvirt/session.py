"""What every operation on VMs works with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ostler_agent.hypervisors.libvirt.console_log import ConsoleLogs
from ostler_agent.hypervisors.libvirt.events import Events
from ostler_agent.hypervisors.libvirt.locks import VmLocks
from ostler_agent.hypervisors.libvirt.secrets import Secrets


@dataclass(frozen=True)
class Session:
    """What all parts of one open driver share.

    connect: returns the open virConnect, raises UnavailableError LIBVIRT_UNAVAILABLE; locks: one per VM; domain_type:
    "auto" (kvm if libvirt lists it), "kvm" or "qemu".
    """

    connect: Callable[[], Any]
    locks: VmLocks
    secrets: Secrets
    events: Events
    domain_type: str
    logs: ConsoleLogs
