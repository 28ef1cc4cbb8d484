"""What a driver states of its type of hypervisor."""

from __future__ import annotations

from dataclasses import dataclass

from ostler_common.hypervisors import Function

from ostler_agent.spec import DiskFormat


@dataclass(frozen=True)
class DriverInfo:
    """The same on every host that has the driver, whatever else the host has or lacks.

    type: lower-case word that names the type of hypervisor everywhere ("kvm"); display_name: its name for people, of
    which the fleet's administrator chooses another for the type "custom"; template_formats: layouts of a file that a
    VM's disks may have; functions: what the driver supports beside the core of `base.Hypervisor`; pool_types: types of
    storage pool it can use (None: every one that the agent knows).

    The defaults are those of a custom hypervisor.
    """

    type: str = "custom"
    display_name: str = "Custom"
    template_formats: frozenset[DiskFormat] = frozenset({DiskFormat.RAW})
    functions: frozenset[Function] = frozenset({Function.DIRECT_DOWNLOAD})
    pool_types: frozenset[str] | None = frozenset({"local"})
