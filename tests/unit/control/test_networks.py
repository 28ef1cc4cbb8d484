"""Networks: who may use them, what they need of hosts, and when they may change."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from ostler.control.v1 import network_pb2 as pb
from ostler.control.v1 import network_pb2_grpc, vm_pb2, vm_pb2_grpc, zone_pb2, zone_pb2_grpc
from ostler_common.errors import from_rpc_error
from ostler_control import database
from ostler_control.caller import Role
from ostler_control.models import Account, Event, Network, Nic, ServiceOffering, Template, Vm
from ostler_control.server import Control

from tests.fakes.fleet import Fleet, channel

MIB = 1 << 20


class Api:
    """The services over one caller's connection."""

    def __init__(self, on: grpc.Channel) -> None:
        self.networks = network_pb2_grpc.NetworkServiceStub(on)
        self.vms = vm_pb2_grpc.VmServiceStub(on)
        self.zones = zone_pb2_grpc.ZoneServiceStub(on)

    def create(self, name: str, **fields: object) -> pb.Network:
        return self.networks.CreateNetwork(pb.CreateNetworkRequest(name=name, **{"bridge": "br0", **fields}))  # type: ignore[arg-type]

    def update(self, network: str, **values: object) -> pb.Network:
        mask = FieldMask(paths=list(values))
        request = pb.UpdateNetworkRequest(network=network, values=pb.Network(**values), update_mask=mask)  # type: ignore[arg-type]
        return self.networks.UpdateNetwork(request)

    def names(self) -> list[str]:
        return [network.name for network in self.networks.ListNetworks(pb.ListNetworksRequest()).networks]

    def vm_on(self, network: str, mac: str = "") -> None:
        nic = vm_pb2.VmNic(network=network, mac=mac)
        request = vm_pb2.CreateVmRequest(
            name="x", template="t", service_offering="small", nics=[nic], validate_only=True
        )
        self.vms.CreateVm(request)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    return Fleet(tmp_path_factory.mktemp("fleet"))


@pytest.fixture(scope="module")
def control(fleet: Fleet) -> Iterator[Control]:
    with fleet.running() as control:
        yield control


@pytest.fixture(scope="module")
def admin(fleet: Fleet, control: Control) -> Iterator[Api]:
    with channel(control.main_port, fleet.admin) as on:
        api = Api(on)
        api.zones.CreateZone(zone_pb2.CreateZoneRequest(name="z"))
        with database.transaction():
            ServiceOffering.create(name="small", cpus=1, memory_bytes=MIB)
            Template.create(
                name="t", format="qcow2", file_size_bytes=MIB, virtual_size_bytes=MIB, sha256="0" * 64, state="ready"
            )
        yield api


@pytest.fixture(scope="module")
def ada(fleet: Fleet, control: Control, admin: Api) -> Iterator[Api]:
    """A member of the account "ada"."""
    with channel(control.main_port, fleet.user("ada", Role.MEMBER)) as on:
        yield Api(on)


@pytest.fixture(autouse=True)
def no_networks(control: Control) -> Iterator[None]:
    yield
    with database.transaction():
        Vm.delete().execute()
        Network.delete().execute()


def refusal(error: pytest.ExceptionInfo[grpc.RpcError]) -> str:
    return from_rpc_error(error.value).reason


def test_an_admin_creates_a_network_with_all_that_it_is(admin: Api, ada: Api) -> None:
    made = admin.create("lan", vlan=100, mtu=9000, allowed_accounts=["ada"])
    assert (made.zone_name, made.bridge, made.vlan, made.mtu, made.filter) == ("z", "br0", 100, 9000, True)
    assert (list(made.accounts), made.all_accounts, made.vm_count) == (["ada"], False, 0)
    assert admin.networks.GetNetwork(pb.GetNetworkRequest(network="lan")) == made
    assert not admin.create("open", no_filter=True).filter
    with database.session():
        assert Event.select().where(Event.type == "network.create", Event.resource_name == "lan").count() == 1


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"name": "no good"}, "INVALID_NAME"),
        ({"bridge": ""}, "INVALID_BRIDGE"),
        ({"bridge": "../br0"}, "INVALID_BRIDGE"),
        ({"bridge": "a-bridge-with-a-name"}, "INVALID_BRIDGE"),
        ({"bridge": "bridge-of-11", "vlan": 7}, "INVALID_BRIDGE"),
        ({"vlan": 4095}, "INVALID_VLAN"),
        ({"vlan": -1}, "INVALID_VLAN"),
        ({"mtu": 100}, "INVALID_MTU"),
        ({"mtu": 70000}, "INVALID_MTU"),
        ({"zone": "elsewhere"}, "ZONE_NOT_FOUND"),
        ({"allowed_accounts": ["nobody"]}, "ACCOUNT_NOT_FOUND"),
    ],
)
def test_a_bad_network_is_refused(admin: Api, fields: dict[str, object], reason: str) -> None:
    with pytest.raises(grpc.RpcError) as error:
        admin.create(**{"name": "bad", **fields})  # type: ignore[arg-type]
    assert refusal(error) == reason
    assert admin.names() == []


