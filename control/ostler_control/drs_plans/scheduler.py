"""Plans that make themselves, and old ones that go. One replica does it; two at once would cost one of them its try."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence

import structlog
from ostler_common.errors import FailedPreconditionError, OstlerError
from ostler_common.hypervisors import Function

from ostler_control import database, settings
from ostler_control.drs import Mode, Plan, windows
from ostler_control.drs_plans import begin, conditions, executor, store
from ostler_control.drs_plans.conditions import Kind
from ostler_control.drs_plans.generate import generate, relief
from ostler_control.events import SYSTEM
from ostler_control.hypervisors import rules
from ostler_control.models import Cluster, DrsPlan, Event, Host, Operation, now, tuples
from ostler_control.operations import launch
from ostler_control.operations.records import ENDED
from ostler_control.outage import outage
from ostler_control.periodic import Periodic
from ostler_control.states import MoveState, OperationState, PlanState

log = structlog.get_logger(__name__)

_TICK_S = 15.0
MAX_BACK_OFF = datetime.timedelta(days=1)
# A host that came into service must stay for so long before a plan counts on it.
HOST_STAYS = datetime.timedelta(minutes=5)
# How often the conditions of a cluster are checked.
_CHECK_EVERY = datetime.timedelta(minutes=1)


class Scheduler(Periodic):
    """Looks at every cluster now and then. leads: whether this replica is to do it."""

    def __init__(self, leads: Callable[[], bool], tick_s: float = _TICK_S) -> None:
        super().__init__("drs", tick_s)
        self._leads = leads
        self._checked: dict[str, datetime.datetime] = {}

    def work(self) -> None:
        if self._leads():
            tick(now(), self._checked)


def tick(time: datetime.datetime, checked: dict[str, datetime.datetime] | None = None) -> None:
    """What is due at this time. checked: when the conditions of each cluster were last checked; this call updates
    it."""
    checked = {} if checked is None else checked
    store.expire(time)
    finish_abandoned()
    with database.session():
        clusters = list(Cluster.select().where(Cluster.enabled).order_by(Cluster.name))
    for cluster in clusters:
        with database.session():
            due = next_time(cluster, time)
        if due is None:
            continue
        last = checked.get(cluster.id)
        if due <= time or last is None or time - last >= _CHECK_EVERY:
            conditions.update(cluster, time)
            checked[cluster.id] = time
            with database.session():
                due = next_time(cluster, time)
        if due is not None and due <= time:
            _automatic(cluster, time)


def next_time(cluster: Cluster, time: datetime.datetime | None = None) -> datetime.datetime | None:
    """When the next automatic plan of a cluster is due; None when none is: it is switched off, a plan is being carried
    out, the cluster is disabled, its hypervisors cannot move VMs, or it has fewer than two hosts in service.

    A host that has come into service since the last plan makes the next one due once it has stayed for `HOST_STAYS`, a
    host that is hot once it has been so for drs.automatic.hold. A cluster that is unbalanced has to be so for as long.
    After failures the interval doubles, up to `MAX_BACK_OFF`, and hosts no longer shorten it. Outside
    drs.automatic.window the next opening counts.
    time: the present, by default the clock's.
    """
    due = _due(cluster)
    if due is None:
        return None
    window = windows.parse(settings.drs.AUTOMATIC_WINDOW.get(settings.At(cluster_id=cluster.id)))
    moment = max(due, time or now())
    return due if window.is_open(moment) else window.next_open(moment)


def _due(cluster: Cluster) -> datetime.datetime | None:
    if not rules.may_support(Function.LIVE_MIGRATION, cluster.hypervisor_type):
        return None
    if (
        not cluster.enabled
        or not settings.drs.AUTOMATIC_ENABLE.get(settings.At(cluster_id=cluster.id))
        or store.active(cluster.id)
    ):
        return None
    in_service = (Host.state == "up") & Host.enabled & ~Host.maintenance & ~Host.removed
    hosts = list(Host.select(Host.id, Host.state_time).where((Host.cluster == cluster.id) & in_service))
    if len(hosts) < 2:
        return None
    found = conditions.of_cluster(cluster)
    held = [one.held_time for one in found if one.kind is Kind.UNBALANCED and one.held_time > one.start_time]
    over = DrsPlan.state.in_(("completed", "partial", "failed", "cancelled"))
    query = DrsPlan.select(DrsPlan.type, DrsPlan.state, DrsPlan.state_time)
    query = query.where((DrsPlan.cluster == cluster.id) & over)
    query = query.order_by(DrsPlan.state_time.desc(), DrsPlan.id).limit(16)
    last = list(tuples(query, tuple[str, PlanState, datetime.datetime]))
    if not last:
        return max([cluster.create_time, *held])
    interval = datetime.timedelta(minutes=settings.drs.AUTOMATIC_INTERVAL.get(settings.At(cluster_id=cluster.id)))
    failures = 0
    for type_, state, _ in last:
        if (type_, state) != ("automated", "failed"):
            break
        failures += 1
    latest: datetime.datetime = last[0][2]
    wait: datetime.timedelta = max(min(interval * 2**failures, MAX_BACK_OFF), interval)
    if failures:
        return max([latest + wait, *held])
    came = _last_arrival(hosts, latest)
    due = latest + wait if came is None else min(latest + wait, came + HOST_STAYS)
    # The last plan has dealt with what had lasted by then, as far as that can be.
    hot = [one.held_time for one in found if one.kind is not Kind.UNBALANCED and one.held_time > latest]
    return min([max([due, *held]), *hot])


def _last_arrival(hosts: Sequence[Host], since: datetime.datetime) -> datetime.datetime | None:
    """When the last of these hosts, which are in service, was connected or left maintenance; None: not since then."""
    query = Event.select(Event.create_time).where((Event.type == "host.maintenance") & (Event.create_time > since))
    left = tuples(query.where(Event.resource_id.in_([host.id for host in hosts])), tuple[datetime.datetime])
    times = [host.state_time for host in hosts if host.state_time > since] + [time for (time,) in left]
    return max(times, default=None)


def _automatic(cluster: Cluster, time: datetime.datetime) -> None:
    """Makes a plan and carries it out at once. A rule that is broken comes first, then hot hosts, then balance."""
    try:
        with database.session():
            mode, found = _found(cluster, time)
        with database.transaction():
            if not found.moves:
                store.keep(cluster, found, type="automated", mode=mode.value, user=SYSTEM)
                return
            if settings.drs.AUTOMATIC_SHADOW.get(settings.At(cluster_id=cluster.id)):
                store.keep_shadow(cluster, found, mode.value, SYSTEM)
                return
            operation = begin.execute_mapping(cluster, found, SYSTEM, type="automated", mode=mode.value)
    except FailedPreconditionError as error:
        if error.reason != "PLAN_ACTIVE":  # else somebody was faster
            _failed(cluster, error.message)
    except OstlerError as error:
        _failed(cluster, error.message)
    except Exception as error:
        if outage(error) is not None:
            raise  # which says nothing of the plan
        log.exception("planning failed by a bug", cluster=cluster.name)
        _failed(cluster, f"planning failed by a bug ({type(error).__name__}); the log has the details")
    else:
        launch(operation)


def _found(cluster: Cluster, time: datetime.datetime) -> tuple[Mode, Plan]:
    found = generate(cluster)
    if any(rule.strict for rule in found.broken_before):
        repair = generate(cluster, Mode.REPAIR)
        if repair.moves:
            return Mode.REPAIR, repair
    holding = conditions.of_cluster(cluster)
    if hot := conditions.hot(holding, time):
        relieving = relief(cluster, hot)
        waits = any(one.kind is Kind.UNBALANCED and one.held_time > time for one in holding)
        if relieving.moves or waits:
            return Mode.BALANCE, relieving
    return Mode.BALANCE, found


def _failed(cluster: Cluster, why: str) -> None:
    with database.transaction():
        store.keep_failure(cluster, SYSTEM, why)


def finish_abandoned() -> None:
    """Ends plans whose operation has ended without ending them, as by a bug: else they would be in the way for ever."""
    with database.session():
        plans = list(DrsPlan.select().where(DrsPlan.state.in_(store.ACTIVE)))
        states = Operation.select(Operation.id, Operation.state)
        states = states.where(Operation.id.in_([plan.operation_id for plan in plans]))
        known = dict(tuples(states, tuple[str, OperationState]))
    for plan in plans:
        if known.get(plan.operation_id, "failed") not in ENDED:
            continue
        executor.drop(plan, "the plan's operation ended early")
        executor.account(plan)
        if all(move.state is not MoveState.RUNNING for move in store.moves_of(plan.id)):
            executor.finish(plan.id, False)
