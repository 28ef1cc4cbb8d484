"""Control is killed in the middle of a wave, and at every point of its executor; another process goes on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from ostler_control.api.import_plan_names import read
from ostler_control.database import session, transaction
from ostler_control.imports import sources
from ostler_control.imports.waves import actions, store
from ostler_control.models import ImportPlan, ImportPlanVm, ImportSource, Operation, ServiceOffering, Vm
from ostler_control.states import ImportPlanVmState

from tests import databases
from tests.fakes.vcenter import FakeVcenter, vcenter
from tests.fakes.working_agent import wait_until
from tests.sites import Site
from tests.unit.control.crashes import are_over, control, kill_at_every_point, names
from tests.unit.imports.crashes import check_source_clean, kept_site
from tests.unit.imports.vm_imports import new_source
from tests.unit.imports.waves.conftest import document
from tests.unit.vmware.conftest import vm_spec

pytestmark = pytest.mark.slow

# Of a plan with two VMs, the second after the first: three for each of its two steps (check, vms), five for each VM
# (see `tests.crash_runner`), one for its end and one for the operation's, and one plan that is never killed.
POINTS = 19
# As long as the source holds the VM of an export whose process was killed; a real vCenter: 5 minutes.
LEASE_S = 4
TEN = [f"vm-{number}" for number in range(10)]


@contextlib.contextmanager
def waves(tmp_path: Path, url: str, disk: Path, names: Sequence[str]) -> Iterator[tuple[Site, FakeVcenter, Operation]]:
    """A started plan of these VMs that nobody carries out yet; the last two come after the first."""
    state_dir = tmp_path / "site"
    state_dir.mkdir()
    (tmp_path / "vc").mkdir()
    site = kept_site(state_dir, url)
    ServiceOffering.update(encrypt_root=False).execute()
    lines = [*names[:-2], *(f"{{vm: {name}, after: {names[0]}}}" for name in names[-2:])]
    with vcenter(tmp_path / "vc", [vm_spec(name, [disk]) for name in names]) as server:
        sources.create(new_source(server), "root", site.keys)
        try:
            with transaction():
                new, problems = read(document(*lines, more="parallel: {vms: 3}\n"), site.admin())
                assert new is not None, problems
                operation = actions.start(store.create(new, "root"), "root")
            yield site, server, operation
        finally:
            site.fleet.stop()


def imported() -> int:
    with session():
        return ImportPlanVm.select().where(ImportPlanVm.state == ImportPlanVmState.IMPORTED).count()


def check_all_imported_once(site: Site, server: FakeVcenter, names: Sequence[str]) -> None:
    with session():
        plan = ImportPlan.get()
        assert (plan.state, plan.outcome) == ("completed", f"{len(names)} of {len(names)} VMs imported")
        assert sorted(vm.name for vm in Vm.select()) == sorted(names)
        imports = [row.state for row in Operation.select().where(Operation.verb == "vm.import")]
        assert imports == ["succeeded"] * len(names), "each VM was imported once"
        check_source_clean(site, ImportSource.get(), server)


def test_a_wave_of_ten_vms_survives_control_being_killed_twice(fresh_database: str, tmp_path: Path, disk: Path) -> None:
    with waves(tmp_path, fresh_database, disk, TEN) as (site, server, operation):
        server.faults(lease_timeout=LEASE_S, bytes_per_sec={"disk-0.vmdk": 65_000})
        for at_least in (2, 5):
            with control(site, {}):  # killed when the block ends, with imports under way
                wait_until(lambda: imported() >= at_least, 90)  # noqa: B023 - called at once
        server.faults(lease_timeout=LEASE_S)
        with control(site, {}):
            wait_until(lambda: ImportPlan.get().state == "completed", 120)
            wait_until(lambda: Operation.get_by_id(operation.id).state == "succeeded", 30)
        check_all_imported_once(site, server, TEN)


@pytest.fixture(scope="module")
def killed_everywhere(tmp_path_factory: pytest.TempPathFactory, disk: Path) -> Iterator[tuple[Site, FakeVcenter]]:
    """Many plans, each killed at another point, all in one process; another process has carried them out."""
    state_dir = tmp_path_factory.mktemp("waves")
    (state_dir / "vc").mkdir()
    pairs = {name: (f"{name}-first", f"{name}-second") for name in names("plan", POINTS)}
    machines = [vm_spec(vm, [disk]) for pair in pairs.values() for vm in pair]
    with (
        databases.bound(f"sqlite:///{state_dir}/ostler.sqlite") as url,
        vcenter(state_dir / "vc", machines) as server,
    ):
        site = kept_site(state_dir, url)
        try:
            ServiceOffering.update(encrypt_root=False).execute()
            server.faults(lease_timeout=LEASE_S)
            sources.create(new_source(server), "root", site.keys)
            plans = [new_plan(site, name, pair) for name, pair in pairs.items()]
            every = kill_at_every_point(site, {"plan": plans})
            with control(site, {}):
                wait_until(lambda: are_over(every), 120)
            yield site, server
        finally:
            site.fleet.stop()


def new_plan(site: Site, name: str, pair: tuple[str, str]) -> Operation:
    """A started plan; its limits let all plans import at once."""
    first, second = pair
    limits = "parallel: {per_esxi_host: 32, per_vcenter: 32, per_conversion_host: 32}\n"
    text = document(first, f"{{vm: {second}, after: {first}}}", more=limits, name=name)
    with transaction():
        new, problems = read(text, site.admin())
        assert new is not None, problems
        return actions.start(store.create(new, "root"), "root")


def test_plans_killed_at_every_point_are_completed(killed_everywhere: tuple[Site, FakeVcenter]) -> None:
    plans = [(plan.state, plan.outcome) for plan in ImportPlan.select()]
    assert plans == [("completed", "2 of 2 VMs imported")] * POINTS


def test_vms_of_plans_killed_at_every_point_are_imported_once(killed_everywhere: tuple[Site, FakeVcenter]) -> None:
    site, server = killed_everywhere
    imports = [row.state for row in Operation.select().where(Operation.verb == "vm.import")]
    assert imports == ["succeeded"] * 2 * POINTS
    assert {row.attempt for row in ImportPlanVm.select()} == {1}
    assert Vm.select().count() == 2 * POINTS
    check_source_clean(site, ImportSource.get(), server)
