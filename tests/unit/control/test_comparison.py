"""Comparing what hosts report with the rows: what it costs when many hosts are heard at once."""

from __future__ import annotations

import threading

import pytest
from ostler_control.fleet.comparison import Comparison
from ostler_control.fleet.reconcile import HostView, Seen
from ostler_control.models import Event, PowerState, UnmanagedVm, Vm

from tests.fleets import fill, make_fleet
from tests.unit.control.test_create_cost import counted

HOSTS, VMS = 40, 80
# Sightings, VMs, and of which hosts unmanaged VMs are recorded.
MAX_STATEMENTS = 3

pytestmark = pytest.mark.usefixtures("fresh_database")


def _views() -> dict[str, HostView]:
    fleet = make_fleet(HOSTS)
    fill(fleet, VMS)
    Vm.update(power_state=PowerState.RUNNING).execute()
    seen: dict[str, dict[str, Seen]] = {str(host.id): {} for host in fleet.hosts}
    for vm in Vm.select():
        seen[str(vm.host_id)][vm.id] = Seen(vm.id, vm.name, PowerState.RUNNING, managed=True)
    return {str(host.id): HostView(str(host.id), host.name, heard=True, vms=seen[str(host.id)]) for host in fleet.hosts}


def test_hosts_that_are_heard_together_share_their_statements(monkeypatch: pytest.MonkeyPatch) -> None:
    views = _views()
    comparison = Comparison()
    for _ in range(2):
        with counted(monkeypatch, {threading.get_ident()}) as seen:
            comparison.write(set(views), views)
        assert len(seen) <= MAX_STATEMENTS, "\n".join(seen)


def test_what_is_gone_when_a_host_is_first_heard_is_told() -> None:
    views = _views()
    first, second, *_ = sorted(views)
    for host_id in (first, second):
        UnmanagedVm.create(host=host_id, vm_uuid="u", name="theirs", power_state=PowerState.RUNNING)
    Comparison().write({first}, views)
    assert [row.host_id for row in UnmanagedVm.select()] == [second]
    assert [row.resource_id for row in Event.select().where(Event.type == "host.vm.vanished")] == [first]
