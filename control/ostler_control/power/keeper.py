"""Switches hosts off and on by itself where drs.power.automatic says so. One replica does it.

The rows of `HostPower` say how far each host is, so the next process goes on where this one died. One host of a cluster
is emptied at a time; it is switched off once nothing is left on it, and stays on when something cannot leave.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable, Iterator

import structlog
from ostler_common.errors import OstlerError

from ostler_control import database, drs_plans, settings
from ostler_control.drs import windows
from ostler_control.drs.power import PowerChange
from ostler_control.drs_plans import conditions, store
from ostler_control.events import SYSTEM
from ostler_control.ha import switching
from ostler_control.hosts import manage
from ostler_control.models import Cluster, Host, HostPower, HostState, Operation, SwitchState, Vm, now, tuples
from ostler_control.operations import launch
from ostler_control.operations.records import ENDED
from ostler_control.outage import log_failure
from ostler_control.periodic import Periodic
from ostler_control.power.plans import plan_power
from ostler_control.states import OperationState

log = structlog.get_logger(__name__)

REASON = "it is switched off to save power"
_TICK_S = 20.0
_CHECK_EVERY = datetime.timedelta(minutes=1)
# After a host could not be emptied or switched off, nothing of its cluster is switched off for so long; and a host that
# could not be switched on is not tried again.
_PAUSE = datetime.timedelta(hours=1)


class Keeper(Periodic):
    """Looks at every cluster now and then. leads: whether this replica is to do it.

    What it remembers between two looks (for how long hosts could have been off, what could not leave lately) begins
    anew after a restart, which only makes it slower.
    """

    def __init__(self, leads: Callable[[], bool], tick_s: float = _TICK_S) -> None:
        super().__init__("power", tick_s)
        self._leads = leads
        self._checked: dict[str, datetime.datetime] = {}
        self._could_be_off: dict[str, datetime.datetime] = {}
        self._paused: dict[str, datetime.datetime] = {}

    def work(self) -> None:
        if self._leads():
            self.tick(now())

    def tick(self, time: datetime.datetime) -> None:
        """Does what is due at this time."""
        switching.tidy()
        with database.session():
            clusters = {one.id: one for one in Cluster.select().where(Cluster.enabled) if _automatic(one)}
            emptying = HostPower.select(HostPower, Host).join(Host).where(HostPower.state == SwitchState.EMPTYING)
            rows = list(emptying)
        for row in rows:
            with _apart("a host is not emptied", host=row.host.name):
                self._go_on(row, clusters.get(row.host.cluster_id), time)
        for cluster in clusters.values():
            last = self._checked.get(cluster.id, datetime.datetime.min)
            if time - last > conditions.MAX_GAP:  # what was seen before may have ended and come back
                self._could_be_off.pop(cluster.id, None)
            if time - last >= _CHECK_EVERY:
                self._checked[cluster.id] = time
                with _apart("no power is saved", cluster=cluster.name):
                    self._look_at(cluster, time)

    def _look_at(self, cluster: Cluster, time: datetime.datetime) -> None:
        with database.session():
            found = plan_power(cluster, time, _not_to_be_woken(cluster, time))
            mine = list(HostPower.select(HostPower, Host).join(Host).where(Host.cluster == cluster.id))
            busy = store.active(cluster.id) is not None
            at = settings.At(cluster_id=cluster.id)
            hold = datetime.timedelta(minutes=settings.drs.AUTOMATIC_HOLD.get(at))
            is_open = windows.parse(settings.drs.AUTOMATIC_WINDOW.get(at)).is_open(time)
            failed = _failed_lately(cluster, switching.OFF_VERB, time)
        emptying = {row.host_id: row for row in mine if row.state is SwitchState.EMPTYING}
        for change in found.switch_on:
            if change.host_id in emptying:
                self._stays_on(emptying[change.host_id], change.reason, time)
            else:
                _wake(change)
        if not found.switch_off:
            self._could_be_off.pop(cluster.id, None)
            return
        since = self._could_be_off.setdefault(cluster.id, time)
        rests = bool(failed) or time < self._paused.get(cluster.id, datetime.datetime.min)
        under_way = busy or any(row.state is not SwitchState.OFF for row in mine)
        if is_open and not rests and not under_way and time - since >= hold:
            self._empty(cluster, found.switch_off[0], time)

    def _empty(self, cluster: Cluster, change: PowerChange, time: datetime.datetime) -> None:
        """Takes a host out of service and lets its VMs leave."""
        with database.transaction():
            host = Host.get_by_id(change.host_id)
            if host.maintenance or HostPower.select().where(HostPower.host == host.id).exists():
                return
            host = manage.set_maintenance(host, True, REASON, SYSTEM)
            HostPower.create(host=host, state=SwitchState.EMPTYING, automatic=True, state_time=time)
        log.info("emptying a host to save power", cluster=cluster.name, host=host.name)

    def _go_on(self, row: HostPower, cluster: Cluster | None, time: datetime.datetime) -> None:
        """The next step of a host that is being emptied. cluster: None where nothing is done by itself any more."""
        host = row.host
        if cluster is None:
            self._stays_on(row, "drs.power.automatic is off", time)
            return
        try:
            with database.session():
                has_vms = Vm.select().where((Vm.host == host.id) | (Vm.destination == host.id)).exists()
                evacuation = Operation.get_or_none(Operation.id == row.operation_id)
                record = drs_plans.evacuate_host(host, SYSTEM) if has_vms and evacuation is None else None
                is_empty = not has_vms and host.state is HostState.UP
                needed = plan_power(cluster, time).switch_on if is_empty else ()
            if record is not None:
                with database.transaction():
                    operation = record()
                    HostPower.update(operation_id=operation.id).where(HostPower.id == row.id).execute()
                launch(operation)
            elif needed:
                self._stays_on(row, needed[0].reason, time)
            elif is_empty:
                with database.transaction():
                    operation = switching.power_off(host, SYSTEM)
                launch(operation)
            elif evacuation is None or evacuation.state in ENDED or host.state is not HostState.UP:
                self._stays_on(row, "not every VM can leave it", time)
        except OstlerError as error:
            self._stays_on(row, error.message, time)

    def _stays_on(self, row: HostPower, why: str, time: datetime.datetime) -> None:
        self._paused[row.host.cluster_id] = time + _PAUSE
        log.info("a host stays on", host=row.host.name, reason=why)
        manage.set_maintenance(row.host, False, "", SYSTEM)  # which forgets the row of a host that is being emptied


@contextlib.contextmanager
def _apart(event: str, **names: str) -> Iterator[None]:
    """What fails here is logged and fails nothing else."""
    try:
        yield
    except OstlerError as error:
        log.info(event, reason=error.message, **names)
    except Exception as error:
        log_failure(event, error, **names)


def _not_to_be_woken(cluster: Cluster, time: datetime.datetime) -> set[str]:
    """Hosts that a person has switched off, or has put into maintenance since; and those that did not start lately."""
    by_hand = HostPower.select(HostPower.host).join(Host).where(Host.cluster == cluster.id, ~HostPower.automatic)
    return {host_id for (host_id,) in tuples(by_hand, tuple[str])} | _failed_lately(cluster, switching.ON_VERB, time)


def _failed_lately(cluster: Cluster, verb: str, time: datetime.datetime) -> set[str]:
    """Hosts whose operation of this kind has failed within _PAUSE."""
    hosts = Host.select(Host.id).where(Host.cluster == cluster.id)
    failed = Operation.select(Operation.resource_id).where(
        Operation.verb == verb,
        Operation.state == OperationState.FAILED,
        Operation.end_time > time - _PAUSE,
        Operation.resource_id.in_(hosts),
    )
    return {host_id for (host_id,) in tuples(failed, tuple[str])}


def _automatic(cluster: Cluster) -> bool:
    at = settings.At(cluster_id=cluster.id)
    return settings.drs.POWER_AUTOMATIC.get(at) and not settings.drs.AUTOMATIC_SHADOW.get(at)


def _wake(change: PowerChange) -> None:
    try:
        with database.transaction():
            operation = switching.power_on(Host.get_by_id(change.host_id), SYSTEM)
    except OstlerError as error:  # it is being switched on already
        log.info("a host is not switched on", host=change.host_name, reason=error.message)
        return
    log.info("switching a host on", host=change.host_name, reason=change.reason)
    launch(operation)
