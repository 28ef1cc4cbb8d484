"""Import plans from their file to their end: a simulated vCenter, agents that work in memory."""

from __future__ import annotations

import pytest
from ostler.control.v1 import import_pb2
from ostler.control.v1 import import_plan_pb2 as pb
from ostler_common.errors import FailedPreconditionError, OstlerError
from ostler_control.database import session
from ostler_control.imports import sources
from ostler_control.imports.waves import executor
from ostler_control.models import Event, Operation, ServiceOffering, Vm, VmImport, Volume, new_id

from tests.fakes.working_agent import Fault, wait_until
from tests.unit.imports.waves.conftest import NAMES, Plans, document, reason, rows, source

OK = ("succeeded", "")
NO = FailedPreconditionError("the guest has no operating system", "NO_OPERATING_SYSTEM")


def refuse_conversion(plans: Plans, name: str = "web-1") -> None:
    """The conversion of a VM fails until the faults are cleared."""

    def is_it(request: object) -> bool:
        with session():
            row = Volume.get_by_id(request.disks[0].target.volume_id)  # type: ignore[attr-defined]
            return bool(row.name == f"{name}-root")

    for fake in plans.site.hosts.values():
        fake.fail("ConvertVm", Fault(NO, before=False, times=1000, only=is_it))


def allow_conversion(plans: Plans) -> None:
    for fake in plans.site.hosts.values():
        fake.faults.clear()


def slow_down(plans: Plans) -> None:
    """Exports that begin now take about six seconds: every VM's only disk has the same name."""
    plans.vcenter.faults(bytes_per_sec={"disk-0.vmdk": 20_000})


def speed_up(plans: Plans) -> None:
    """Exports that begin now do not."""
    plans.vcenter.faults()


def check_nothing_left(plans: Plans) -> None:
    assert plans.site.fleet.staging == {}
    assert VmImport.select().count() == 0
    assert all(lease["state"] in ("done", "error") for lease in plans.vcenter.leases())


def test_a_plan_imports_its_vms_in_order(plans: Plans) -> None:
    made = plans.create("db-1", "{vm: web-1, name: shop, after: db-1}", "{vm: web-2, after: [db-1, web-1]}")
    assert (made.name, made.state, len(made.vms)) == ("wave", pb.ImportPlan.READY, 3)
    assert b"name: wave" in made.document
    assert Operation.select().count() == 0, "nothing begins by itself"
    assert plans.ended(plans.start()) == OK
    done = plans.get()
    assert (done.state, done.outcome) == (pb.ImportPlan.COMPLETED, "3 of 3 VMs imported")
    assert {vm.name for vm in Vm.select()} == {"db-1", "shop", "web-2"}
    begun = [vm.begin_time.ToDatetime() for vm in done.vms]
    ended = [vm.end_time.ToDatetime() for vm in done.vms]
    assert ended[0] <= begun[1]
    assert ended[1] <= begun[2]
    assert [(vm.go, vm.percent, vm.attempt, vm.size_bytes > 0, vm.esxi_host != "") for vm in done.vms] == [
        (True, 100, 1, True, True)
    ] * 3
    check_nothing_left(plans)
    told = {(event.type, event.outcome) for event in Event.select().where(Event.resource_type == "import-plan")}
    assert {("import-plan.create", "succeeded"), ("import-plan.execute", "succeeded")} <= told


