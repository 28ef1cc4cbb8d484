"""A vCenter with a VM that is imported warm: its guest writes while rounds run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ostler_control import settings
from ostler_control.imports import sources
from ostler_control.models import ImportSource, Operation, VmImport, WarmImport
from ostler_control.vmware.changed_blocks import list_snapshots
from ostler_control.vmware.inventory import Power, SourceVm
from ostler_control.vmware.properties import read_one
from ostler_control.vmware.read_inventory import list_vms
from pyVmomi import vim

from tests.fakes.working_agent import wait_until
from tests.sites import Site
from tests.unit.vmware.conftest import MIB, vm_spec

DISK_BYTES = 8 * MIB


def make_flat(path: Path, seed: int) -> Path:
    """A disk with data here and there, as its base file on a datastore."""
    with path.open("wb") as file:
        file.truncate(DISK_BYTES)
        for number in range(4):
            file.seek(number * 2 * MIB)
            file.write(bytes([seed + number]) * 100_000)
    return path


def warm_spec(name: str, flats: list[Path], **changes: Any) -> Any:
    """A VM that runs, with VMware Tools, on these disks."""
    spec: dict[str, Any] = vm_spec(name, [], on=True) | {"tools": True}
    spec["disks"] = [{"kb": flat.stat().st_size >> 10, "flat": str(flat)} for flat in flats]
    return spec | changes


def hurry() -> None:
    """Little is quiet, and a round is due every minute."""
    settings.change("vmware.warm.import.quiet.size", "0", "root")
    settings.change("vmware.warm.import.interval", "1", "root")


def source_vm(site: Site, source: ImportSource, name: str) -> SourceVm:
    with sources.connect(source, site.keys) as connection:
        [vm] = [vm for vm in list_vms(connection) if vm.name == name]
        return vm


def guest_state(site: Site, source: ImportSource, name: str) -> str:
    """What VMware Tools say the guest does."""
    with sources.connect(source, site.keys) as connection:
        [vm] = [vm for vm in list_vms(connection) if vm.name == name]
        return str(read_one(connection, vim.VirtualMachine, vm.ref, ("guest.guestState",)).get("guest.guestState"))


def snapshots(site: Site, source: ImportSource, ref: str) -> list[str]:
    with sources.connect(source, site.keys) as connection:
        return list_snapshots(connection, ref)


def cut_over(operation: Operation) -> None:
    WarmImport.update(cut_over=True).where(WarmImport.vm_import == operation.id).execute()


def wait_for_phase(operation: Operation, phase: str, timeout_s: float = 30) -> None:
    try:
        wait_until(lambda: Operation.get_by_id(operation.id).phase.startswith(phase), timeout_s)
    except AssertionError:
        row = Operation.get_by_id(operation.id)
        raise AssertionError(f"not {phase!r} in {timeout_s} s, but {row.state}: {row.phase!r} {row.error}") from None


def content(site: Site, volume_id: str) -> bytes:
    """What was copied into a volume."""
    return bytes(site.fleet.written[volume_id])


def check_source_untouched(site: Site, source: ImportSource, name: str) -> None:
    """The source runs, without snapshots, and its changes are not tracked."""
    vm = source_vm(site, source, name)
    assert (vm.power, vm.snapshots, vm.change_tracking) == (Power.ON, 0, False)
    assert VmImport.select().count() == WarmImport.select().count() == 0
