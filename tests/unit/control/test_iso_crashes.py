"""The control plane is killed between any two lines that matter while an ISO image goes into a drive, or out of it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
from ostler_common.errors import FailedPreconditionError
from ostler_control import vms
from ostler_control.database import transaction
from ostler_control.models import Iso, Operation, Vm, VmIso

from tests import databases
from tests.fakes.working_agent import Fault, wait_until
from tests.sites import Site, new_site
from tests.unit.control.crashes import are_over, control, kill_at_every_point, names, record, run_without_crash

pytestmark = pytest.mark.slow

# Three points for each step, undo steps included, one at the end, and one more that is never reached.
POINTS = {"attach": 5, "attach.doomed": 11, "eject": 8}


def start(kind: str, name: str) -> Operation:
    vm, iso = Vm.get(Vm.name == name), Iso.get()
    if kind == "eject":
        return record(partial(vms.eject_iso, vm, iso, "alice"))
    return record(partial(vms.attach_iso, vm, iso, False, "alice"))


@pytest.fixture(scope="module")
def aftermath(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, dict[str, list[Operation]]]]:
    state_dir = tmp_path_factory.mktemp("crashes")
    with databases.bound(f"sqlite:///{state_dir}/ostler.sqlite") as url:
        site = new_site(url, state_dir)
        with transaction():
            iso = Iso.create(name="rescue", file_size_bytes=2048, sha256="0" * 64)
        every_name = [(kind, name) for kind, points in POINTS.items() for name in names(kind, points)]
        run_without_crash(site, [record(partial(site.new_vm, name)) for _, name in every_name])
        run_without_crash(
            site,
            [
                record(partial(vms.attach_iso, Vm.get(Vm.name == name), iso, False, "alice"))
                for kind, name in every_name
                if kind == "eject"
            ],
        )
        doomed = {row.id for row in Vm.select().where(Vm.name.startswith("attach.doomed"))}
        no = FailedPreconditionError("no drive", "CDROM_MISSING")
        for fake in site.hosts.values():
            fake.fail("ChangeCdrom", Fault(no, times=1000, only=lambda r: r.vm_id in doomed and r.HasField("cdrom")))
        operations = {kind: [start(kind, name) for name in names(kind, points)] for kind, points in POINTS.items()}
        every = kill_at_every_point(site, operations)
        with control(site, {}):
            wait_until(lambda: are_over(every), 120)
        yield site, operations
        site.fleet.stop()


@pytest.mark.parametrize(
    ("kind", "state", "inserted"),
    [("attach", "succeeded", 1), ("attach.doomed", "failed", 0), ("eject", "succeeded", 0)],
)
def test_rows_and_drives_agree(
    aftermath: tuple[Site, dict[str, list[Operation]]], kind: str, state: str, inserted: int
) -> None:
    site, operations = aftermath
    site.check_whole()
    assert {Operation.get_by_id(operation.id).state for operation in operations[kind]} == {state}
    found = list(Vm.select().where(Vm.name.startswith(f"{kind}-")))
    assert len(found) == POINTS[kind]
    for vm in found:
        drives = site.at(vm.host_id).vms[vm.id].spec.cdroms
        assert (len(drives), VmIso.select().where(VmIso.vm == vm).count(), vm.attention) == (inserted, inserted, "")
