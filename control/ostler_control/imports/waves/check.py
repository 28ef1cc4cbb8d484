"""Checks every VM of a plan that waits, before anything is touched: go or no-go for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ostler_common.errors import FailedPreconditionError, NotFoundError, OstlerError

from ostler_control.agents import Agents
from ostler_control.database import session, transaction
from ostler_control.imports import kvm_source, sources
from ostler_control.imports.facts import name_of, preflight, vm_exists
from ostler_control.imports.preflight import Finding, Severity
from ostler_control.imports.waves import store
from ostler_control.imports.waves.planned import wanted_of
from ostler_control.keys import Keyring
from ostler_control.models import ImportPlan, ImportPlanVm, ImportPlanVmState, ImportSource
from ostler_control.operations.inputs import to_json
from ostler_control.vmware.inventory import SourceVm
from ostler_control.vmware.read_inventory import list_vms


@dataclass(frozen=True)
class _Checked:
    """What was found of a VM. vm: None when the source does not have it."""

    findings: tuple[Finding, ...]
    vm: SourceVm | None = None
    name: str = ""
    estimated_s: int = 0


def check_all(plan: ImportPlan, keys: Keyring, agents: Agents, pause: Callable[[], None]) -> None:
    """Checks the VMs of a plan that wait; keeps what was found. pause: called between two, raises to stop.

    Raises NotFoundError IMPORT_SOURCE_NOT_FOUND, and what a connection to the source raises.
    """
    waiting = [row for row in store.vms_of(plan.id) if row.state is ImportPlanVmState.WAITING]
    if not waiting:
        return
    source = source_of(plan)
    if source.type == kvm_source.TYPE:
        for row in waiting:
            pause()
            _keep(row, _check_kvm(row, source, keys, agents))
        return
    with sources.connect(source, keys) as connection:
        inventory, is_vcenter = list(list_vms(connection)), connection.is_vcenter
    by_ref = {vm.ref: vm for vm in inventory}
    by_name: dict[str, list[SourceVm]] = {}
    for vm in inventory:
        by_name.setdefault(vm.name, []).append(vm)
    for row in waiting:
        pause()
        _keep(row, _check(row, source, is_vcenter, by_ref, by_name))


def source_of(plan: ImportPlan) -> ImportSource:
    """The plan's source. Raises NotFoundError IMPORT_SOURCE_NOT_FOUND."""
    with session():
        source: ImportSource | None = ImportSource.get_or_none(ImportSource.id == plan.source_id)
    if source is None:
        raise NotFoundError(
            f"import source {plan.source_name} of the plan was removed; create the plan anew", "IMPORT_SOURCE_NOT_FOUND"
        )
    return source


def _check_kvm(row: ImportPlanVm, source: ImportSource, keys: Keyring, agents: Agents) -> _Checked:
    """Each VM is inspected by itself: a list of a KVM host's VMs does not tell what their disks consist of."""
    try:
        with session():
            host = wanted_of(store.planned_of(row), source).conversion_host
        vm = kvm_source.find_vm(source, keys, agents, row.source_vm, host)
    except NotFoundError as error:
        return _Checked((_finding(error),))
    return _check_found(row, source, vm, False)


def _check(
    row: ImportPlanVm,
    source: ImportSource,
    is_vcenter: bool,
    by_ref: Mapping[str, SourceVm],
    by_name: Mapping[str, Sequence[SourceVm]],
) -> _Checked:
    try:
        vm = _find(row.source_vm, source, by_ref, by_name)
    except OstlerError as error:
        return _Checked((_finding(error),))
    return _check_found(row, source, vm, is_vcenter)


def _check_found(row: ImportPlanVm, source: ImportSource, vm: SourceVm, is_vcenter: bool) -> _Checked:
    try:
        with session():
            wanted = wanted_of(store.planned_of(row), source)
            name = name_of(wanted, vm)
            report = preflight(wanted, vm, is_vcenter).report
            taken = vm_exists(wanted, name)
    except OstlerError as error:
        return _Checked((_finding(error),), vm)
    findings = report.findings
    if taken:
        findings += (
            Finding(
                "VM_EXISTS",
                Severity.ERROR,
                f"account {wanted.account.name} has a VM named {name} already",
                "Give it another name in the plan, or delete that VM.",
            ),
        )
    return _Checked(findings, vm, name, report.estimated_s)


def _find(
    text: str, source: ImportSource, by_ref: Mapping[str, SourceVm], by_name: Mapping[str, Sequence[SourceVm]]
) -> SourceVm:
    """A VM by its ref or its name, as `facts.find_vm` does."""
    if text in by_ref:
        return by_ref[text]
    found = by_name.get(text, ())
    if not found:
        raise NotFoundError(f'there is no VM "{text}" on {source.name}', "SOURCE_VM_NOT_FOUND")
    if len(found) > 1:
        raise FailedPreconditionError(
            f'more than one VM on {source.name} is named "{text}": say which by ref'
            f" ({', '.join(vm.ref for vm in found[:20])})",
            "AMBIGUOUS_NAME",
        )
    return found[0]


def _finding(error: OstlerError) -> Finding:
    return Finding(error.reason, Severity.ERROR, error.message)


def _keep(row: ImportPlanVm, checked: _Checked) -> None:
    vm = checked.vm
    values: dict[str, object] = {"findings": to_json(store.Findings(checked.findings))}
    if vm is not None:
        values |= {
            "source_ref": vm.ref,
            "esxi_host": vm.host,
            "size_bytes": vm.used_bytes or vm.capacity_bytes,
            "estimated_s": checked.estimated_s,
        }
    if checked.name:
        values["name"] = checked.name
    store.change_vm(row, (ImportPlanVmState.WAITING,), **values)


def errors_of(row: ImportPlanVm) -> list[Finding]:
    """What stands against a VM's import, as the last check found it."""
    return [finding for finding in store.findings_of(row) if finding.severity is Severity.ERROR]


def refuse(plan: ImportPlan) -> int:
    """Ends the VMs that wait and are a no-go, and, where the plan says so, all others with them; how many were a
    no-go."""
    with transaction():
        waiting = [row for row in store.vms_of(plan.id) if row.state is ImportPlanVmState.WAITING]
        refused = 0
        for row in waiting:
            if errors := errors_of(row):
                refused += 1
                store.change_vm(
                    row,
                    (ImportPlanVmState.WAITING,),
                    state=ImportPlanVmState.REFUSED,
                    reason_code=errors[0].code,
                    reason="; ".join(finding.message for finding in errors),
                )
        if refused and plan.stop_on_no_go:
            for row in waiting:
                store.change_vm(
                    row,
                    (ImportPlanVmState.WAITING,),
                    state=ImportPlanVmState.CANCELLED,
                    reason_code="ANOTHER_NO_GO",
                    reason="the check refused another VM, and the plan says on_no_go: stop",
                )
        return refused
