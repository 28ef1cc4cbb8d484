"""Changes ISO images in the CD-ROM drives of running VMs."""

from __future__ import annotations

from ostler_common.hypervisors import Function

from ostler_agent.hypervisors.base import Hypervisor, need
from ostler_agent.hypervisors.media import CdromDrives
from ostler_agent.isos import Isos
from ostler_agent.jobs import JobContext
from ostler_agent.spec import Cdrom, VmInfo


def change(driver: Hypervisor, isos: Isos, vm_id: str, drive: int, cdrom: Cdrom | None, job: JobContext) -> VmInfo:
    """Puts an ISO image into a drive of a running VM; None: empties the drive. Idempotent.

    Raises FailedPreconditionError FUNCTION_NOT_SUPPORTED, VM_NOT_RUNNING, CDROM_MISSING, and what `Isos.hold` raises.
    """
    need(driver, Function.ISO)
    assert isinstance(driver, CdromDrives)
    if cdrom is None:
        job.report("ejecting")
        driver.change_cdrom(vm_id, drive, None)
    else:
        with isos.hold_one(cdrom, job) as held:
            job.report("inserting")
            driver.change_cdrom(vm_id, drive, held.path)
    return driver.vm(vm_id)
