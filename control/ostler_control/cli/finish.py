"""What a command does with the operation that its call has begun."""

from __future__ import annotations

from typing import TypeVar

import click
from google.longrunning import operations_pb2 as lro
from google.protobuf.message import Message

from ostler_control.cli.app import App
from ostler_control.cli.options import CallOptions
from ostler_control.cli.output import View, print_changed, print_data

M = TypeVar("M", bound=Message)


def finish(
    app: App,
    operation: lro.Operation,
    view: View[M],
    answer: M,
    call: CallOptions,
    gone: bool = False,
    done: str = "deleted",
) -> None:
    """Follows the operation and prints the object that it answers with, or what `call` asks for instead.

    answer: an empty message of the answer's type. gone: the object does not exist any more afterwards; done: what it is
    then.
    """
    from ostler.client.operations import raise_for_error

    from ostler_control.cli import waiting

    if call.dry_run:
        raise_for_error(operation)
        _print_dry_run(operation, call)
        return
    if not call.wait:
        _print_operation(operation, call)
        return
    operation = waiting.follow(app.client.operations, operation)
    raise_for_error(operation)
    operation.response.Unpack(answer)
    if gone and call.output == "table":
        click.echo(f"{view.noun} {view.name(answer)} is {done}")
    else:
        print_changed(view, answer, call.output)


def _print_operation(operation: lro.Operation, call: CallOptions) -> None:
    from ostler.client.operations import bare_id

    from ostler_control.cli.plain import to_plain

    if call.output in ("json", "yaml"):
        print_data(to_plain(operation), call.output)
    else:
        click.echo(bare_id(operation.name))


def _print_dry_run(operation: lro.Operation, call: CallOptions) -> None:
    from ostler.client.operations import metadata_of, title_of

    from ostler_control.cli.plain import to_plain

    if call.output in ("json", "yaml"):
        print_data(to_plain(metadata_of(operation)), call.output)
    else:
        phase = metadata_of(operation).progress.phase
        click.echo(f"{title_of(operation)} would be accepted{': ' + phase if phase else ''}. Nothing was changed.")
