"""`ostler drs`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
from ostler.control.v1 import drs_pb2 as pb
from ostler_common.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError
from ostler_common.text import printable
from ostler_common.units import format_size

from ostler_control.cli import bars, plans
from ostler_control.cli.app import App, pages, pass_app
from ostler_control.cli.finish import finish
from ostler_control.cli.following import follow_plan
from ostler_control.cli.lazy import Noun
from ostler_control.cli.names import CLUSTER, PLAN, ZONE
from ostler_control.cli.options import (
    CallOptions,
    F,
    limit_option,
    list_options,
    operation_options,
    output_option,
    request_id_option,
)
from ostler_control.cli.output import Listing, View, print_data, print_list

_LEFT_OUT_SHOWN = 10
STATES = ("under-review", "ready", "in-progress", "completed", "partial", "failed", "cancelled", "expired")


@click.group(cls=Noun)
def command() -> None:
    """Load balancing: plan and execute live migrations."""


@command.command("simulate")
@click.option(
    "--cluster",
    "file",
    type=click.Path(path_type=Path, dir_okay=False, exists=True, allow_dash=True),
    required=True,
    help="Hosts, VMs, groups and settings as JSON; - is standard input.",
)
@click.option("--set", "changes", multiple=True, metavar="NAME=VALUE", help="A setting instead of the file's; repeat.")
@click.option("--repair", is_flag=True, help="Only repair broken affinity rules.")
@click.option("--evacuate", multiple=True, metavar="HOST", help="Only bring every VM off this host; repeat.")
@click.option(
    "--svg", type=click.Path(path_type=Path, dir_okay=False, writable=True), help="Also draw before and after here."
)
@click.option(
    "-o",
    "--output",
    type=click.Choice(("table", "json", "yaml")),
    default="table",
    show_default=True,
    help="How to print.",
)
def simulate(
    file: Path, changes: tuple[str, ...], repair: bool, evacuate: tuple[str, ...], svg: Path | None, output: str
) -> None:
    """Plans on a file; needs no control plane.

    \b
    Example:
      ostler drs simulate --cluster web.json --set drs.metric=cpu -o json
    """
    if repair and evacuate:
        raise click.UsageError("--repair and --evacuate are two different plans")
    # Imported here: numpy takes longer to load than all of the help.
    from ostler_control.drs.model import Mode
    from ostler_control.drs.simulate import simulate as run

    mode = Mode.REPAIR if repair else Mode.EVACUATE if evacuate else Mode.BALANCE
    try:
        content = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise InvalidArgumentError(f"{file}: {error.strerror}", "UNREADABLE_FILE") from None
    answer = run(content, _settings(changes), mode=mode, leaving=evacuate)
    drawn = _bars(answer)
    if svg:
        moves = [(move["vm"], move["from"], move["to"]) for move in answer["migrations"]]
        try:
            svg.write_text(bars.svg(drawn, _headline(answer), moves), encoding="utf-8")
        except OSError as error:
            raise InvalidArgumentError(f"{svg}: {error.strerror}", "UNWRITABLE_FILE") from None
    if output != "table":
        print_data(answer, output)
        return
    for line in [
        _headline(answer),
        "",
        *bars.lines(drawn, now=not answer["migrations"]),
        *_moves(answer),
        *_left_out(answer),
    ]:
        click.echo(printable(line))


def _settings(changes: tuple[str, ...]) -> dict[str, str]:
    values = {}
    for change in changes:
        name, equals, value = change.partition("=")
        if not equals or not name:
            raise click.UsageError(f'--set {change}: write NAME=VALUE, as in "drs.metric=cpu"')
        if name in values:
            raise click.UsageError(f"--set {name} is given twice")
        values[name] = value
    return values


# Any: what `simulate` answers with, see docs/drs.md.
Answer = dict[str, Any]


def _headline(answer: Answer) -> str:
    numbers = f"imbalance {answer['imbalance_before']:.1%} -> {answer['imbalance_after']:.1%}"
    return f"{answer['explanation']} ({numbers}, planned in {answer['elapsed_s'] * 1000:.0f} ms)"


def _bars(answer: Answer) -> list[bars.Bar]:
    metric = "cpu" if answer["settings"]["drs.metric"] in ("cpu", "cpu-pressure", "io-pressure") else "memory"
    why = {host["name"]: host["code"] for host in answer["left_out"]["hosts"]}
    return [
        bars.Bar(
            host["name"],
            host[f"{metric}_before"],
            host[f"{metric}_after"],
            host["vms_before"],
            host["vms_after"],
            why.get(host["name"], "").lower().replace("_", " "),
        )
        for host in answer["hosts"]
    ]


def _moves(answer: Answer) -> list[str]:
    out = []
    for number, move in enumerate(answer["migrations"], 1):
        disks = ", with its disks" if move["storage_motion"] else ""
        out += [
            "",
            f"{number}. {move['vm']}: {move['from']} -> {move['to']} ({format_size(move['cost_bytes'])}{disks})",
        ]
        out.append(f"   {move['reason']}")
        if move["needs"]:
            out.append(f"   after {', '.join(str(position + 1) for position in move['needs'])}")
        if move["considered"]:
            others = (f"{other['vm']} -> {other['to']} gains {other['gain']:.2%}" for other in move["considered"])
            out.append(f"   next best: {'; '.join(others)}")
    return out


def _left_out(answer: Answer) -> list[str]:
    out = []
    for rule in answer["broken_rules"]["after"]:
        out += ["", f"broken rule: {rule['explanation']} (--repair plans the moves it needs)"]
    for kind in ("vms", "hosts", "moves"):
        counts = answer["refused"][kind]
        if counts:
            told = ", ".join(f"{number} {code.lower().replace('_', ' ')}" for code, number in counts.items())
            out += ["", f"{'refused moves' if kind == 'moves' else f'{kind} left out'}: {told}"]
            out += [
                f"  {one['name']}: {one['explanation']}" for one in answer["left_out"].get(kind, [])[:_LEFT_OUT_SHOWN]
            ]
    return out


def _svg_option(function: F) -> F:
    return click.option(
        "--svg", type=click.Path(path_type=Path, dir_okay=False, writable=True), help="Also draw it here."
    )(function)


def _cpu_option(function: F) -> F:
    return click.option("--cpu", is_flag=True, help="Draw CPUs rather than memory.")(function)


@command.command("generate")
@click.argument("cluster", type=CLUSTER)
@click.option("--migrations", type=click.IntRange(1), default=None, help="Most moves.  [default: drs.max.migrations]")
@click.option("--repair", is_flag=True, help="Only repair broken affinity rules.")
@click.option("--why", is_flag=True, help="Also show why each move was chosen, and the next best ones.")
@_cpu_option
@_svg_option
@request_id_option
@output_option
@pass_app
def generate(
    app: App,
    cluster: str,
    migrations: int | None,
    repair: bool,
    why: bool,
    cpu: bool,
    svg: Path | None,
    request_id: str,
    output: str,
) -> None:
    """Creates a plan for CLUSTER and keeps it for review. Nothing moves until `ostler drs execute`.

    \b
    Example:
      ostler drs generate web --migrations 10
    """
    request = pb.GeneratePlanRequest(
        request_id=request_id,
        cluster=cluster,
        max_migrations=migrations or 0,
        mode=pb.DrsPlan.REPAIR if repair else pb.DrsPlan.BALANCE,
    )
    plan = app.client.drs.GeneratePlan(request)
    _show(plan, output, cpu, why, svg)
    if output == "table" and plan.state == pb.DrsPlan.UNDER_REVIEW:
        click.echo(f"\nto execute it: ostler drs execute {plan.name}", err=True)


def _show(plan: pb.DrsPlan, output: str, cpu: bool, why: bool, svg: Path | None) -> None:
    if svg:
        plans.draw(svg, plan.hosts, plan.left_hosts, plans.headline(plan), plan)
    plans.print_plan(plan, output, cpu=cpu, why=why)


@command.command("execute")
@click.argument("plan", type=PLAN, required=False, default="")
@click.option("--cluster", type=CLUSTER, default="", help="Cluster of the moves given with --move.")
@click.option("--move", "moves", multiple=True, metavar="VM=HOST", help="Instead of a plan: this move; repeat.")
@operation_options()
@pass_app
def execute(app: App, plan: str, cluster: str, moves: tuple[str, ...], call: CallOptions) -> None:
    """Executes PLAN, or the moves given with --move.

    Each move is checked again just before it starts; one that no longer fits is skipped, with the reason.

    \b
    Examples:
      ostler drs execute plan-1a2b3c4d
      ostler drs execute --cluster web --move web-1=h2 --move web-2=h3
    """
    if bool(plan) == bool(moves) or bool(moves) != bool(cluster):
        raise click.UsageError("name a plan, or --cluster and one --move VM=HOST for each VM")
    if plan:
        request = pb.ExecutePlanRequest(request_id=call.request_id, plan=plan, validate_only=call.dry_run)
        operation = app.client.drs.ExecutePlan(request)
    else:
        chosen = pb.ExecuteMappingRequest(
            request_id=call.request_id, cluster=cluster, moves=map(_pair, moves), validate_only=call.dry_run
        )
        operation = app.client.drs.ExecuteMapping(chosen)
    follow_plan(app, operation, call)


def _pair(move: str) -> pb.ExecuteMappingRequest.Move:
    vm, equals, host = move.partition("=")
    if not (vm and equals and host):
        raise click.UsageError(f'--move {move}: write VM=HOST, as in "web-1=h2"')
    return pb.ExecuteMappingRequest.Move(vm=vm, host=host)


@command.command("list")
@click.option("--cluster", type=CLUSTER, default="", help="Only those of this cluster.")
@click.option("--state", type=click.Choice(STATES), help="Only those in this state.")
@limit_option(100)
@list_options
@pass_app
def list_(app: App, cluster: str, state: str | None, limit: int | None, listing: Listing) -> None:
    """Lists plans, the newest first.

    \b
    Example:
      ostler drs list --cluster web
    """
    number = pb.DrsPlan.State.Value((state or "state_unspecified").upper().replace("-", "_"))
    request = pb.ListPlansRequest(cluster=cluster, state=number)
    print_list(plans.VIEW, pages(app.client.drs.ListPlans, request, lambda a: a.plans, limit), listing)


@command.command("show")
@click.argument("plan", type=PLAN)
@click.option("--why", is_flag=True, help="Also show why each move was chosen, and the next best ones.")
@_cpu_option
@_svg_option
@output_option
@pass_app
def show(app: App, plan: str, why: bool, cpu: bool, svg: Path | None, output: str) -> None:
    """Shows a plan: its moves, how each went, and the hosts.

    \b
    Example:
      ostler drs show plan-1a2b3c4d --why
    """
    _show(app.client.drs.GetPlan(pb.GetPlanRequest(plan=plan)), output, cpu, why, svg)


@command.command("cancel")
@click.argument("plan", type=PLAN)
@output_option
@pass_app
def cancel(app: App, plan: str, output: str) -> None:
    """Cancels PLAN. Moves under way finish, no further one starts.

    \b
    Example:
      ostler drs cancel plan-1a2b3c4d
    """
    found = app.client.drs.CancelPlan(pb.CancelPlanRequest(plan=plan))
    if output == "table":
        print_list(plans.VIEW, [found], Listing(output))
    else:
        plans.print_plan(found, output)


@command.command("power")
@click.argument("cluster", type=CLUSTER)
@click.option(
    "-o",
    "--output",
    type=click.Choice(("table", "json", "yaml")),
    default="table",
    show_default=True,
    help="How to print.",
)
@pass_app
def power(app: App, cluster: str, output: str) -> None:
    """Shows which hosts of CLUSTER could be off to save power.

    Also those that should be on again. Nothing is switched.

    \b
    Example:
      ostler drs power web
    """
    plans.print_power(app.client.drs.GetPowerPlan(pb.GetPowerPlanRequest(cluster=cluster)), output)


@command.command("storage")
@click.argument("zone", type=ZONE)
@click.option("--execute", is_flag=True, help="Make the moves that are shown, one after the other.")
@operation_options()
@pass_app
def storage(app: App, zone: str, execute: bool, call: CallOptions) -> None:
    """Plans moves of volumes that fill the pools of ZONE evenly.

    Shows which volumes would move to which pools. Nothing moves without --execute.

    \b
    Examples:
      ostler drs storage lab
      ostler drs storage lab --execute
    """
    from ostler.control.v1.zone_pb2 import Zone

    from ostler_control.cli.commands.zone import VIEW as ZONES

    found = app.client.drs.GetStoragePlan(pb.GetStoragePlanRequest(zone=zone))
    if call.output == "table" or not execute:
        plans.print_storage(found, call.output)
    if not execute or not found.moves:
        return
    moves = [pb.ExecuteStoragePlanRequest.Move(volume=one.volume_id, pool=one.destination_id) for one in found.moves]
    request = pb.ExecuteStoragePlanRequest(
        request_id=call.request_id, zone=found.zone_id, moves=moves, validate_only=call.dry_run
    )
    finish(app, app.client.drs.ExecuteStoragePlan(request), ZONES, Zone(), call)


@command.group("algorithm")
def algorithm() -> None:
    """Algorithms for the setting drs.algorithm: built in, and plug-ins of the control plane."""


ALGORITHMS = View[pb.Algorithm](
    "algorithm",
    columns=[
        ("name", lambda a: a.name),
        ("package", lambda a: a.package or "built in"),
        ("error", lambda a: a.error),
    ],
)


@algorithm.command("list")
@list_options
@pass_app
def algorithm_list(app: App, listing: Listing) -> None:
    """Lists the algorithms. One with an error cannot be used.

    \b
    Example:
      ostler drs algorithm list
    """
    found = app.client.drs.ListAlgorithms(pb.ListAlgorithmsRequest())
    print_list(ALGORITHMS, found.algorithms, listing)


@algorithm.command("check")
@click.argument("name")
@pass_app
def algorithm_check(app: App, name: str) -> None:
    """Checks the algorithm NAME with every question of the planner.

    \b
    Example:
      ostler drs algorithm check weighted
    """
    found = {one.name: one for one in app.client.drs.ListAlgorithms(pb.ListAlgorithmsRequest()).algorithms}
    if name not in found:
        raise NotFoundError(f'there is no DRS algorithm "{name}" (there are {", ".join(found)})', "UNKNOWN_ALGORITHM")
    if found[name].error:
        raise FailedPreconditionError(found[name].error, "ALGORITHM_UNUSABLE", {"name": name})
    click.echo(f"algorithm {name} can be used")


@command.command("status")
@click.argument("cluster", type=CLUSTER)
@_cpu_option
@_svg_option
@click.option(
    "-o",
    "--output",
    type=click.Choice(("table", "json", "yaml")),
    default="table",
    show_default=True,
    help="How to print.",
)
@pass_app
def status(app: App, cluster: str, cpu: bool, svg: Path | None, output: str) -> None:
    """Draws how CLUSTER is loaded now: a bar per host. With --svg, also draws the plan that is being executed.

    \b
    Example:
      ostler drs status web --svg web.svg
    """
    found = app.client.drs.GetClusterStatus(pb.GetClusterStatusRequest(cluster=cluster))
    if svg:
        active = found.active_plan
        hosts = active.hosts if found.HasField("active_plan") else found.hosts
        plans.draw(svg, hosts, found.left_hosts, f"cluster {found.cluster_name}: {found.explanation}", active)
    plans.print_status(found, output, cpu=cpu)
