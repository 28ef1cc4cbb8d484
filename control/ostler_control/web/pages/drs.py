"""Load balancing: how clusters are loaded, plans with their hosts before and after, and a reason per move."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from google.longrunning.operations_pb2 import Operation
from ostler.control.v1 import drs_pb2 as pb
from ostler.control.v1.zone_pb2 import GetClusterRequest
from ostler_common.errors import InvalidArgumentError
from starlette.requests import Request
from starlette.responses import Response

from ostler_control.cli import bars, plans, text
from ostler_control.cli.app import App
from ostler_control.cli.commands import drs
from ostler_control.cli.output import View
from ostler_control.web import tables
from ostler_control.web.actions import Action, Actions, Target
from ostler_control.web.context import Console, command, is_followed
from ostler_control.web.forms import Call, Option
from ostler_control.web.pages import places

# Hosts of a cluster whose load is on the page from the first.
MAX_HOSTS_AT_ONCE = 200
MAX_BARS = 40
MAX_MOVES = 10_000
_REVIEW = frozenset({"under_review"})

MOVES = View[pb.DrsMove](
    "move",
    columns=[*plans.MOVES.columns[1:4], ("why", lambda m: _why(m)), *plans.MOVES.columns[4:]],
    name=plans.MOVES.name,
)


@dataclass(frozen=True)
class Shares:
    """Hosts as bars. rest: how many more there are; is_change: whether after differs from before."""

    bars: list[bars.Bar]
    rest: int
    is_change: bool


def overview(console: Console, request: Request) -> Response:
    """The page of DRS: the load of a cluster, and plans."""
    client = console.app.client
    names = places.cluster_names(console.app)
    filters = tables.Filters(request, cluster=names, state=drs.STATES)
    name = filters["cluster"] or (names[0] if len(names) == 1 else "")
    shown = client.clusters.GetCluster(GetClusterRequest(cluster=name)) if name else None
    # A large cluster's load takes a second or two: it comes with the first update of the page.
    is_later = shown is not None and shown.host_count > MAX_HOSTS_AT_ONCE and not is_followed(request)
    wanted = pb.ListPlansRequest(
        page_size=tables.PAGE_SIZE,
        page_token=filters.page,
        cluster=filters["cluster"],
        state=pb.DrsPlan.State.Value((filters["state"] or "state_unspecified").upper().replace("-", "_")),
    )
    answer = client.drs.ListPlans(wanted)
    wants_status = shown is not None and not is_later
    status = client.drs.GetClusterStatus(pb.GetClusterStatusRequest(cluster=name)) if wants_status else None
    return console.render(
        request,
        "drs.html",
        title="DRS",
        here="/drs",
        command=command("drs", "list", *filters.words()),
        filters=filters.fields,
        load=status,
        later=name if is_later else "",
        notes=[*filter(None, plans.notes(status))] if status else [],
        shares=_shares(status.hosts, status.left_hosts) if status else None,
        buttons=CLUSTER_ACTIONS.buttons(console, _cluster(shown.id, shown.name)) if shown else [],
        table=tables.table(
            plans.VIEW,
            answer.plans,
            "Plans",
            lambda p: tables.path("drs", "plans", p.id),
            next=filters.next(answer.next_page_token),
        ),
    )


def one_plan(console: Console, request: Request) -> Response:
    """The page of a plan."""
    found = console.app.client.drs.GetPlan(pb.GetPlanRequest(plan=request.path_params["plan"]))
    filters, target = tables.Filters(request), _plan(found)
    moves, following = tables.cut(filters.page, found.moves)
    return console.render(
        request,
        "plan.html",
        is_moving=target.state == "in_progress",
        title=found.name,
        here="/drs",
        command=command("drs", "show", found.name, "--why"),
        state=plans.word(found, "state"),
        tone=tables.tone(target.state),
        lines=[plans.headline(found), *filter(None, [found.outcome])],
        left=[*filter(None, plans.left_out(found))],
        shares=_shares(found.hosts, found.left_hosts, is_change=bool(found.moves)),
        buttons=PLAN_ACTIONS.buttons(console, target),
        table=tables.table(MOVES, moves, "Moves", lambda m: tables.path("vms", m.vm_id), next=filters.next(following)),
    )


def _shares(hosts: Iterable[pb.HostShare], left: Iterable[pb.LeftOut], is_change: bool = False) -> Shares:
    """The hosts that change most, or, where nothing changes, the fullest."""
    found = plans.bars_of(hosts, left)
    most = sorted(found, key=lambda bar: -(abs(bar.after - bar.before) if is_change else bar.before))[:MAX_BARS]
    return Shares(sorted(most, key=lambda bar: bar.name), len(found) - len(most), is_change)


def _why(move: pb.DrsMove) -> str:
    others = "; ".join(f"{o.vm_name} -> {o.destination_name} gains {o.gain:.2%}" for o in move.considered)
    return f"{move.reason}. Next best: {others}" if others else move.reason


def _plan(found: pb.DrsPlan) -> Target:
    state, href = text.enum_of(found, "state"), tables.path("drs", "plans", found.id)
    return Target(found.id, found.name, "plan", state, "/drs", href)


def _find_plan(app: App, plan: str) -> Target:
    return _plan(app.client.drs.GetPlan(pb.GetPlanRequest(plan=plan)))


def _execute(app: App, call: Call) -> Operation:
    return app.client.drs.ExecutePlan(pb.ExecutePlanRequest(request_id=call.request_id, plan=call.target))


def _cancel(app: App, call: Call) -> None:
    app.client.drs.CancelPlan(pb.CancelPlanRequest(plan=call.target))


PLAN_ACTIONS = Actions(
    "/drs/plans",
    _find_plan,
    (
        Action(
            "execute",
            ("drs", "execute"),
            "Execute",
            "Execute plan {name}? Each move is checked again just before it starts.",
            _execute,
            _REVIEW,
        ),
        Action(
            "cancel",
            ("drs", "cancel"),
            "Cancel it",
            "Cancel plan {name}? Moves under way finish, no further one starts.",
            _cancel,
            _REVIEW | frozenset({"ready", "in_progress"}),
            is_dangerous=True,
        ),
    ),
)


def _cluster(cluster_id: str, name: str) -> Target:
    return Target(cluster_id, name, "cluster", "", "/drs", tables.address("/drs", {"cluster": name}))


def _find_cluster(app: App, cluster: str) -> Target:
    found = app.client.clusters.GetCluster(GetClusterRequest(cluster=cluster))
    return _cluster(found.id, found.name)


def _generate(app: App, call: Call) -> str:
    number = call.text("migrations") or "0"
    if not (number.isascii() and number.isdigit() and int(number) <= MAX_MOVES):
        raise InvalidArgumentError(f"migrations: it must be a number from 1 to {MAX_MOVES}", "BAD_NUMBER")
    request = pb.GeneratePlanRequest(
        request_id=call.request_id,
        cluster=call.target,
        max_migrations=int(number),
        mode=pb.DrsPlan.REPAIR if call.flag("repair") else pb.DrsPlan.BALANCE,
    )
    return tables.path("drs", "plans", app.client.drs.GeneratePlan(request).id)


CLUSTER_ACTIONS = Actions(
    "/drs/clusters",
    _find_cluster,
    (
        Action(
            "generate",
            ("drs", "generate"),
            "Plan",
            "Plan moves that balance cluster {name}? Nothing moves until you execute the plan.",
            _generate,
            options=(
                Option("migrations", "Most moves (empty: the setting drs.max.migrations)"),
                Option("repair", "Only repair broken affinity rules", is_flag=True),
            ),
        ),
    ),
)
