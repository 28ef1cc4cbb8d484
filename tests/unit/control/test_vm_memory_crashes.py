"""The control plane is killed between any two lines that matter of snapshots with memory, which are then resumed."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
from ostler_common.errors import FailedPreconditionError
from ostler_control import vm_snapshots, vms
from ostler_control.models import Host, Operation, Vm, VmSnapshot, VmSnapshotMemory, Volume

from tests.fakes.working_agent import Fault
from tests.sites import Site
from tests.unit.control.crashes import Aftermath, aftermath_of, names, record, run_without_crash, states

pytestmark = pytest.mark.slow

# Three points for each step, undo steps included, one at the end, and one more that is never reached.
POINTS = {"create": 5, "create.doomed": 14, "delete": 17, "revert": 17, "revert.doomed": 23}
SINCE = "written since"


def take(site: Site, name: str) -> Operation:
    wanted = vm_snapshots.NewVmSnapshot(Vm.get(Vm.name == name), f"{name}-kept", memory=True)
    return record(partial(vm_snapshots.create, wanted, "alice", site.keys))


def start(site: Site, kind: str, name: str) -> Operation:
    if kind.startswith("create"):
        return take(site, name)
    row = VmSnapshot.get(VmSnapshot.name == f"{name}-kept")
    if kind == "delete":
        return record(partial(vm_snapshots.delete, row, "alice"))
    return record(partial(vm_snapshots.revert, row, "alice", site.keys))


def prepare(site: Site) -> None:
    """A running VM for each operation; those that are reverted have stopped, and written since their snapshot."""
    every = [name for kind, points in POINTS.items() for name in names(kind, points)]
    run_without_crash(site, [record(partial(site.new_vm, name)) for name in every])
    run_without_crash(site, [take(site, name) for name in every if not name.startswith("create")])
    reverted = list(Vm.select().where(Vm.name.startswith("revert")))
    run_without_crash(site, [record(partial(vms.stop, vm, "alice", force=True)) for vm in reverted])
    for volume in Volume.select().where(Volume.vm_id.in_([vm.id for vm in reverted])):
        site.fleet.pools[volume.pool_id][volume.file_id].content = SINCE
    doomed = {vm.id for vm in Vm.select().where(Vm.name.contains(".doomed"))}
    no = FailedPreconditionError("no", "NO_WAY")
    for fake in site.hosts.values():
        fake.fail("CopyDisks", Fault(no, before=False, times=1000, only=lambda request: request.vm_id in doomed))
        fake.fail("StartVm", Fault(no, before=False, times=1000, only=lambda request: request.spec.vm_id in doomed))


@pytest.fixture(scope="module")
def aftermath(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aftermath]:
    with aftermath_of(tmp_path_factory.mktemp("crashes"), POINTS, prepare, start) as found:
        yield found


def memories(kind: str) -> list[VmSnapshotMemory]:
    query = VmSnapshotMemory.select().join(VmSnapshot)
    return list(query.where(VmSnapshot.name.startswith(f"{kind}-")))


def vms_of(kind: str) -> list[Vm]:
    return list(Vm.select().where(Vm.name.startswith(f"{kind}-")))


def contents(site: Site, kind: str) -> set[str]:
    found = Volume.select().where(Volume.vm_id.in_([vm.id for vm in vms_of(kind)]))
    return {site.fleet.pools[volume.pool_id][volume.file_id].content for volume in found}


def test_nothing_has_leaked(aftermath: Aftermath) -> None:
    """Claims, keys, files, locks."""
    aftermath[0].check_whole()


def test_a_snapshot_has_its_memory_and_leaves_none(aftermath: Aftermath) -> None:
    assert states(aftermath[1]["create"]) == {"succeeded"}
    assert [kept.encrypt_format for kept in memories("create")] == ["luks"] * POINTS["create"]
    assert states(aftermath[1]["create.doomed"]) == {"failed"}
    assert states(aftermath[1]["delete"]) == {"succeeded"}
    assert (memories("create.doomed"), memories("delete")) == ([], [])


def test_every_reverted_guest_continues_from_its_memory(aftermath: Aftermath) -> None:
    site, operations = aftermath
    assert states(operations["revert"]) == {"succeeded"}
    for vm in vms_of("revert"):
        machine = site.hosts[Host.get_by_id(vm.host_id).name].vms[vm.id]
        assert (vm.state, machine.running, bool(machine.memory)) == ("running", True, True)
    assert SINCE not in contents(site, "revert")


def test_a_guest_that_cannot_continue_is_stopped_and_has_the_disks_of_its_snapshot(aftermath: Aftermath) -> None:
    site, operations = aftermath
    assert states(operations["revert.doomed"]) == {"failed"}
    assert {(vm.state, vm.host_id) for vm in vms_of("revert.doomed")} == {("stopped", None)}
    doomed = {vm.id for vm in vms_of("revert.doomed")}
    assert not any(
        machine.running for fake in site.hosts.values() for id_, machine in fake.vms.items() if id_ in doomed
    )
    assert SINCE not in contents(site, "revert.doomed")
