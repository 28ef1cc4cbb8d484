"""I/O limits of running VMs' disks."""

from __future__ import annotations

import libvirt
from ostler_common.io_limits import IoLimits

from ostler_agent.hypervisors.libvirt import domains, live
from ostler_agent.hypervisors.libvirt.errors import translated
from ostler_agent.hypervisors.libvirt.session import Session

_BOTH = libvirt.VIR_DOMAIN_AFFECT_LIVE | libvirt.VIR_DOMAIN_AFFECT_CONFIG


def limit(session: Session, vm_id: str, volume_id: str, limits: IoLimits) -> None:
    """Replaces a disk's limits, in the guest and in the definition. The caller holds the VM's lock."""
    domain = domains.get_active(session, vm_id)
    with translated(f"limiting the I/O of volume {volume_id} of VM {vm_id}"):
        disk = live.find_disk(domain, vm_id, volume_id)
        domain.setBlockIoTune(disk.target, parameters(limits), _BOTH)


def parameters(limits: IoLimits) -> dict[str, int]:
    """All of libvirt's parameters for these limits, so that none stays from before. 0 removes a limit."""
    return {
        "total_iops_sec": limits.iops,
        "total_bytes_sec": limits.bytes_per_s,
        "total_iops_sec_max": limits.burst_iops,
        "total_bytes_sec_max": limits.burst_bytes_per_s,
        # QEMU refuses a length without its burst.
        "total_iops_sec_max_length": limits.burst_s if limits.burst_iops else 0,
        "total_bytes_sec_max_length": limits.burst_s if limits.burst_bytes_per_s else 0,
    }
