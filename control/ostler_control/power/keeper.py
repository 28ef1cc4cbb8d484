"""Switches hosts off and on by itself where drs.power.automatic says so. One replica does it.

The rows of `HostPower` say how far each host is, so the next process goes on where this one died. One host of a cluster
is emptied at a time; it is switched off once nothing is left on it, and stays on when something cannot leave.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable

import structlog
from ostler_common.errors import OstlerError

from ostler_control import database, drs_plans, settings
from ostler_control.drs import windows
from ostler_control.drs.power import PowerChange
from ostler_control.drs_plans import store
from ostler_control.events import SYSTEM
from ostler_control.ha import switching
from ostler_control.hosts import manage
from ostler_control.models import Cluster, Host, HostPower, HostState, Operation, SwitchState, Vm, now
from ostler_control.operations import launch
from ostler_control.operations.records import ENDED
from ostler_control.periodic import Periodic
from ostler_control.power.plans import plan_power

log = structlog.get_logger(__name__)

REASON = "it is switched off to save power"
_TICK_S = 20.0
_CHECK_EVERY = datetime.timedelta(minutes=1)
# After a host could not be emptied or switched, nothing of its cluster is switched off for so long.
_PAUSE = datetime.timedelta(hours=1)


class Keeper(Periodic):
    """Looks at every cluster now and then. leads: whether this replica is to do it.

    What it remembers between two looks (for how long hosts could have been off, what failed lately) begins anew after a
    restart, which only makes it slower.
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
            clusters = [one for one in Cluster.select().where(Cluster.enabled) if _automatic(one)]
            rows = list(HostPower.select(HostPower, Host).join(Host))
        for row in rows:
            if row.state is SwitchState.EMPTYING and row.host.cluster_id not in {one.id for one in clusters}:
                self._stays_on(row, "drs.power.automatic is off", time)
            elif row.state is SwitchState.EMPTYING:
                self._go_on(row, time)
        for cluster in clusters:
            if time - self._checked.get(cluster.id, datetime.datetime.min) >= _CHECK_EVERY:
                self._checked[cluster.id] = time
                try:
                    self._look_at(cluster, time)
                except OstlerError as error:
                    log.info("no power is saved", cluster=cluster.name, reason=error.message)

    def _look_at(self, cluster: Cluster, time: datetime.datetime) -> None:
        with database.session():
            if store.active(cluster.id) is not None:
                return
            found = plan_power(cluster, time)
            mine = HostPower.select(HostPower.state).join(Host).where(Host.cluster == cluster.id)
            under_way = any(row.state is not SwitchState.OFF for row in mine)
            at = settings.At(cluster_id=cluster.id)
            hold = datetime.timedelta(minutes=settings.drs.AUTOMATIC_HOLD.get(at))
            is_open = windows.parse(settings.drs.AUTOMATIC_WINDOW.get(at)).is_open(time)
        for change in found.switch_on:
            _wake(change)
        if not found.switch_off:
            self._could_be_off.pop(cluster.id, None)
            return
        since = self._could_be_off.setdefault(cluster.id, time)
        rests = time < self._paused.get(cluster.id, datetime.datetime.min)
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

    def _go_on(self, row: HostPower, time: datetime.datetime) -> None:
        """The next step of a host that is being emptied."""
        host = row.host
        try:
            with database.session():
                has_vms = Vm.select().where((Vm.host == host.id) | (Vm.destination == host.id)).exists()
                evacuation = Operation.get_or_none(Operation.id == row.operation_id)
                record = drs_plans.evacuate_host(host, SYSTEM) if has_vms and evacuation is None else None
            if record is not None:
                with database.transaction():
                    operation = record()
                    HostPower.update(operation_id=operation.id).where(HostPower.id == row.id).execute()
                launch(operation)
            elif not has_vms and host.state is HostState.UP:
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
