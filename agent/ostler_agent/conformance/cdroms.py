"""CD-ROM drives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ostler_agent.conformance.assertions import refused, require
from ostler_agent.conformance.bench import Bench
from ostler_agent.hypervisors.media import CdromDrives
from ostler_agent.spec import Cdrom, PowerState
from ostler_agent.tools import iso


def drives(bench: Bench) -> None:
    """A VM starts with ISO images; while it runs, its drives are filled and emptied, each as often as it is asked."""
    hypervisor = bench.hypervisor
    assert isinstance(hypervisor, CdromDrives)
    spec = bench.spec(bench.volume())
    first, second = (_image(bench.setup.scratch / f"{spec.vm_id}-{number}.iso") for number in range(2))
    try:
        cdrom = Cdrom(spec.vm_id, "", first.stat().st_size, 0, boot_first=True, path=first)
        bench.start(replace(spec, cdroms=(cdrom,)))
        for drive, path in ((0, None), (0, None), (0, second), (1, first), (1, first), (1, None)):
            hypervisor.change_cdrom(spec.vm_id, drive, path)
            require(bench.hypervisor.vm(spec.vm_id).power_state is PowerState.RUNNING, "the VM must run on")
        bench.hypervisor.power_off(spec.vm_id)
        with refused("an ISO image for a stopped VM", "VM_NOT_RUNNING"):
            hypervisor.change_cdrom(spec.vm_id, 0, first)
        bench.start(spec)
        bench.hypervisor.power_off(spec.vm_id)
    finally:
        first.unlink()
        second.unlink()


def _image(path: Path) -> Path:
    path.write_bytes(iso.build("drivers", {"readme": b"for a check"}))
    return path
