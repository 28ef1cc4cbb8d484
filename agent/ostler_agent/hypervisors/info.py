"""What a driver states about its type of hypervisor."""

from __future__ import annotations

from dataclasses import dataclass

from ostler_common.driver_details import DetailField
from ostler_common.hypervisors import Function

from ostler_agent.spec import DiskFormat

# Increases with every change of `hypervisors.base` or `hypervisors.driver` that existing drivers must follow.
INTERFACE_VERSION = 1


@dataclass(frozen=True)
class DriverInfo:
    """The same on every host with the driver, whatever the host itself supports.

    interface_version: the INTERFACE_VERSION that the driver was written for, as a number; type: lower-case word
    that names the type of hypervisor everywhere ("kvm"); display_name: its name for people (the fleet's administrator
    may change that of the type "custom"); template_formats: formats that a VM's disks may have; functions: what the
    driver supports beyond the core of `base.Hypervisor`; pool_types: storage pool types that it can use (None: all that
    the agent knows); details: settings of VMs that only this driver has.

    The other defaults are those of a custom hypervisor.
    """

    interface_version: int
    type: str = "custom"
    display_name: str = "Custom"
    template_formats: frozenset[DiskFormat] = frozenset({DiskFormat.RAW})
    functions: frozenset[Function] = frozenset({Function.DIRECT_DOWNLOAD})
    pool_types: frozenset[str] | None = frozenset({"local"})
    details: tuple[DetailField, ...] = ()
