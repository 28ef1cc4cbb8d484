"""What tests of high availability share: a monitor with its clock, and hosts that die."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from ostler_common.errors import OstlerError
from ostler_common.secret import Secret
from ostler_control.agents import Agents
from ostler_control.database import transaction
from ostler_control.ha import devices
from ostler_control.ha.fence_agents import Device
from ostler_control.ha.monitor import Monitor
from ostler_control.ha.returns import Returns
from ostler_control.models import FenceState, Host, HostFence, HostState, Operation, Vm, new_id
from ostler_control.operations import Engine
from ostler_control.states import UNFINISHED_OPERATIONS

from tests.fakes.fence import PASSWORD
from tests.fakes.working_agent import wait_until
from tests.sites import Site

OK = ("succeeded", "")


DEVICE = Device("redfish", "bmc.example.org", "ostler", {"plug": "1"})


ON_BOTH = pytest.mark.parametrize("working", ["sqlite", "postgresql"], indirect=True)


def new_device(power_on: bool = False) -> devices.NewDevice:
    return devices.NewDevice(new_id(), DEVICE, Secret(PASSWORD), power_on)


def vm(name: str) -> Any:
    return Vm.get(Vm.name == name)


def host_of(name: str) -> str:
    host = vm(name).host
    return host.name if host else ""


class Clock:
    """A monitor and a watch over hosts that return, and their clock."""

    def __init__(self, agents: Agents) -> None:
        self.now_s = 1000.0
        self.monitor = Monitor(lambda: True, clock=lambda: self.now_s)
        self.returns = Returns(lambda: True, agents, clock=lambda: self.now_s)

    def tick(self, after_s: float = 0.0) -> None:
        self.now_s += after_s
        self.returns.tick()
        self.monitor.tick()


def die(site: Site, name: str) -> None:
    """The host stops answering, and its VMs with it."""
    site.silence(name)
    site.hosts[name].vms.clear()
    site.hosts[name].secrets.clear()


def prove_off(site: Site, name: str, heard: bool = False) -> str:
    """As a fencing leaves the host, which may have been heard since; its id."""
    with transaction():
        host_id: str = site.host(name).id
        Host.update(state=HostState.FENCED).where(Host.id == host_id).execute()
        HostFence.create(host=host_id, state=FenceState.OFF, operation_id="done", proof="device", heard=heard)
    return host_id


def finish_all(engine: Engine) -> None:
    unfinished = Operation.state.in_(UNFINISHED_OPERATIONS)
    wait_until(lambda: not Operation.select().where(unfinished).exists())


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(OstlerError) as caught, transaction():
        call()
    return caught.value.reason
