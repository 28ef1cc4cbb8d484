"""Operations: the list, and one with its progress."""

from __future__ import annotations

from google.longrunning import operations_pb2 as lro
from ostler.client.operations import bare_id, metadata_of
from starlette.requests import Request
from starlette.responses import Response

from ostler_control.cli import text
from ostler_control.cli.app import App
from ostler_control.cli.commands import operation
from ostler_control.web import tables
from ostler_control.web.actions import Action, Actions, Target
from ostler_control.web.context import Console, command
from ostler_control.web.forms import Call
from ostler_control.web.lists import render_list

# The pages of objects that operations are about.
PLACES = {
    "vm": ("vms",),
    "volume": ("volumes",),
    "snapshot": ("snapshots",),
    "vm-snapshot": ("vm-snapshots",),
    "backup": ("backups",),
    "host": ("hosts",),
    "drs": ("drs", "plans"),
}


def _target(found: lro.Operation) -> Target:
    name, state = bare_id(found.name), text.enum_of(metadata_of(found), "state")
    return Target(name, name, "operation", state, "/operations", tables.path("operations", name))


def _find(app: App, name: str) -> Target:
    return _target(app.client.operations.GetOperation(lro.GetOperationRequest(name=name)))


def _cancel(app: App, call: Call) -> None:
    app.client.operations.CancelOperation(lro.CancelOperationRequest(name=call.target))


ACTIONS = Actions(
    "/operations",
    _find,
    (
        Action(
            "cancel",
            ("operation", "cancel"),
            "Cancel it",
            "Cancel operation {name} and undo what it has done? Past its point of no return it completes.",
            _cancel,
            frozenset({"pending", "running"}),
            is_dangerous=True,
        ),
    ),
)


def operations(console: Console, request: Request) -> Response:
    """The page of operations."""
    filters = tables.Filters(request, ("resource", "Id of the object"), state=operation.STATES)
    terms = [f"resource={filters['resource']}"] if filters["resource"] else []
    terms += [f"state={filters['state'].upper()}"] if filters["state"] else []
    wanted = lro.ListOperationsRequest(filter=" AND ".join(terms), page_size=tables.PAGE_SIZE, page_token=filters.page)
    answer = console.app.client.operations.ListOperations(wanted)
    table = tables.table(
        operation.VIEW,
        answer.operations,
        "Operations",
        lambda o: tables.path("operations", bare_id(o.name)),
        next=filters.next(answer.next_page_token),
    )
    is_moving = not all(found.done for found in answer.operations)
    return render_list(console, request, ("operation", "list"), filters, table, is_moving=is_moving)


def one_operation(console: Console, request: Request) -> Response:
    """The page of an operation: followed, it shows the progress."""
    name = request.path_params["operation"]
    found = console.app.client.operations.GetOperation(lro.GetOperationRequest(name=name))
    metadata, target = metadata_of(found), _target(found)
    place = PLACES.get(metadata.resource_type)
    return console.render(
        request,
        "operation.html",
        title=f"{metadata.verb} {metadata.resource_name}",
        here="/operations",
        command=command("operation", "wait", target.name),
        state=target.state,
        tone=tables.tone(target.state),
        failure=found.error.message if found.HasField("error") else "",
        done=found.done,
        is_moving=not found.done,
        percent=metadata.progress.percent,
        phase=metadata.progress.phase,
        buttons=ACTIONS.buttons(console, target),
        facts=tables.facts(operation.VIEW, found),
        href=tables.path(*place, metadata.resource_id) if place else "",
        kind=metadata.resource_type,
        name=metadata.resource_name,
    )
