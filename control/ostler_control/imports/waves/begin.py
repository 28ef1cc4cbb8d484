"""Begins the import of one VM of a plan, all in one transaction with the plan's row of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from ostler_common.errors import (
    AbortedError,
    DeadlineExceededError,
    OstlerError,
    ResourceExhaustedError,
    UnavailableError,
)
from peewee import fn

from ostler_control.database import is_sqlite, session, transaction
from ostler_control.imports.read_source import read_source_vm
from ostler_control.imports.record import record_import
from ostler_control.imports.waves import store
from ostler_control.imports.waves.check import source_of
from ostler_control.imports.waves.order import Busy
from ostler_control.imports.waves.planned import wanted_of
from ostler_control.models import ImportPlan, ImportPlanVm, ImportPlanVmState, ImportSource, VmImport, now, tuples
from ostler_control.operations import Run, launch
from ostler_control.operations.records import attempt_and_cancel

# Refusals that pass once imports under way have ended.
_PASSING = frozenset({"NO_STAGING_POOL", "TARGET_SPACE"})


class Verdict(Enum):
    """What became of a VM whose turn it was."""

    BEGUN = "begun"
    WAITS = "waits"
    FAILED = "failed"
    SOURCE_AWAY = "source away"


@dataclass(frozen=True)
class Answer:
    """A verdict, and why."""

    verdict: Verdict
    why: str = ""


class _LimitReachedError(Exception):
    """A limit that shows only once the conversion host is chosen: the transaction is rolled back."""


def busy(source_id: str) -> Busy:
    """Imports under way from a source."""
    with session():
        count = VmImport.select().where(VmImport.source == source_id).count()
        query = ImportPlanVm.select(ImportPlanVm.esxi_host, fn.COUNT(ImportPlanVm.id)).join(ImportPlan)
        query = query.where(ImportPlan.source_id == source_id, ImportPlanVm.state == ImportPlanVmState.RUNNING)
        hosts = dict(tuples(query.group_by(ImportPlanVm.esxi_host), tuple[str, int]))
    return Busy(count, hosts)


def begin(run: Run, plan: ImportPlan, row: ImportPlanVm, others_run: bool) -> Answer:
    """Inside a step: begins the import of a VM. others_run: whether room may come free by itself."""
    try:
        source = source_of(plan)
        with session():
            host = wanted_of(store.planned_of(row), source).conversion_host
        vm, is_vcenter = read_source_vm(source, run.keys, run.agents, row.source_ref or row.source_vm, host)
        with transaction():
            _lock(source)
            attempt, cancel = attempt_and_cancel(run.id)
            if attempt != run.attempt or cancel:
                return Answer(Verdict.WAITS)
            current = store.lock(plan.id)
            if current.state != "running" or current.operation_id != run.id:
                return Answer(Verdict.WAITS)
            wanted = wanted_of(store.planned_of(row), source)
            operation = record_import(wanted, vm, is_vcenter, plan.user, run.keys)
            changed = store.change_vm(
                row,
                (ImportPlanVmState.WAITING,),
                state=ImportPlanVmState.RUNNING,
                operation_id=operation.id,
                vm_id=operation.resource_id,
                name=operation.resource_name,
                source_ref=vm.ref,
                esxi_host=vm.host,
                reason="",
                reason_code="",
                begin_time=now(),
                end_time=None,
                attempt=ImportPlanVm.attempt + 1,
                bytes_per_s=0,
                left_s=0,
            )
            _check_limits(plan, source, operation.id, changed)
    except _LimitReachedError as reached:
        return Answer(Verdict.WAITS, str(reached))
    except AbortedError as error:
        # Somebody else imports the VM, or was faster in some other way: that passes.
        return Answer(Verdict.WAITS, error.message)
    except (UnavailableError, DeadlineExceededError) as error:
        return Answer(Verdict.SOURCE_AWAY, error.message)
    except OstlerError as error:
        if others_run and _passes(error):
            return Answer(Verdict.WAITS, error.message)
        _fail(row, error)
        return Answer(Verdict.FAILED, error.message)
    launch(operation)
    return Answer(Verdict.BEGUN)


def _lock(source: ImportSource) -> None:
    """Two plans of one source count its imports one after the other."""
    if not is_sqlite():
        ImportSource.select().where(ImportSource.id == source.id).for_update().get()


def _check_limits(plan: ImportPlan, source: ImportSource, operation_id: str, changed: bool) -> None:
    """With the new import counted. Raises _LimitReachedError."""
    if not changed:
        raise _LimitReachedError("somebody else works on the plan")
    limits = store.limits_of(plan)
    mine: VmImport = VmImport.get_by_id(operation_id)
    if VmImport.select().where(VmImport.source == source.id).count() > limits.per_vcenter:
        raise _LimitReachedError("the source's limit is reached (parallel.per_vcenter)")
    if VmImport.select().where(VmImport.host_id == mine.host_id).count() > limits.per_conversion_host:
        raise _LimitReachedError("the conversion hosts' limit is reached (parallel.per_conversion_host)")


def _passes(error: OstlerError) -> bool:
    codes: Sequence[str] = error.metadata.get("findings", "").split(",")
    if error.reason == "IMPORT_REFUSED":
        return bool(codes) and _PASSING.issuperset(codes)
    return isinstance(error, ResourceExhaustedError) and error.reason != "QUOTA_EXCEEDED"


def _fail(row: ImportPlanVm, error: OstlerError) -> None:
    store.change_vm(
        row,
        (ImportPlanVmState.WAITING,),
        state=ImportPlanVmState.FAILED,
        reason_code=_code(error),
        reason=error.message,
        begin_time=now(),
        end_time=now(),
        attempt=ImportPlanVm.attempt + 1,
    )


def _code(error: OstlerError) -> str:
    """A refused import is told by its first finding."""
    first = error.metadata.get("findings", "").split(",")[0]
    return first if error.reason == "IMPORT_REFUSED" and first else error.reason
