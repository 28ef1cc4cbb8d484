"""Network interfaces that VMs get and lose, stopped and running."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ostler.types.v1.vm_pb2 import SeenAddress
from ostler_common.errors import FailedPreconditionError, OstlerError
from ostler_control import vms
from ostler_control.models import Host, HostFunction, Network, Nic, NicAddressing, NicDown, Vm, Zone
from ostler_control.operations import Engine
from ostler_control.userdata.seed import Addressing
from ostler_control.vms import read_addresses

from tests import databases
from tests.fakes.working_agent import Fault
from tests.sites import Site, outcome, site_at_work

OK = ("succeeded", "")


class Place:
    """A site with one VM."""

    def __init__(self, site: Site, engine: Engine, stopped: bool) -> None:
        self.site, self.engine = site, engine
        nics = [vms.NewNic(site.network)]
        made = site.record(lambda: site.new_vm("web", offering=site.plain, nics=nics, stopped=stopped))
        assert outcome(engine, made) == OK

    @property
    def vm(self) -> Vm:
        return Vm.get(Vm.name == "web")

    def add(self, network: Network | None = None, **fields: object) -> tuple[str, str]:
        wanted = vms.NewNic(network or self.site.network, **fields)  # type: ignore[arg-type]
        return outcome(self.engine, self.site.record(lambda: vms.add_nic(self.vm, wanted, "alice")))

    def remove(self, mac: str) -> tuple[str, str]:
        return outcome(self.engine, self.site.record(lambda: vms.remove_nic(self.vm, mac, "alice")))

    def set_link(self, mac: str, up: bool) -> tuple[str, str]:
        return outcome(self.engine, self.site.record(lambda: vms.set_link(self.vm, mac, up, "alice")))

    def links(self) -> list[bool]:
        """Whether each is up, as its row says."""
        down = {row.nic_id for row in NicDown.select()}
        return [nic.id not in down for nic in Nic.select().order_by(Nic.position)]

    def macs(self) -> list[str]:
        return [nic.mac for nic in Nic.select().order_by(Nic.position)]

    def plugged(self) -> list[str]:
        """As the VM's host has them."""
        host = Host.get_by_id(self.vm.host_id)
        return [nic.mac for nic in self.site.hosts[host.name].vms[self.vm.id].spec.nics]


@pytest.fixture(params=[False, True], ids=["running", "stopped"])
def place(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Place]:
    with databases.bound(f"sqlite:///{tmp_path}/ostler.sqlite") as url, site_at_work(url, tmp_path) as (site, engine):
        yield Place(site, engine, request.param)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Place]:
    with databases.bound(f"sqlite:///{tmp_path}/ostler.sqlite") as url, site_at_work(url, tmp_path) as (site, engine):
        yield Place(site, engine, stopped=False)


def reason(call: Callable[[], object]) -> str:
    with pytest.raises(OstlerError) as caught:
        call()
    return caught.value.reason


def test_a_vm_gets_an_interface_and_loses_it(place: Place) -> None:
    [first] = place.macs()
    static = Addressing(("192.0.2.7/24",), ("192.0.2.1",), ())
    assert place.add(model="e1000e", addressing=static) == OK
    [_, second] = place.macs()
    assert (Nic.get(Nic.mac == second).model, NicAddressing.get().nic.mac) == ("e1000e", second)
    assert second.startswith("52:54:00:")
    if place.vm.host_id:
        assert place.plugged() == [first, second]
    assert place.remove(first.upper()) == OK
    assert place.macs() == [second]
    assert place.add() == OK
    assert [nic.position for nic in Nic.select().order_by(Nic.position)] == [1, 2]
    if place.vm.host_id:
        assert place.plugged() == place.macs()
    assert place.vm.operation_id == ""


def test_what_a_vm_may_not_have_is_refused(place: Place) -> None:
    zone = place.site.network.zone
    theirs = Network.create(name="theirs", zone=zone, bridge="br0")
    abroad = Network.create(name="abroad", zone=Zone.create(name="far"), bridge="br0", all_accounts=True)
    before = place.macs()
    assert reason(lambda: place.add(theirs)) == "NETWORK_NOT_ALLOWED"
    assert reason(lambda: place.add(abroad)) == "OTHER_ZONE"
    assert reason(lambda: place.add(mac=before[0])) == "MAC_TAKEN"
    assert reason(lambda: place.remove("52:54:00:ff:ff:ff")) == "NIC_NOT_FOUND"
    for _ in range(15):
        Nic.create(vm=place.vm, position=Nic.select().count(), mac=f"x{Nic.select().count()}", network=theirs)
    assert reason(place.add) == "TOO_MANY_NICS"


