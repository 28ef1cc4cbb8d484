"""A source with several VMs, a control plane, and its import plans."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from ostler.control.v1 import import_plan_pb2 as pb
from ostler_common.errors import OstlerError
from ostler_control.api.import_plans import ImportPlanService
from ostler_control.imports import sources
from ostler_control.imports.waves import executor
from ostler_control.models import Host, ImportPlan, ImportPlanVm, ImportSource, Operation, ServiceOffering
from ostler_control.operations import Engine

from tests import databases
from tests.fakes.vcenter import FakeVcenter, Json, vcenter
from tests.sites import GIB, Site, outcome, site_at_work
from tests.unit.control import calls
from tests.unit.imports.vm_imports import new_source
from tests.unit.vmware.conftest import MIB, NETWORK, make_vmdk, vm_spec

NAMES = ("db-1", "web-1", "web-2", "web-3")


@dataclasses.dataclass
class Plans:
    """The service, its caller, and what is behind it."""

    service: ImportPlanService
    context: grpc.ServicerContext
    site: Site
    engine: Engine
    vcenter: FakeVcenter

    def create(self, *vms: str, more: str = "") -> pb.ImportPlan:
        """A plan of these VMs, each as a line of YAML or a name."""
        return self.service.CreateImportPlan(
            pb.CreateImportPlanRequest(document=document(*vms, more=more)), self.context
        )

    def start(self, plan: str = "wave") -> Operation:
        return self._operation(self.service.StartImportPlan(pb.StartImportPlanRequest(plan=plan), self.context).name)

    def resume(self, plan: str = "wave") -> Operation:
        return self._operation(self.service.ResumeImportPlan(pb.ResumeImportPlanRequest(plan=plan), self.context).name)

    def retry(self, *vms: str, plan: str = "wave") -> Operation:
        request = pb.RetryImportPlanRequest(plan=plan, vms=vms)
        return self._operation(self.service.RetryImportPlan(request, self.context).name)

    def pause(self, plan: str = "wave") -> pb.ImportPlan:
        return self.service.PauseImportPlan(pb.PauseImportPlanRequest(plan=plan), self.context)

    def cancel(self, plan: str = "wave") -> pb.ImportPlan:
        return self.service.CancelImportPlan(pb.CancelImportPlanRequest(plan=plan), self.context)

    def get(self, plan: str = "wave") -> pb.ImportPlan:
        return self.service.GetImportPlan(pb.GetImportPlanRequest(plan=plan), self.context)

    def states(self, plan: str = "wave") -> dict[str, str]:
        return {vm.source_vm: pb.ImportPlanVm.State.Name(vm.state) for vm in self.get(plan).vms}

    def ended(self, operation: Operation) -> tuple[str, str]:
        return outcome(self.engine, operation, 90)

    def _operation(self, name: str) -> Operation:
        return Operation.get_by_id(name.removeprefix("operations/"))


def document(*vms: str, more: str = "", name: str = "wave") -> bytes:
    """A plan's file."""
    lines = "".join(f"  - {vm if vm.startswith('{') else f'{{vm: {vm}}}'}\n" for vm in vms)
    head = f"name: {name}\nsource: vc1\n{more}"
    defaults = f"defaults: {{offering: two, account: acme, networks: {{{NETWORK}: public}}, stopped: true}}"
    return f"{head}{defaults}\nvms:\n{lines}".encode()


def reason(call: Callable[[], object]) -> str:
    with pytest.raises(OstlerError) as caught:
        call()
    return caught.value.reason


@pytest.fixture(scope="package")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_vmdk(tmp_path_factory.mktemp("disk") / "disk.vmdk", 2 * MIB, 1)


@pytest.fixture
def plans(tmp_path: Path, disk: Path) -> Iterator[Plans]:
    with plans_of(tmp_path, [vm_spec(name, [disk]) for name in NAMES]) as made:
        yield made


@contextlib.contextmanager
def plans_of(tmp_path: Path, machines: list[Json]) -> Iterator[Plans]:
    """Plans for a vCenter with these VMs."""
    state_dir = tmp_path / "site"
    state_dir.mkdir()
    tmp_path.joinpath("vc").mkdir()
    before = executor.TICK_S, executor.TRY_AGAIN_S, executor.PATIENCE_S
    executor.TICK_S, executor.TRY_AGAIN_S = 0.1, 0.5
    with (
        databases.bound(f"sqlite:///{state_dir}/ostler.sqlite") as url,
        site_at_work(url, state_dir) as (site, engine),
        vcenter(tmp_path / "vc", machines) as server,
    ):
        Host.update(capabilities='{"instanceConversion": true}').where(Host.name != "h3").execute()
        ServiceOffering.create(name="two", cpus=2, memory_bytes=GIB)
        sources.create(new_source(server), "root", site.keys)
        yield Plans(ImportPlanService(engine), calls.context(site.admin()), site, engine, server)
    executor.TICK_S, executor.TRY_AGAIN_S, executor.PATIENCE_S = before


def rows() -> tuple[int, int]:
    """How many plans and VMs of plans there are."""
    return ImportPlan.select().count(), ImportPlanVm.select().count()


def source() -> ImportSource:
    return ImportSource.get()
