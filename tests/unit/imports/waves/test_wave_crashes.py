"""Control is killed in the middle of a wave; another process goes on."""

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

from tests.fakes.vcenter import FakeVcenter, vcenter
from tests.fakes.working_agent import wait_until
from tests.sites import Site
from tests.unit.control.crashes import control
from tests.unit.imports.test_import_crashes import check_source_clean, kept_site
from tests.unit.imports.test_vm_import import new_source
from tests.unit.imports.waves.conftest import document
from tests.unit.vmware.conftest import vm_spec

pytestmark = pytest.mark.slow

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
        server.faults(bytes_per_sec={"disk-0.vmdk": 65_000})
        for at_least in (2, 5):
            with control(site, {}):  # killed when the block ends, with imports under way
                wait_until(lambda: imported() >= at_least, 90)  # noqa: B023 - called at once
        server.faults()
        with control(site, {}):
            wait_until(lambda: ImportPlan.get().state == "completed", 120)
            wait_until(lambda: Operation.get_by_id(operation.id).state == "succeeded", 30)
        check_all_imported_once(site, server, TEN)
