"""`ostler import plan`: many VMs in waves."""

from __future__ import annotations

from pathlib import Path

import click
from google.longrunning import operations_pb2 as lro
from ostler.control.v1 import import_plan_pb2 as pb
from ostler_common.errors import InvalidArgumentError
from ostler_common.text import printable

from ostler_control.cli import import_plans
from ostler_control.cli.app import App, pages, pass_app
from ostler_control.cli.exits import Exit
from ostler_control.cli.finish import finish
from ostler_control.cli.labels import label_command, selector_option
from ostler_control.cli.lazy import Noun
from ostler_control.cli.names import IMPORT_PLAN
from ostler_control.cli.options import (
    CallOptions,
    confirm,
    dry_run_option,
    limit_option,
    list_options,
    operation_options,
    output_option,
    request_id_option,
    yes_option,
)
from ostler_control.cli.output import Listing, print_data, print_list

STATES = ("ready", "running", "pausing", "paused", "completed", "partial", "failed", "cancelled")
MAX_FILE_BYTES = 256 << 10


class _PlanNoun(Noun):
    """`ostler import plan FILE` is short for `ostler import plan create FILE`."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        first = args[0] if args else ""
        if self.get_command(ctx, first) is None and (first == "-" or first.endswith((".yaml", ".yml")) or "/" in first):
            args = ["create", *args]
        return super().resolve_command(ctx, args)


@click.group(cls=_PlanNoun)
def plan_group() -> None:
    """Plans: many VMs imported in waves. `ostler import plan FILE` creates one."""


@plan_group.command("create")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True, allow_dash=True))
@dry_run_option
@request_id_option
@output_option
@pass_app
def create(app: App, file: Path, dry_run: bool, request_id: str, output: str) -> None:
    """Creates a plan from FILE (YAML; - is standard input). Nothing is imported until `start`.

    Every error in the file is told at once, with its line; then nothing is stored.

    \b
    Examples:
      ostler import plan wave-1.yaml
      ostler import plan create wave-1.yaml --dry-run
    """
    document = _read(file)
    found = app.client.import_plans.ValidateImportPlan(pb.ValidateImportPlanRequest(document=document))
    if found.errors:
        _print_errors(file, found, output)
        raise click.exceptions.Exit(Exit.USAGE)
    if dry_run:
        click.echo(f"import plan {found.name} can be created: {found.vm_count} VMs")
        return
    plan = app.client.import_plans.CreateImportPlan(
        pb.CreateImportPlanRequest(request_id=request_id, document=document)
    )
    import_plans.print_plan(plan, output)
    if output == "table":
        click.echo(f"\nto check its VMs: ostler import plan check {plan.name}", err=True)
        click.echo(f"to start it: ostler import plan start {plan.name}", err=True)


def _read(file: Path) -> bytes:
    with click.open_file(str(file), "rb") as stream:
        document: bytes = stream.read(MAX_FILE_BYTES + 1)
    if len(document) > MAX_FILE_BYTES:
        raise InvalidArgumentError(f"{file} is larger than {MAX_FILE_BYTES >> 10} KiB", "FILE_TOO_LARGE")
    return document


def _print_errors(file: Path, found: pb.ValidateImportPlanResponse, output: str) -> None:
    if output in ("json", "yaml"):
        from ostler_control.cli.plain import to_plain

        print_data([to_plain(error) for error in found.errors], output)
        return
    name = "standard input" if str(file) == "-" else str(file)
    for error in found.errors:
        where = f"{error.path}: " if error.path else ""
        click.echo(printable(f"{name}:{error.line}: {where}{error.message} [{error.reason}]"), err=True)
    count = len(found.errors)
    click.echo(f"{count} error{'s' if count > 1 else ''}; nothing was stored", err=True)


@plan_group.command("list")
@click.option("--state", type=click.Choice(STATES), help="Only those in this state.")
@selector_option
@limit_option(100)
@list_options
@pass_app
def list_(app: App, state: str | None, selector: str, limit: int | None, listing: Listing) -> None:
    """Lists import plans, the newest first.

    \b
    Example:
      ostler import plan list --state running
    """
    number = pb.ImportPlan.State.Value((state or "state_unspecified").upper())
    request = pb.ListImportPlansRequest(state=number, selector=selector)
    print_list(
        import_plans.VIEW, pages(app.client.import_plans.ListImportPlans, request, lambda a: a.plans, limit), listing
    )


@plan_group.command("show")
@click.argument("plan", type=IMPORT_PLAN)
@click.option("--file", "only_file", is_flag=True, help="Print the file that it was made of.")
@output_option
@pass_app
def show(app: App, plan: str, only_file: bool, output: str) -> None:
    """Shows a plan: limits, order, findings of the last check.

    \b
    Example:
      ostler import plan show wave-1
    """
    found = app.client.import_plans.GetImportPlan(pb.GetImportPlanRequest(plan=plan))
    if only_file:
        click.echo(found.document.decode(), nl=False)
    else:
        import_plans.print_plan(found, output)


@plan_group.command("check")
@click.argument("plan", type=IMPORT_PLAN)
@output_option
@pass_app
def check(app: App, plan: str, output: str) -> None:
    """Checks every VM that waits: go or no-go. Imports nothing. The exit code is 1 when one is a no-go.

    \b
    Example:
      ostler import plan check wave-1
    """
    found = app.client.import_plans.CheckImportPlan(pb.CheckImportPlanRequest(plan=plan))
    import_plans.print_plan(found, output)
    if any(vm.HasField("go") and not vm.go for vm in found.vms):
        raise click.exceptions.Exit(Exit.FAILED)


@plan_group.command("start")
@click.argument("plan", type=IMPORT_PLAN)
@operation_options(dry_run=False)
@pass_app
def start(app: App, plan: str, call: CallOptions) -> None:
    """Checks every VM of PLAN, then imports those that are a go.

    Ctrl-C stops watching; the plan continues.

    \b
    Example:
      ostler import plan start wave-1
    """
    request = pb.StartImportPlanRequest(request_id=call.request_id, plan=plan)
    _follow(app, plan, app.client.import_plans.StartImportPlan(request), call)


@plan_group.command("pause")
@click.argument("plan", type=IMPORT_PLAN)
@output_option
@pass_app
def pause(app: App, plan: str, output: str) -> None:
    """Starts no further import of PLAN. Those under way continue to their end.

    \b
    Example:
      ostler import plan pause wave-1
    """
    found = app.client.import_plans.PauseImportPlan(pb.PauseImportPlanRequest(plan=plan))
    import_plans.print_board(found, output)


@plan_group.command("resume")
@click.argument("plan", type=IMPORT_PLAN)
@operation_options(dry_run=False)
@pass_app
def resume(app: App, plan: str, call: CallOptions) -> None:
    """Continues PLAN after a pause.

    \b
    Example:
      ostler import plan resume wave-1 --no-wait
    """
    request = pb.ResumeImportPlanRequest(request_id=call.request_id, plan=plan)
    _follow(app, plan, app.client.import_plans.ResumeImportPlan(request), call)


@plan_group.command("retry")
@click.argument("plan", type=IMPORT_PLAN)
@click.argument("vms", nargs=-1, metavar="[VM]...")
@operation_options(dry_run=False)
@pass_app
def retry(app: App, plan: str, vms: tuple[str, ...], call: CallOptions) -> None:
    """Imports again what was not imported: all, or the named VMs.

    \b
    Example:
      ostler import plan retry wave-1 web-3
    """
    request = pb.RetryImportPlanRequest(request_id=call.request_id, plan=plan, vms=vms)
    _follow(app, plan, app.client.import_plans.RetryImportPlan(request), call)


def _follow(app: App, plan: str, operation: lro.Operation, call: CallOptions) -> None:
    """Shows the board until the plan ends or is paused, then the report."""
    from ostler.client.operations import raise_for_error

    from ostler_control.cli import import_board, waiting

    if not call.wait:
        finish(app, operation, import_plans.VIEW, pb.ImportPlan(), call)
        return
    found = import_board.follow(app, plan)
    if found.state == pb.ImportPlan.PAUSED:
        import_plans.print_board(found, call.output)
    else:
        import_plans.print_report(found, call.output)
    raise_for_error(waiting.follow(app.client.operations, operation))


@plan_group.command("status")
@click.argument("plan", type=IMPORT_PLAN)
@click.option("--watch", is_flag=True, help="Show it until it ends or is paused.")
@output_option
@pass_app
def status(app: App, plan: str, watch: bool, output: str) -> None:
    """Shows phase, MiB/s and time left of each VM.

    \b
    Example:
      ostler import plan status wave-1 --watch
    """
    if watch:
        from ostler_control.cli import import_board

        found = import_board.follow(app, plan)
    else:
        found = app.client.import_plans.GetImportPlan(pb.GetImportPlanRequest(plan=plan))
    import_plans.print_board(found, output)


@plan_group.command("report")
@click.argument("plan", type=IMPORT_PLAN)
@output_option
@pass_app
def report(app: App, plan: str, output: str) -> None:
    """Tells what was imported, what failed and why, and what to do.

    \b
    Example:
      ostler import plan report wave-1 -o csv
    """
    import_plans.print_report(app.client.import_plans.GetImportPlan(pb.GetImportPlanRequest(plan=plan)), output)


@plan_group.command("cancel")
@click.argument("plan", type=IMPORT_PLAN)
@yes_option
@output_option
@pass_app
def cancel(app: App, plan: str, yes: bool, output: str) -> None:
    """Cancels PLAN and undoes the imports under way. Imported VMs stay.

    \b
    Example:
      ostler import plan cancel wave-1 --yes
    """
    confirm(f"Cancel import plan {plan} and undo the imports under way?", yes)
    found = app.client.import_plans.CancelImportPlan(pb.CancelImportPlanRequest(plan=plan))
    import_plans.print_board(found, output)


@plan_group.command("delete")
@click.argument("plan", type=IMPORT_PLAN)
@yes_option
@pass_app
def delete(app: App, plan: str, yes: bool) -> None:
    """Deletes PLAN with its report. Imported VMs stay.

    \b
    Example:
      ostler import plan delete wave-1 --yes
    """
    confirm(f"Delete import plan {plan} and its report?", yes)
    app.client.import_plans.DeleteImportPlan(pb.DeleteImportPlanRequest(plan=plan))
    click.echo(f"import plan {plan} is deleted")


plan_group.add_command(label_command("import plan"))
