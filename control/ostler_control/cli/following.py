"""Following a plan to its end, and telling how each move went."""

from __future__ import annotations

import click
from google.longrunning import operations_pb2 as lro
from ostler.client.operations import metadata_of, raise_for_error
from ostler.control.v1 import drs_pb2 as pb

from ostler_control.cli import plans
from ostler_control.cli.app import App
from ostler_control.cli.finish import finish
from ostler_control.cli.options import CallOptions


def follow_plan(app: App, operation: lro.Operation, call: CallOptions) -> None:
    """Waits for the plan's operation and prints the plan: also when not every move was made, which then is the
    error that it ends with."""
    from ostler_control.cli import waiting

    if call.dry_run or not call.wait:
        finish(app, operation, plans.VIEW, pb.DrsPlan(), call)
        return
    operation = waiting.follow(app.client.operations, operation)
    plan = app.client.drs.GetPlan(pb.GetPlanRequest(plan=metadata_of(operation).resource_id))
    plans.print_plan(plan, call.output)
    if call.output == "table":
        click.echo()
    raise_for_error(operation)
