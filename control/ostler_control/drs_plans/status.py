"""How a cluster stands now."""

from __future__ import annotations

import dataclasses
import datetime
from dataclasses import dataclass

from ostler_common.errors import FailedPreconditionError
from ostler_common.hypervisors import Function

from ostler_control import settings
from ostler_control.drs import Plan
from ostler_control.drs.algorithms import algorithm
from ostler_control.drs.planner import check_measured
from ostler_control.drs.state import State
from ostler_control.drs_plans import conditions, scheduler, store
from ostler_control.drs_plans.generate import bare
from ostler_control.drs_plans.snapshot import take
from ostler_control.hypervisors import rules
from ostler_control.models import Cluster, DrsPlan


@dataclass(frozen=True)
class Status:
    """plan: hosts, loads and rules as they are, without moves; active: the plan that is carried out, or None."""

    plan: Plan
    metric: str
    needs_drs: bool
    explanation: str
    active: DrsPlan | None
    automatic: bool
    next_plan_time: datetime.datetime | None


def status(cluster: Cluster) -> Status:
    """How evenly the cluster is loaded, and what its plans are up to."""
    present = take(cluster)
    wanted = present.settings
    told = []
    try:
        check_measured(present.snapshot, present.settings)
    except FailedPreconditionError as error:
        told.append(f"{error.message}; shown is what is allocated")
        wanted = wanted.of_allocated()
    state = State(present.snapshot, wanted, algorithm(wanted.algorithm))
    can_migrate = rules.may_support(Function.LIVE_MIGRATION, cluster.hypervisor_type)
    needs = can_migrate and state.count >= 2 and state.needs_drs()
    found = bare(dataclasses.replace(present, settings=wanted))
    if not can_migrate:
        told.append(
            f"imbalance {state.judged:.1%}; DRS moves nothing here: hypervisors of type "
            f"{rules.name_of(cluster.hypervisor_type)} do not migrate running VMs"
        )
    elif state.count < 2:
        word = "host takes" if state.count == 1 else "hosts take"
        told.append(f"{state.count} {word} part: there is nowhere to move to")
    else:
        word = "calls for moves" if needs else "is enough"
        aim = f"{wanted.algorithm} with drs.imbalance {wanted.imbalance:g}"
        told.append(f"imbalance {state.judged:.1%} {word} for {aim}")
    told += conditions.words(cluster)
    return Status(
        found,
        f"{'measured' if wanted.measures else 'allocated'} {wanted.metric_type} {wanted.metric}",
        needs,
        "; ".join(told),
        store.active(cluster.id),
        bool(settings.drs.AUTOMATIC_ENABLE.get(settings.At(cluster_id=cluster.id))),
        scheduler.next_time(cluster),
    )
