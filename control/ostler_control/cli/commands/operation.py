"""`ostler operation`."""

from __future__ import annotations

import click
from google.longrunning import operations_pb2 as lro
from google.protobuf.message import Message
from ostler.control.v1 import vm_pb2, volume_pb2
from ostler.control.v1.operation_pb2 import OperationMetadata

from ostler_control.cli import text
from ostler_control.cli.app import App, pages, pass_app
from ostler_control.cli.lazy import Noun
from ostler_control.cli.objects import object_id, object_options
from ostler_control.cli.options import limit_option, list_options, output_option
from ostler_control.cli.output import Listing, View, print_list, print_one

# So that `plain` knows what operations answer with.
ANSWERS: tuple[type[Message], ...] = (vm_pb2.Vm, volume_pb2.Volume)


def _metadata(operation: lro.Operation) -> OperationMetadata:
    from ostler.client.operations import metadata_of

    return metadata_of(operation)


def _id(operation: lro.Operation) -> str:
    from ostler.client.operations import bare_id

    return bare_id(operation.name)


def _progress(operation: lro.Operation) -> str:
    progress = _metadata(operation).progress
    if operation.HasField("error"):
        return str(operation.error.message)
    if operation.done:
        return text.NONE
    return f"{progress.percent}% {progress.phase}".strip()


def _object(operation: lro.Operation) -> str:
    metadata = _metadata(operation)
    return metadata.resource_name or metadata.resource_id


def _plain(operation: lro.Operation) -> object:
    from ostler_control.cli.plain import to_plain

    return to_plain(operation)


VIEW = View[lro.Operation](
    "operation",
    columns=[
        ("id", _id),
        ("what", lambda o: _metadata(o).verb),
        ("object", _object),
        ("state", lambda o: text.enum_of(_metadata(o), "state")),
        ("progress", _progress),
        ("age", lambda o: text.age(_metadata(o), "create_time")),
    ],
    details=[
        ("object", lambda o: f"{_metadata(o).resource_type} {_object(o)}"),
        ("object id", lambda o: _metadata(o).resource_id),
        ("user", lambda o: _metadata(o).user),
        ("begun", lambda o: text.when(_metadata(o), "create_time")),
        ("ended", lambda o: text.when(_metadata(o), "end_time")),
        ("cancel asked for", lambda o: text.yes(_metadata(o).cancel_requested)),
    ],
    name=_id,
)
STATES = ("pending", "running", "succeeded", "failed", "cancelled")


@click.group(cls=Noun)
def command() -> None:
    """Long-running operations: list, wait, cancel."""


@command.command("list")
@object_options
@click.option("--state", type=click.Choice(STATES), help="Only those in this state.")
@limit_option(100)
@list_options
@pass_app
def list_(
    app: App,
    host: str,
    vm: str,
    volume: str,
    resource: str,
    state: str | None,
    limit: int,
    listing: Listing,
) -> None:
    """Lists operations, newest first.

    \b
    Examples:
      ostler operation list --state running
      ostler operation list --vm web-1
    """
    of = object_id(app, host, vm, volume, resource)
    terms = [f"resource={of}" if of else "", f"state={state.upper()}" if state else ""]
    request = lro.ListOperationsRequest(filter=" AND ".join(term for term in terms if term))
    print_list(VIEW, pages(app.client.operations.ListOperations, request, lambda a: a.operations, limit), listing)


@command.command("show")
@click.argument("operation")
@output_option
@pass_app
def show(app: App, operation: str, output: str) -> None:
    """Shows one operation.

    \b
    Example:
      ostler operation show 6f1c2d0a-2a52-4d0e-9f25-0a41c7a2f6de
    """
    print_one(VIEW, app.client.operations.GetOperation(lro.GetOperationRequest(name=operation)), output)


@command.command("wait")
@click.argument("operation")
@output_option
@pass_app
def wait(app: App, operation: str, output: str) -> None:
    """Waits for an operation and shows its progress. The exit code is the operation's.

    \b
    Example:
      ostler operation wait 6f1c2d0a-2a52-4d0e-9f25-0a41c7a2f6de
    """
    from ostler.client.operations import raise_for_error

    from ostler_control.cli import waiting

    stub = app.client.operations
    done = waiting.follow(stub, stub.GetOperation(lro.GetOperationRequest(name=operation)))
    raise_for_error(done)
    print_one(VIEW, done, output)


@command.command("cancel")
@click.argument("operation")
@pass_app
def cancel(app: App, operation: str) -> None:
    """Cancels an operation and undoes what it has done. Past its point of no return it completes.

    \b
    Example:
      ostler operation cancel 6f1c2d0a-2a52-4d0e-9f25-0a41c7a2f6de
    """
    app.client.operations.CancelOperation(lro.CancelOperationRequest(name=operation))
    click.echo(f"cancellation requested; to wait for it: ostler operation wait {operation}", err=True)
