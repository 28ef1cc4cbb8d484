"""Control is killed at every point of an adoption and of handing a VM back; another process goes on."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from ostler_common.errors import FailedPreconditionError
from ostler_control import vms
from ostler_control.models import Operation, Vm, Volume
from ostler_control.scheduling import capacity

from tests import databases
from tests.fakes.working_agent import Fault, wait_until
from tests.sites import Site, new_engine, new_site
from tests.unit.control.crashes import are_over, control, kill_at_every_point, names, record, run_without_crash
from tests.unit.control.vm_adoption import Place

pytestmark = pytest.mark.slow

# Three a step (adopt; undone: release, record-failure; handed back: release, forget), the end, and one never killed.
POINTS = {"good": 5, "doomed": 11}
BACK_POINTS = 8


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    state_dir = tmp_path / "site"
    state_dir.mkdir()
    with databases.bound(f"sqlite:///{state_dir}/ostler.sqlite") as url:
        site = new_site(url, state_dir)
        yield site
        site.fleet.stop()


def begin(site: Site, group: dict[str, list[str]]) -> dict[str, list[Operation]]:
    """Adoptions of a VM each, recorded and not run."""
    engine = new_engine(site.state_dir)
    place = Place(site, engine)
    operations: dict[str, list[Operation]] = {}
    for kind, members in group.items():
        operations[kind] = []
        for name in members:
            found = place.put(name)
            wanted = vms.NewVmAdoption(place.host, name, site.account)
            operations[kind].append(record(partial(vms.adopt, wanted, found, "root")))
    engine.agents.close()
    return operations


def test_an_adoption_killed_at_every_point(site: Site) -> None:
    group = {kind: names(kind, points) for kind, points in POINTS.items()}
    operations = begin(site, group)
    no = Fault(
        FailedPreconditionError("no", "NO_WAY"),
        before=False,
        times=1000,
        only=lambda request: request.title.startswith("doomed"),
    )
    site.hosts["h1"].fail("AdoptVm", no)
    every = kill_at_every_point(site, operations)
    with control(site, {}):
        wait_until(lambda: are_over(every), 240)
    assert {vm.name for vm in Vm.select()} == set(group["good"])
    assert {vm.state for vm in Vm.select()} == {"running"}
    assert site.hosts["h1"].marked == {vm.id for vm in Vm.select()}
    own = {f"{name}.qcow2" for members in group.values() for name in members}
    [files] = site.fleet.pools.values()
    assert set(files) == own | {volume.file_id for volume in Volume.select()}
    assert capacity.audit() == []


def test_handing_back_killed_at_every_point(site: Site) -> None:
    members = names("back", BACK_POINTS)
    run_without_crash(site, begin(site, {"back": members})["back"])
    file_ids = {volume.file_id for volume in Volume.select()}
    operations = {"back": [record(partial(vms.unmanage, Vm.get(Vm.name == name), "root")) for name in members]}
    every = kill_at_every_point(site, operations)
    with control(site, {}):
        wait_until(lambda: are_over(every), 240)
    assert {Operation.get_by_id(operation.id).state for operation in every} == {"succeeded"}
    assert Vm.select().count() == Volume.select().count() == 0
    assert site.hosts["h1"].marked == set()
    [files] = site.fleet.pools.values()
    assert file_ids <= set(files), "files stay"
    assert capacity.audit() == []