def test_members_see_and_use_only_what_their_account_is_allowed(admin: Api, ada: Api) -> None:
    admin.create("hers", vlan=7, allowed_accounts=["ada"])
    admin.create("everybodys", all_accounts=True)
    admin.create("nobodys")
    assert ada.names() == ["hers", "everybodys"]
    hers = ada.networks.GetNetwork(pb.GetNetworkRequest(network="hers"))
    assert (hers.bridge, hers.vlan, list(hers.accounts)) == ("", 0, [])
    for use in (lambda: ada.networks.GetNetwork(pb.GetNetworkRequest(network="nobodys")), lambda: ada.vm_on("nobodys")):
        with pytest.raises(grpc.RpcError) as error:
            use()
        assert refusal(error) == "NETWORK_NOT_FOUND"
    with pytest.raises(grpc.RpcError) as error:
        ada.vm_on("hers")
    assert refusal(error) not in ("NETWORK_NOT_FOUND", "NETWORK_NOT_ALLOWED")  # there is no host in this fleet
    admin.update("hers", accounts=[])
    assert ada.names() == ["everybodys"]


def test_an_admins_vm_needs_its_accounts_permission_too(admin: Api) -> None:
    admin.create("nobodys")
    with pytest.raises(grpc.RpcError) as error:
        admin.vm_on("nobodys")
    assert refusal(error) == "NETWORK_NOT_ALLOWED"


def test_a_member_chooses_no_mac_address(admin: Api, ada: Api) -> None:
    admin.create("public", all_accounts=True)
    with pytest.raises(grpc.RpcError) as error:
        ada.vm_on("public", mac="52:54:00:00:00:01")
    assert refusal(error) == "ADMINS_ONLY_FIELD"


def test_members_change_nothing(admin: Api, ada: Api) -> None:
    admin.create("public", all_accounts=True)
    delete = pb.DeleteNetworkRequest(network="public")
    for change in (
        lambda: ada.create("own", all_accounts=True),
        lambda: ada.update("public", mtu=9000),
        lambda: ada.networks.DeleteNetwork(delete),
    ):
        with pytest.raises(grpc.RpcError) as error:
            change()
        assert refusal(error) == "NOT_ALLOWED"


def test_a_network_in_use_keeps_its_bridge_and_stays(admin: Api, ada: Api) -> None:
    admin.create("lan", allowed_accounts=["ada"])
    with database.transaction():
        vm = Vm.create(
            name="v", account=Account.get(Account.name == "ada"), service_offering=ServiceOffering.get(), cpus=1,
            memory_bytes=MIB,
        )  # fmt: skip
        Nic.create(vm=vm, position=0, mac="52:54:00:00:00:01", network=Network.get())
    assert admin.networks.GetNetwork(pb.GetNetworkRequest(network="lan")).vm_count == 1
    for change in (
        lambda: admin.update("lan", bridge="br1"),
        lambda: admin.update("lan", vlan=5),
        lambda: admin.networks.DeleteNetwork(pb.DeleteNetworkRequest(network="lan")),
    ):
        with pytest.raises(grpc.RpcError) as error:
            change()
        assert refusal(error) == "NETWORK_IN_USE"
    changed = admin.update("lan", name="wan", mtu=1400, filter=False, all_accounts=True)
    assert (changed.name, changed.bridge, changed.mtu, changed.filter) == ("wan", "br0", 1400, False)
    with database.transaction():
        Nic.delete().execute()
    assert admin.update("wan", bridge="br1", vlan=5).bridge == "br1"
    admin.networks.DeleteNetwork(pb.DeleteNetworkRequest(network="wan"))
    assert admin.names() == []


def test_names_are_unique_and_a_zone_with_networks_stays(admin: Api) -> None:
    admin.create("lan")
    with pytest.raises(grpc.RpcError) as error:
        admin.create("lan")
    assert refusal(error) == "NAME_TAKEN"
    with pytest.raises(grpc.RpcError) as error:
        admin.zones.DeleteZone(zone_pb2.DeleteZoneRequest(zone="z"))
    assert refusal(error) == "NOT_EMPTY"