def test_every_error_of_a_file_is_told_and_nothing_is_stored(plans: Plans) -> None:
    text = document("{vm: db-1, offering: twoo}", "{vm: web-1, pool: nowhere, hots: h1}", "{vm: web-2, host: h9}")
    told = plans.service.ValidateImportPlan(pb.ValidateImportPlanRequest(document=text), plans.context)
    assert [(error.line, error.path, error.reason) for error in told.errors] == [
        (5, "vms[0].offering", "SERVICE_OFFERING_NOT_FOUND"),
        (6, "vms[1].hots", "UNKNOWN_FIELD"),
        (6, "vms[1].pool", "POOL_NOT_FOUND"),
        (7, "vms[2].host", "HOST_NOT_FOUND"),
    ]
    assert "did you mean two?" in told.errors[0].message
    with pytest.raises(OstlerError) as caught:
        plans.service.CreateImportPlan(pb.CreateImportPlanRequest(document=text), plans.context)
    assert caught.value.reason == "IMPORT_PLAN_INVALID"
    assert len(caught.value.violations) == 4
    assert rows() == (0, 0)
    wrong = text.replace(b"source: vc1", b"source: vc9")
    told = plans.service.ValidateImportPlan(pb.ValidateImportPlanRequest(document=wrong), plans.context)
    assert (told.errors[0].line, told.errors[0].reason) == (2, "IMPORT_SOURCE_NOT_FOUND")


def test_a_wrong_name_in_the_defaults_is_told_once(plans: Plans) -> None:
    text = document("db-1", "web-1").replace(b"offering: two", b"offering: tow")
    told = plans.service.ValidateImportPlan(pb.ValidateImportPlanRequest(document=text), plans.context)
    assert [(error.line, error.path) for error in told.errors] == [(3, "defaults.offering")]


def test_a_good_file_is_only_checked(plans: Plans) -> None:
    request = pb.ValidateImportPlanRequest(document=document(*NAMES))
    told = plans.service.ValidateImportPlan(request, plans.context)
    assert (list(told.errors), told.name, told.vm_count) == ([], "wave", 4)
    assert rows() == (0, 0)


def test_a_plan_is_created_once(plans: Plans) -> None:
    request = pb.CreateImportPlanRequest(request_id=new_id(), document=document("db-1"))
    first = plans.service.CreateImportPlan(request, plans.context)
    assert plans.service.CreateImportPlan(request, plans.context) == first
    request.request_id = new_id()
    assert reason(lambda: plans.service.CreateImportPlan(request, plans.context)) == "IMPORT_PLAN_INVALID"
    listed = plans.service.ListImportPlans(pb.ListImportPlansRequest(state=pb.ImportPlan.READY), plans.context)
    assert [plan.name for plan in listed.plans] == ["wave"]
    plans.service.DeleteImportPlan(pb.DeleteImportPlanRequest(plan="wave"), plans.context)
    assert Event.get(Event.type == "import-plan.delete").actor == "root"
    assert rows() == (0, 0)


def test_a_check_tells_go_or_no_go_for_each_and_changes_nothing(plans: Plans) -> None:
    plans.create("db-1", "{vm: web-1, networks: {Other: public}, offering: plain}", "nobody")
    found = plans.service.CheckImportPlan(pb.CheckImportPlanRequest(plan="wave"), plans.context)
    assert [vm.go for vm in found.vms] == [True, False, False]
    assert {finding.code for finding in found.vms[1].findings} == {"OFFERING_TOO_SMALL"}
    assert found.vms[1].findings[0].severity == import_pb2.ImportFinding.ERROR
    assert [finding.code for finding in found.vms[2].findings] == ["SOURCE_VM_NOT_FOUND"]
    assert set(plans.states().values()) == {"WAITING"}
    assert found.state == pb.ImportPlan.READY


def test_a_no_go_stops_only_what_comes_after_it(plans: Plans) -> None:
    plans.create("{vm: db-1, offering: plain}", "{vm: web-1, after: db-1}", "web-2")
    assert plans.ended(plans.start()) == ("failed", "IMPORT_PLAN_PARTIAL")
    done = plans.get()
    assert plans.states() == {"db-1": "REFUSED", "web-1": "SKIPPED", "web-2": "IMPORTED"}
    assert (done.vms[0].reason_code, done.vms[1].reason_code) == ("OFFERING_TOO_SMALL", "NEEDED_VM_NOT_IMPORTED")
    assert done.vms[0].remedy == "Choose a larger service offering."
    assert done.outcome.startswith("1 of 3 VMs imported; 1 refused by the check; 1 skipped; first db-1: it has")


