"""Plans whose VMs are copied while they run, and plans of a KVM host."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path

import pytest
from ostler.control.v1 import import_plan_pb2 as pb
from ostler_common.errors import UnavailableError
from ostler_control.database import transaction
from ostler_control.imports import kvm_source
from ostler_control.imports.warm import request_cut_over
from ostler_control.models import Operation, Vm, VmImport, VmOrigin, WarmImport, now

from tests.fakes.working_agent import Fault, wait_until
from tests.unit.imports import kvm_site
from tests.unit.imports.warm_site import make_flat, warm_spec
from tests.unit.imports.waves.conftest import Plans, document, plans_of
from tests.unit.vmware.conftest import vm_spec

OK = ("succeeded", "")


@pytest.fixture
def warm(tmp_path: Path, disk: Path) -> Iterator[Plans]:
    """VMs w-1 and w-2 run and can be imported warm; cold-1 is off."""
    machines = [warm_spec(f"w-{number}", [make_flat(tmp_path / f"flat{number}", number)]) for number in (1, 2)]
    with plans_of(tmp_path, [*machines, vm_spec("cold-1", [disk])]) as made:
        yield made


def phase(plans: Plans, vm: str) -> str:
    return {found.source_vm: found.phase for found in plans.get().vms}[vm]


def test_each_warm_vm_is_cut_over_when_its_moment_has_come(warm: Plans) -> None:
    """One waits for somebody, one for a time that has come; one is cold, and what the defaults say is for that one."""
    past = (now() - datetime.timedelta(hours=1)).isoformat()
    warm.create("{vm: w-1, warm: true}", f"{{vm: w-2, warm: true, cut_over: {past}Z}}", "{vm: cold-1}")
    operation = warm.start()
    wait_until(lambda: phase(warm, "w-1").startswith("waiting for the cut-over: "), 60)
    wait_until(lambda: warm.states() == {"w-1": "RUNNING", "w-2": "IMPORTED", "cold-1": "IMPORTED"}, 60)
    with transaction():
        request_cut_over(Vm.get(Vm.name == "w-1"), "root")
    assert warm.ended(operation) == OK
    assert warm.get().outcome == "3 of 3 VMs imported"
    assert VmImport.select().count() == WarmImport.select().count() == 0


def test_a_time_that_lies_ahead_is_waited_for_and_told(warm: Plans) -> None:
    warm.create("{vm: w-1, warm: true, cut_over: 2099-01-31T02:00:00+01:00}")
    operation = warm.start()
    wait_until(lambda: phase(warm, "w-1").startswith("waiting for the cut-over at 2099-01-31 01:00 UTC"), 60)
    warm.cancel()
    assert warm.ended(operation)[0] == "cancelled"
    assert warm.states() == {"w-1": "CANCELLED"}
    assert VmImport.select().count() == Vm.select().count() == 0


def test_a_copy_is_cut_over_as_soon_as_it_is_quiet(warm: Plans) -> None:
    warm.create("{vm: w-1, warm: true, cut_over: auto}", "{vm: w-2, warm: true, cut_over: auto, after: w-1}")
    assert warm.ended(warm.start()) == OK
    assert set(warm.states().values()) == {"IMPORTED"}


@pytest.fixture
def old1(plans: Plans) -> Plans:
    """A KVM host old1 with the VMs a, b and vault."""
    for name in ("a", "b"):
        kvm_site.add_vm(plans.site, name)
    kvm_site.add_vm(plans.site, "vault", encrypted=True)
    kvm_source.create(kvm_site.new_source(), "root", plans.site.keys)
    return plans


def kvm_document(*vms: str) -> bytes:
    text = document(*vms).replace(b"source: vc1", b"source: old1")
    text = text.replace(b"offering: two", b"offering: two, disk_offering: plain")
    return text.replace(b"DC0_DVPG0: public", b"default: public")


def test_a_plan_imports_from_a_kvm_host(old1: Plans) -> None:
    request = pb.CreateImportPlanRequest(document=kvm_document("a", "{vm: b, name: second, after: a}", "vault", "gone"))
    old1.service.CreateImportPlan(request, old1.context)
    checked = old1.service.CheckImportPlan(pb.CheckImportPlanRequest(plan="wave"), old1.context)
    errors = {vm.source_vm: [finding.code for finding in vm.findings if finding.severity == 3] for vm in checked.vms}
    assert errors == {"a": [], "b": [], "vault": ["PASSPHRASE_MISSING"], "gone": ["SOURCE_VM_NOT_FOUND"]}
    operation = old1.start()
    assert old1.ended(operation)[1] == "IMPORT_PLAN_PARTIAL"
    assert old1.states() == {"a": "IMPORTED", "b": "IMPORTED", "vault": "REFUSED", "gone": "REFUSED"}
    assert {origin.source_vm for origin in VmOrigin.select()} == {"a", "b"}
    assert {vm.name for vm in Vm.select()} == {"a", "second"}
    assert VmImport.select().count() == 0
    verbs = [row.verb for row in Operation.select() if row.verb == "vm.import"]
    assert len(verbs) == 2


def test_a_kvm_host_that_does_not_answer_pauses_the_plan(old1: Plans) -> None:
    old1.service.CreateImportPlan(pb.CreateImportPlanRequest(document=kvm_document("a")), old1.context)
    for fake in old1.site.hosts.values():
        fake.fail("ListRemoteVms", Fault(UnavailableError("no route", "SSH_FAILED"), times=1000))
    old1.ended(old1.start())
    assert old1.get().state == pb.ImportPlan.PAUSED
    for fake in old1.site.hosts.values():
        fake.faults.clear()
    assert old1.ended(old1.resume()) == OK


def test_what_a_kvm_host_cannot_do_is_told_with_its_line(old1: Plans) -> None:
    text = kvm_document("{vm: a, warm: true}", "{vm: b, shutdown: true, staging_pool: shared}")
    told = old1.service.ValidateImportPlan(pb.ValidateImportPlanRequest(document=text), old1.context)
    assert [(error.line, error.reason) for error in told.errors if error.reason == "CONFLICTING_FIELDS"] == [
        (5, "CONFLICTING_FIELDS"),
        (6, "CONFLICTING_FIELDS"),
        (6, "CONFLICTING_FIELDS"),
    ]
