"""What the libvirt driver states about itself."""

from __future__ import annotations

from ostler_common.hypervisors import Function

from ostler_agent.hypervisors.info import DriverInfo
from ostler_agent.spec import DiskFormat

INFO = DriverInfo(
    interface_version=1,
    type="kvm",
    display_name="KVM",
    template_formats=frozenset(DiskFormat),
    functions=frozenset(Function),
    pool_types=None,
)