def test_a_no_go_stops_everything_when_the_plan_says_so(plans: Plans) -> None:
    plans.create("{vm: db-1, offering: plain}", "web-1", more="on_no_go: stop\n")
    assert plans.ended(plans.start()) == ("failed", "IMPORT_PLAN_FAILED")
    assert plans.states() == {"db-1": "REFUSED", "web-1": "CANCELLED"}
    assert Vm.select().count() == 0
    assert Operation.select().where(Operation.verb == "vm.import").count() == 0


def test_a_failed_vm_is_retried(plans: Plans) -> None:
    refuse_conversion(plans)
    plans.create("db-1", "web-1", "{vm: web-2, after: web-1}")
    assert plans.ended(plans.start()) == ("failed", "IMPORT_PLAN_PARTIAL")
    assert plans.states() == {"db-1": "IMPORTED", "web-1": "FAILED", "web-2": "SKIPPED"}
    failed = plans.get().vms[1]
    assert (failed.reason_code, failed.reason, failed.vm_id) == ("NO_OPERATING_SYSTEM", NO.message, "")
    assert reason(plans.start) == reason(plans.resume) == reason(plans.pause) == "IMPORT_PLAN_STATE"
    assert reason(lambda: plans.retry("db-1")) == "NOTHING_TO_RETRY"
    assert reason(lambda: plans.retry("nobody")) == "PLAN_VM_NOT_FOUND"
    allow_conversion(plans)
    assert plans.ended(plans.retry("web-2")) == OK, "and with it the VM that it comes after"
    assert set(plans.states().values()) == {"IMPORTED"}
    assert [vm.attempt for vm in plans.get().vms] == [1, 2, 1]
    check_nothing_left(plans)


def test_a_limit_holds_imports_back(plans: Plans) -> None:
    plans.create(*NAMES, more="parallel: {vms: 3, per_conversion_host: 1}\n")
    slow_down(plans)
    operation = plans.start()
    wait_until(lambda: VmImport.select().count() == 2, 30)
    wait_until(lambda: "parallel.per_conversion_host" in plans.get().vms[2].reason, 30)
    assert len({row.host_id for row in VmImport.select()}) == 2, "two hosts convert, one VM each"
    speed_up(plans)
    assert plans.ended(operation) == OK


def test_a_plan_is_paused_and_resumed(plans: Plans) -> None:
    plans.create(*NAMES, more="parallel: {vms: 1}\n")
    slow_down(plans)
    operation = plans.start()
    wait_until(lambda: plans.states()["db-1"] == "RUNNING", 30)
    assert plans.pause().state == pb.ImportPlan.PAUSING
    assert reason(lambda: plans.service.DeleteImportPlan(pb.DeleteImportPlanRequest(plan="wave"), plans.context))
    speed_up(plans)
    assert plans.ended(operation) == OK
    paused = plans.get()
    assert (paused.state, paused.outcome) == (pb.ImportPlan.PAUSED, "paused by root")
    assert Event.get(Event.type == "import-plan.pause").actor == "root"
    assert list(plans.states().values()) == ["IMPORTED", "WAITING", "WAITING", "WAITING"]
    assert plans.ended(plans.resume()) == OK
    assert plans.get().state == pb.ImportPlan.COMPLETED


def test_a_plan_that_is_pausing_is_resumed_by_the_same_operation(plans: Plans) -> None:
    plans.create("db-1", "web-1", more="parallel: {vms: 1}\n")
    slow_down(plans)
    operation = plans.start()
    wait_until(lambda: plans.states()["db-1"] == "RUNNING", 30)
    plans.pause()
    assert plans.resume().id == operation.id
    speed_up(plans)
    assert plans.ended(operation) == OK
    assert set(plans.states().values()) == {"IMPORTED"}


