"""Import plans and their VMs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ostler.control.v1 import import_plan_pb2 as pb

from ostler_control import labels
from ostler_control.api.convert.enums import to_enum
from ostler_control.api.convert.imports import finding
from ostler_control.api.convert.times import timestamp
from ostler_control.imports.waves import check, store
from ostler_control.imports.waves.progress import plan_left_s
from ostler_control.imports.waves.yaml_nodes import MAX_ERRORS, Problem
from ostler_control.models import ImportPlan, ImportPlanVm, ImportPlanVmState, Operation

_RUNNING, _WAITING = ImportPlanVmState.RUNNING, ImportPlanVmState.WAITING


def plan(row: ImportPlan) -> pb.ImportPlan:
    """A plan with its file."""
    message = plans([row])[0]
    message.document = row.document.encode()
    return message


def plans(rows: Sequence[ImportPlan]) -> list[pb.ImportPlan]:
    """Plans as lists show them."""
    query = ImportPlanVm.select().where(ImportPlanVm.plan.in_([row.id for row in rows]))
    vms: dict[str, list[ImportPlanVm]] = {row.id: [] for row in rows}
    for vm in query.order_by(ImportPlanVm.plan, ImportPlanVm.position):
        vms[vm.plan_id].append(vm)
    under_way = [vm.operation_id for found in vms.values() for vm in found if vm.state is _RUNNING]
    operations = {row.id: row for row in Operation.select().where(Operation.id.in_(under_way))}
    own = labels.of_objects(ImportPlan, [row.id for row in rows])
    return [_plan(row, vms[row.id], operations, own.get(row.id, {})) for row in rows]


def _plan(
    row: ImportPlan, vms: Sequence[ImportPlanVm], operations: Mapping[str, Operation], own_labels: Mapping[str, str]
) -> pb.ImportPlan:
    limits = store.limits_of(row)
    left_s = 0
    if row.state.is_active:
        running = [vm.left_s for vm in vms if vm.state is _RUNNING]
        waiting = [vm.estimated_s for vm in vms if vm.state is _WAITING]
        left_s = plan_left_s(running, waiting if row.state == "running" else (), limits.vms)
    names = [vm.source_vm for vm in vms]
    return pb.ImportPlan(
        id=row.id,
        name=row.name,
        source_id=row.source_id,
        source_name=row.source_name,
        state=to_enum(pb.ImportPlan.State, "", row.state),
        state_time=timestamp(row.state_time),
        outcome=row.outcome,
        user=row.user,
        operation_id=row.operation_id,
        limits=pb.ImportPlanLimits(
            vms=limits.vms,
            per_esxi_host=limits.per_esxi_host,
            per_vcenter=limits.per_vcenter,
            per_conversion_host=limits.per_conversion_host,
        ),
        stop_on_no_go=row.stop_on_no_go,
        vms=[_vm(vm, names, operations.get(vm.operation_id)) for vm in vms],
        left_s=left_s,
        create_time=timestamp(row.create_time),
        labels=own_labels,
    )


def _vm(row: ImportPlanVm, names: Sequence[str], operation: Operation | None) -> pb.ImportPlanVm:
    message = pb.ImportPlanVm(
        position=row.position,
        source_vm=row.source_vm,
        name=row.name,
        state=to_enum(pb.ImportPlanVm.State, "", row.state),
        reason_code=row.reason_code,
        reason=row.reason,
        remedy=_remedy(row),
        findings=map(finding, store.findings_of(row)),
        after=[names[position] for position in store.after_of(row)],
        esxi_host=row.esxi_host,
        size_bytes=row.size_bytes,
        estimated_s=row.estimated_s,
        operation_id=row.operation_id,
        vm_id=row.vm_id,
        bytes_per_s=row.bytes_per_s,
        left_s=row.left_s,
        begin_time=timestamp(row.begin_time),
        end_time=timestamp(row.end_time),
        attempt=row.attempt,
    )
    if row.findings:
        message.go = not check.errors_of(row)
    if operation is not None:
        message.phase = operation.phase
        message.percent = operation.percent
        message.bytes_done = operation.bytes_done
        message.bytes_total = operation.bytes_total
    elif row.state is ImportPlanVmState.IMPORTED:
        message.percent = 100
    return message


def _remedy(row: ImportPlanVm) -> str:
    """What to do about a VM that was not imported."""
    if row.state is ImportPlanVmState.REFUSED:
        return " ".join(dict.fromkeys(error.remedy for error in check.errors_of(row) if error.remedy))
    if row.state is ImportPlanVmState.FAILED:
        return "Fix what the reason says, then retry the VM."
    if row.state in (ImportPlanVmState.SKIPPED, ImportPlanVmState.CANCELLED):
        return "Retry the VM."
    return ""


def errors(problems: Iterable[Problem]) -> list[pb.ImportPlanError]:
    """What is wrong with a file."""
    found = list(problems)[:MAX_ERRORS]
    return [pb.ImportPlanError(line=p.line, path=p.path, reason=p.reason, message=p.message) for p in found]