def test_an_error_names_the_field_that_the_caller_gave(place: Place) -> None:
    for fields, reason_code, field in (
        ({"mac": "no"}, "INVALID_MAC", "nic.mac"),
        ({"model": "no"}, "INVALID_NIC_MODEL", "nic.model"),
        ({"mac": place.macs()[0]}, "MAC_TAKEN", "nic.mac"),
    ):
        with pytest.raises(OstlerError) as caught:
            place.add(**fields)  # type: ignore[arg-type]
        assert caught.value.reason == reason_code
        assert f"{field}:" in str(caught.value)
        assert "nics[" not in str(caught.value)


def test_the_host_of_a_running_vm_must_have_the_network(running: Place) -> None:
    nowhere = Network.create(name="nowhere", zone=running.site.network.zone, bridge="br7", all_accounts=True)
    assert reason(lambda: running.add(nowhere)) == "LACKS_BRIDGE"
    HostFunction.delete().execute()
    assert reason(running.add) == "LACKS_NIC_FILTER"
    Network.update(spoof_filter=False).execute()
    assert running.add(Network.get(Network.name == "public")) == OK
    Host.update(functions="nics").execute()
    assert reason(lambda: running.add(Network.get(Network.name == "public"))) == "FUNCTION_NOT_SUPPORTED"
    assert reason(lambda: running.remove(running.macs()[0])) == "FUNCTION_NOT_SUPPORTED"


def test_a_failed_addition_leaves_nothing(running: Place) -> None:
    [first] = running.macs()
    host = running.site.hosts[Host.get_by_id(running.vm.host_id).name]
    host.fail("AttachNic", Fault(FailedPreconditionError("no", "NO_WAY"), before=False, times=1))
    assert running.add() == ("failed", "NO_WAY")
    assert running.macs() == running.plugged() == [first]
    assert running.vm.attention == ""


def test_an_addition_that_cannot_be_undone_keeps_its_row_and_says_so(running: Place) -> None:
    host = running.site.hosts[Host.get_by_id(running.vm.host_id).name]
    for method in ("AttachNic", "DetachNic"):
        host.fail(method, Fault(FailedPreconditionError("no", "NO_WAY"), before=False, times=99))
    assert running.add()[0] == "failed"
    [_, second] = running.macs()
    assert f"interface {second} may be missing" in running.vm.attention
    host.faults.clear()
    assert running.remove(second) == OK
    assert running.plugged() == running.macs()


def test_a_link_goes_down_and_stays_down_until_it_is_set_up(place: Place) -> None:
    [mac] = place.macs()
    for up in (False, False, True, False):
        assert place.set_link(mac.upper(), up) == OK
        assert place.links() == [up]
    if not place.vm.host_id:
        assert outcome(place.engine, place.site.record(lambda: vms.start(place.vm, "alice"))) == OK
    host = Host.get_by_id(place.vm.host_id)
    [nic] = place.site.hosts[host.name].vms[place.vm.id].spec.nics
    assert nic.link_down
    assert reason(lambda: place.set_link("52:54:00:ff:ff:ff", False)) == "NIC_NOT_FOUND"


def test_a_link_that_fails_to_change_is_as_before(running: Place) -> None:
    [mac] = running.macs()
    host = running.site.hosts[Host.get_by_id(running.vm.host_id).name]
    host.fail("SetNicLink", Fault(FailedPreconditionError("no", "NO_WAY"), before=False))
    assert running.set_link(mac, False) == ("failed", "NO_WAY")
    assert running.links() == [True]
    assert not host.vms[running.vm.id].spec.nics[0].link_down
    assert running.vm.attention == ""
    host.fail("SetNicLink", Fault(FailedPreconditionError("no", "NO_WAY"), before=False, times=2))
    assert running.set_link(mac, False) == ("failed", "NO_WAY")
    assert f"the link of interface {mac} may be other than shown" in running.vm.attention


def test_links_need_a_driver_that_has_them(running: Place) -> None:
    Host.update(functions="nics").execute()
    assert reason(lambda: running.set_link(running.macs()[0], False)) == "FUNCTION_NOT_SUPPORTED"


def test_only_usable_addresses_of_the_vms_own_interfaces_are_shown(running: Place) -> None:
    [mac] = running.macs()
    host = running.site.hosts[Host.get_by_id(running.vm.host_id).name]
    agent = SeenAddress.GUEST_AGENT
    claims = [
        (mac, "192.0.2.7"),
        (mac, "2001:DB8::7"),
        (mac, "127.0.0.1"),
        (mac, "fe80::1"),
        (mac, "\x1b[31m192.0.2.8"),
        (mac, "9" * 5000),
        ("52:54:00:00:00:99", "192.0.2.9"),
        ("", ""),
    ]
    host.claims = [SeenAddress(mac=one, address=address, source=agent) for one, address in claims]
    assert [seen.address for seen in read_addresses(running.engine.agents, running.vm)] == ["192.0.2.7", "2001:db8::7"]
    host.claims = [SeenAddress(mac=mac, address=f"198.51.100.{n}", source=agent) for n in range(200)]
    assert len(read_addresses(running.engine.agents, running.vm)) == 64
    running.site.silence(host.name)
    assert read_addresses(running.engine.agents, running.vm) == []