def test_cancelling_undoes_what_is_under_way_and_keeps_what_was_imported(plans: Plans) -> None:
    plans.create("db-1", "{vm: web-1, after: db-1}", "{vm: web-2, after: web-1}")
    operation = plans.start()
    wait_until(lambda: plans.states()["db-1"] == "IMPORTED", 30)
    slow_down(plans)
    wait_until(lambda: plans.states()["web-1"] == "RUNNING", 30)
    plans.cancel()
    assert plans.ended(operation) == ("cancelled", "IMPORT_PLAN_CANCELLED")
    assert plans.states() == {"db-1": "IMPORTED", "web-1": "CANCELLED", "web-2": "CANCELLED"}
    assert [vm.name for vm in Vm.select()] == ["db-1"]
    check_nothing_left(plans)
    assert reason(plans.cancel) == "IMPORT_PLAN_STATE"
    speed_up(plans)
    assert plans.ended(plans.retry()) == OK, "a cancelled plan can be taken up again"


def test_a_plan_that_was_not_started_is_cancelled(plans: Plans) -> None:
    plans.create("db-1")
    assert plans.cancel().state == pb.ImportPlan.CANCELLED
    assert Event.get(Event.type == "import-plan.cancel").actor == "root"
    assert plans.states() == {"db-1": "CANCELLED"}


def test_a_source_that_does_not_answer_pauses_the_plan(plans: Plans) -> None:
    plans.create("db-1")
    changed = source()
    type(changed).update(address="127.0.0.1:1").execute()
    assert plans.ended(plans.start())[0] == "failed"
    paused = plans.get()
    assert paused.state == pb.ImportPlan.PAUSED
    assert "127.0.0.1" in paused.outcome
    type(changed).update(address=changed.address).execute()
    assert plans.ended(plans.resume()) == OK


def test_a_source_that_goes_away_meanwhile_pauses_the_plan(plans: Plans) -> None:
    executor.PATIENCE_S = 1.0
    plans.create("db-1", "{vm: web-1, after: db-1}")
    slow_down(plans)
    operation = plans.start()
    wait_until(lambda: bool(plans.vcenter.leases()), 30)
    before = source()
    type(before).update(address="127.0.0.1:1").execute()
    assert plans.ended(operation) == OK
    paused = plans.get()
    assert paused.state == pb.ImportPlan.PAUSED
    assert paused.outcome.startswith("the source does not answer")
    assert plans.states() == {"db-1": "IMPORTED", "web-1": "WAITING"}
    type(before).update(address=before.address).execute()
    speed_up(plans)
    assert plans.ended(plans.resume()) == OK


def test_what_a_plan_names_may_be_gone(plans: Plans) -> None:
    plans.create("db-1")
    ServiceOffering.delete().where(ServiceOffering.name == "two").execute()
    assert plans.ended(plans.start()) == ("failed", "IMPORT_PLAN_FAILED")
    assert plans.get().vms[0].reason_code == "PLANNED_OBJECT_GONE"


def test_a_source_stays_while_a_plan_imports_from_it(plans: Plans) -> None:
    plans.create("db-1", "{vm: web-1, after: db-1}")
    slow_down(plans)
    operation = plans.start()
    assert reason(lambda: sources.delete(source(), "root")) == "SOURCE_IN_USE"
    speed_up(plans)
    assert plans.ended(operation) == OK


def test_an_operation_that_ended_early_leaves_a_paused_plan(plans: Plans) -> None:
    plans.create("db-1")
    plans.engine.interrupts.stopping.set()  # the plan's operation is recorded, and does not run
    operation = plans.start()
    plans.engine.interrupts.stopping.clear()
    Operation.update(state="failed").where(Operation.id == operation.id).execute()
    executor.tidy_up(plans.engine.keys)
    assert plans.get().state == pb.ImportPlan.PAUSED
    assert plans.ended(plans.resume()) == OK
