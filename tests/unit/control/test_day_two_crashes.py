"""The control plane is killed between any two lines that matter of a resize, of a clone and of a change of firmware,
which are then resumed."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
from ostler_common.errors import FailedPreconditionError
from ostler_control import vms, volumes
from ostler_control.catalog.offerings import create_service
from ostler_control.catalog.sizes import Size
from ostler_control.models import Operation, ServiceOffering, Vm, Volume
from ostler_control.vms import tpm

from tests.fakes.working_agent import Fault
from tests.sites import GIB, MIB, Site
from tests.unit.control.crashes import Aftermath, aftermath_of, names, record, run_without_crash, states

pytestmark = pytest.mark.slow

# Three points for each step, undo steps included, one at the end, and one more that is never reached.
POINTS = {"resize": 8, "resize.doomed": 11, "clone": 11, "clone.doomed": 14, "clone.running": 8, "firmware": 11}
STOPPED = ("clone", "clone.doomed")
SMALL, LARGE = "small", "large"


def start(site: Site, kind: str, name: str) -> Operation:
    vm = Vm.get(Vm.name == name)
    if kind.startswith("resize"):
        large = ServiceOffering.get(ServiceOffering.name == LARGE)
        return record(partial(vms.resize, vm, large, "alice"))
    if kind == "firmware":
        return record(partial(vms.set_firmware, vm, "alice", "uefi", False))
    return record(partial(vms.clone, vm, f"{name}-clone", "alice", site.keys))


def attach(name: str) -> Operation:
    data, vm = Volume.get(Volume.name == f"{name}-data"), Vm.get(Vm.name == name)
    return record(partial(volumes.attach, data, vm, "alice"))


def prepare(site: Site) -> None:
    """A VM for each operation, running or stopped, and what goes wrong with some of them."""
    for name, cpus in ((SMALL, 1), (LARGE, 4)):
        create_service(name, cpus, cpus * GIB, True, "root", maximum=Size(4, 4 * GIB))
    small = ServiceOffering.get(ServiceOffering.name == SMALL)
    made = [
        record(partial(site.new_vm, name, offering=small, stopped=kind in STOPPED, tpm=kind == "firmware"))
        for kind, points in POINTS.items()
        for name in names(kind, points)
    ]
    run_without_crash(site, made)
    with_data = names("clone.running", POINTS["clone.running"])
    new = [volumes.NewVolume(f"{name}-data", site.account, site.disks["encrypted"], 4 * MIB) for name in with_data]
    run_without_crash(site, [record(partial(volumes.create, one, "alice", site.keys)) for one in new])
    run_without_crash(site, [attach(name) for name in with_data])
    with_tpm = list(Vm.select().where(Vm.name.startswith("firmware")))
    run_without_crash(site, [record(partial(vms.stop, vm, "alice", 0, True)) for vm in with_tpm])
    no = FailedPreconditionError("no", "NO_WAY")
    unlucky = {row.id for row in Vm.select().where(Vm.name.startswith("resize.doomed"))}
    lost = {row.file_id for row in Volume.select().where(Volume.name.startswith("clone.doomed"))}
    for fake in site.hosts.values():
        fake.fail("ResizeVm", Fault(no, times=1000, only=lambda request: request.vm_id in unlucky))
        fake.fail(
            "CopyVolume", Fault(no, before=False, times=1000, only=lambda request: request.source.volume_id in lost)
        )


@pytest.fixture(scope="module")
def aftermath(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aftermath]:
    with aftermath_of(tmp_path_factory.mktemp("crashes"), POINTS, prepare, start) as found:
        yield found


def test_nothing_has_leaked(aftermath: Aftermath) -> None:
    """Claims, keys, files, locks."""
    aftermath[0].check_whole()


@pytest.mark.parametrize(
    ("kind", "state", "cpus", "offering"),
    [("resize", "succeeded", 4, LARGE), ("resize.doomed", "failed", 1, SMALL)],
)
def test_a_vm_has_the_one_size_or_the_other_everywhere(
    aftermath: Aftermath, kind: str, state: str, cpus: int, offering: str
) -> None:
    site, operations = aftermath
    assert states(operations[kind]) == {state}
    resized = list(Vm.select().where(Vm.name.startswith(f"{kind}-")))
    assert len(resized) == POINTS[kind]
    for vm in resized:
        spec = site.at(vm.host_id).vms[vm.id].spec
        assert (vm.cpus, vm.memory_bytes, vm.service_offering.name) == (cpus, cpus * GIB, offering)
        assert (spec.cpus, spec.memory_bytes, vm.attention) == (cpus, cpus * GIB, "")


@pytest.mark.parametrize(("kind", "disks_each"), [("clone", 1), ("clone.running", 2)])
def test_a_clone_is_whole(aftermath: Aftermath, kind: str, disks_each: int) -> None:
    assert states(aftermath[1][kind]) == {"succeeded"}
    clones = list(Vm.select().where(Vm.name.startswith(f"{kind}-"), Vm.name.endswith("-clone")))
    assert (len(clones), {vm.state for vm in clones}) == (POINTS[kind], {"stopped"})
    disks = list(Volume.select().where(Volume.vm_id.in_([vm.id for vm in clones])))
    assert (len(disks), {disk.state for disk in disks}) == (POINTS[kind] * disks_each, {"ready"})


def test_a_clone_that_fails_leaves_no_disk(aftermath: Aftermath) -> None:
    assert states(aftermath[1]["clone.doomed"]) == {"failed"}
    clones = list(Vm.select().where(Vm.name.startswith("clone.doomed-"), Vm.name.endswith("-clone")))
    assert (len(clones), {vm.state for vm in clones}) == (POINTS["clone.doomed"], {"failed"})
    assert not Volume.select().where(Volume.vm_id.in_([vm.id for vm in clones])).exists()


def test_a_vm_has_the_new_firmware_and_nothing_is_left_of_its_tpm(aftermath: Aftermath) -> None:
    site, operations = aftermath
    assert states(operations["firmware"]) == {"succeeded"}
    changed = list(Vm.select().where(Vm.name.startswith("firmware-")))
    assert [vm.firmware for vm in changed] == ["uefi"] * POINTS["firmware"]
    assert not any(tpm.has_one(vm.id) for vm in changed)
    assert not any(vm.id in fake.tpms for vm in changed for fake in site.hosts.values())
