"""Imports: sources with their VMs, and plans with a board of where each VM is."""

from __future__ import annotations

from collections.abc import Iterable

from ostler.client.paging import pages
from ostler.control.v1 import import_pb2, import_plan_pb2
from starlette.requests import Request
from starlette.responses import Response

from ostler_control.cli import import_plans, text
from ostler_control.cli.app import App
from ostler_control.cli.commands._import_plan import STATES
from ostler_control.cli.commands._import_view import SOURCE
from ostler_control.cli.output import View
from ostler_control.web import tables
from ostler_control.web.actions import Action, Actions, Target
from ostler_control.web.context import Console, command
from ostler_control.web.forms import Call, Run

MAX_SOURCES = 200
_OVER = frozenset({"completed", "partial", "failed", "cancelled"})

FINDINGS = View[import_pb2.ImportFinding](
    "finding",
    columns=[
        ("severity", lambda f: text.enum_of(f, "severity")),
        ("code", lambda f: f.code),
        ("finding", lambda f: f.message),
        ("remedy", lambda f: f.remedy),
    ],
)
# A finding and the VM that it is about.
VmFinding = tuple[import_plan_pb2.ImportPlanVm, import_pb2.ImportFinding]
VM_FINDINGS = View[VmFinding](
    "finding",
    columns=[
        ("vm", lambda f: f[0].source_vm),
        *((title, lambda f, cell=cell: cell(f[1])) for title, cell in FINDINGS.columns),
    ],
)


def overview(console: Console, request: Request) -> Response:
    """The page of imports: sources and plans."""
    client = console.app.client
    filters = tables.Filters(request, state=STATES)
    wanted = import_plan_pb2.ListImportPlansRequest(
        page_size=tables.PAGE_SIZE,
        page_token=filters.page,
        state=import_plan_pb2.ImportPlan.State.Value((filters["state"] or "state_unspecified").upper()),
    )
    answer = client.import_plans.ListImportPlans(wanted)
    sources = pages(
        client.imports.ListImportSources, import_pb2.ListImportSourcesRequest(), lambda a: a.sources, MAX_SOURCES
    )
    return console.render(
        request,
        "imports.html",
        title="Imports",
        here="/imports",
        command=command("import", "plan", "list", *filters.words()),
        filters=filters.fields,
        sources=tables.table(SOURCE, sources, "Sources", lambda s: tables.path("imports", "sources", s.name)),
        table=tables.table(
            import_plans.VIEW,
            answer.plans,
            "Plans",
            lambda p: tables.path("imports", "plans", p.id),
            next=filters.next(answer.next_page_token),
        ),
    )


def one_plan(console: Console, request: Request) -> Response:
    """The board of a plan."""
    found = console.app.client.import_plans.GetImportPlan(
        import_plan_pb2.GetImportPlanRequest(plan=request.path_params["plan"])
    )
    filters, target = tables.Filters(request), _target(found)
    vms, following = tables.cut(filters.page, found.vms)
    return console.render(
        request,
        "import_plan.html",
        is_moving=target.state in ("running", "pausing"),
        title=found.name,
        here="/imports",
        command=command("import", "plan", "status", found.name),
        state=target.state,
        tone=tables.tone(target.state),
        lines=import_plans.about_plan(found),
        buttons=ACTIONS.buttons(console, target),
        table=tables.table(import_plans.BOARD, vms, "VMs", _place, next=filters.next(following)),
        findings=tables.table(VM_FINDINGS, _findings(vms), "Findings of the last check"),
    )


def _place(vm: import_plan_pb2.ImportPlanVm) -> str:
    if vm.vm_id and vm.state == vm.IMPORTED:
        return tables.path("vms", vm.vm_id)
    return tables.path("operations", vm.operation_id) if vm.operation_id else ""


def _findings(vms: Iterable[import_plan_pb2.ImportPlanVm]) -> list[VmFinding]:
    found = [(vm, finding) for vm in vms for finding in vm.findings]
    return sorted(found, key=lambda one: -one[1].severity)[: tables.PAGE_SIZE]


def _target(found: import_plan_pb2.ImportPlan) -> Target:
    href = tables.path("imports", "plans", found.id)
    return Target(found.id, found.name, "import plan", text.enum_of(found, "state"), "/imports", href)


def _find(app: App, plan: str) -> Target:
    return _target(app.client.import_plans.GetImportPlan(import_plan_pb2.GetImportPlanRequest(plan=plan)))


def _check(app: App, call: Call) -> None:
    app.client.import_plans.CheckImportPlan(import_plan_pb2.CheckImportPlanRequest(plan=call.target))


# The board says more than the operation's page, so that these lead back to it.


def _start(app: App, call: Call) -> None:
    app.client.import_plans.StartImportPlan(
        import_plan_pb2.StartImportPlanRequest(request_id=call.request_id, plan=call.target)
    )


def _resume(app: App, call: Call) -> None:
    app.client.import_plans.ResumeImportPlan(
        import_plan_pb2.ResumeImportPlanRequest(request_id=call.request_id, plan=call.target)
    )


def _retry(app: App, call: Call) -> None:
    app.client.import_plans.RetryImportPlan(
        import_plan_pb2.RetryImportPlanRequest(request_id=call.request_id, plan=call.target)
    )


def _pause(app: App, call: Call) -> None:
    app.client.import_plans.PauseImportPlan(import_plan_pb2.PauseImportPlanRequest(plan=call.target))


def _cancel(app: App, call: Call) -> None:
    app.client.import_plans.CancelImportPlan(import_plan_pb2.CancelImportPlanRequest(plan=call.target))


def _delete(app: App, call: Call) -> str:
    app.client.import_plans.DeleteImportPlan(import_plan_pb2.DeleteImportPlanRequest(plan=call.target))
    return "/imports"


def _action(
    name: str, label: str, question: str, run: Run, states: Iterable[str], *, is_dangerous: bool = False
) -> Action:
    return Action(
        name,
        ("import", "plan", name),
        label,
        question,
        run,
        frozenset(states),
        fixed=("--yes",) if is_dangerous else (),
        is_dangerous=is_dangerous,
    )


ACTIONS = Actions(
    "/imports/plans",
    _find,
    (
        _action("check", "Check", "Check every VM of plan {name} that waits? Nothing is imported.", _check, ("ready",)),
        _action(
            "start",
            "Start",
            "Check every VM of plan {name}, then import those that can be?",
            _start,
            ("ready",),
        ),
        _action(
            "pause",
            "Pause",
            "Start no further import of plan {name}? Those under way continue to their end.",
            _pause,
            ("running",),
        ),
        _action("resume", "Resume", "Continue plan {name}?", _resume, ("paused",)),
        _action(
            "retry",
            "Retry",
            "Import again what plan {name} did not import?",
            _retry,
            ("running", "partial", "failed", "cancelled"),
        ),
        _action(
            "cancel",
            "Cancel it",
            "Cancel plan {name} and undo the imports under way? Imported VMs stay.",
            _cancel,
            ("ready", "running", "pausing", "paused"),
            is_dangerous=True,
        ),
        _action(
            "delete",
            "Delete",
            "Delete plan {name} with its report? Imported VMs stay.",
            _delete,
            _OVER | {"ready"},
            is_dangerous=True,
        ),
    ),
)
