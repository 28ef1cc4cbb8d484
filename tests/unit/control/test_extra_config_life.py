"""Extra configuration and details of VMs, from the API to what a host is told."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from ostler.control.v1 import extra_config_pb2 as pb
from ostler.control.v1 import offering_pb2, vm_pb2
from ostler.types.v1 import vm_pb2 as types
from ostler_common.errors import OstlerError
from ostler_control import settings, vms
from ostler_control.api.extra_configs import ExtraConfigService
from ostler_control.api.offerings import OfferingService
from ostler_control.api.vms import VmService
from ostler_control.caller import Caller, Role
from ostler_control.models import Account, Event, ServiceOffering, Vm, VmDetail, VmExtraConfig, new_id
from ostler_control.operations import Engine

from tests import databases
from tests.sites import Site, outcome, site_at_work
from tests.unit.control import calls

OK = ("succeeded", "")
ADMIN = calls.context(calls.admin())
SERVICE = ExtraConfigService()
VIDEO = "<devices><video><model type='qxl'/></video></devices>"
DISK = "<devices><disk type='file'><source file='/etc/shadow'/><target dev='vdz'/></disk></devices>"
ENABLED = "enable.additional.vm.configuration"
ALLOWED = "allow.additional.vm.configuration.list.kvm"
HOST_ACCESS = "allow.additional.vm.configuration.host.access"


@pytest.fixture(scope="module")
def working(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Engine]]:
    state_dir = tmp_path_factory.mktemp("site")
    with databases.bound(f"sqlite:///{state_dir}/ostler.sqlite") as url, site_at_work(url, state_dir) as working:
        yield working


@pytest.fixture
def site(working: tuple[Site, Engine]) -> Iterator[Site]:
    """Every test begins with an account that may have videos, and leaves nothing."""
    site, engine = working
    owner = settings.Owner.of(site.account)
    settings.change(ENABLED, "true", "root", owner)
    settings.change(ALLOWED, "devices/video,devices/disk", "root", owner)
    yield site
    for name in (ENABLED, ALLOWED, HOST_ACCESS):
        settings.reset(name, "root", owner)
    for vm in list(Vm.select()):
        assert outcome(engine, site.record(partial(vms.delete, vm, "root", force=True))) == OK
    assert VmDetail.select().count() + VmExtraConfig.select().count() == 0


@pytest.fixture
def engine(working: tuple[Site, Engine]) -> Engine:
    return working[1]


@pytest.fixture
def member(site: Site) -> Any:
    return calls.context(Caller(Role.MEMBER, new_id(), "alice", site.account.id))


def new_vm(site: Site, engine: Engine, **wanted: Any) -> Vm:
    operation = site.record(lambda: site.new_vm("web", **wanted))
    assert outcome(engine, operation) == OK
    vm: Vm = Vm.get_by_id(operation.resource_id)
    return vm


def put(context: Any, xml: str, name: str = "x", override: bool = False) -> pb.ExtraConfig:
    return SERVICE.SetExtraConfig(pb.SetExtraConfigRequest(vm="web", name=name, xml=xml, override=override), context)


def listed(context: Any) -> list[pb.ExtraConfig]:
    return list(SERVICE.ListExtraConfigs(pb.ListExtraConfigsRequest(vm="web"), context).extra_configs)


def refused(call: Any) -> OstlerError:
    with pytest.raises(OstlerError) as caught:
        call()
    return caught.value


def told(site: Site, vm: Vm) -> types.ExtraConfig:
    """What the VM's host was told at its last start."""
    found: types.ExtraConfig = site.at(Vm.get_by_id(vm.id).host_id).vms[vm.id].spec.extra_config
    return found


def start(site: Site, engine: Engine, vm: Vm) -> None:
    assert outcome(engine, site.record(lambda: vms.start(vm, "alice"))) == OK


def test_a_member_sets_what_the_account_may_have_and_the_next_start_brings_it(
    site: Site, engine: Engine, member: Any
) -> None:
    vm = new_vm(site, engine)
    assert put(member, VIDEO).passes
    assert list(told(site, vm).domain_xml) == []
    assert outcome(engine, site.record(lambda: vms.stop(vm, "alice", force=True))) == OK
    start(site, engine, vm)
    assert list(told(site, vm).domain_xml) == [VIDEO]
    events = [row.type for row in Event.select().where(Event.resource_id == vm.id, Event.account_id == site.account.id)]
    assert "vm.extraconfig.set" in events


def test_it_is_off_until_an_admin_enables_it_for_the_account(site: Site, engine: Engine, member: Any) -> None:
    new_vm(site, engine, stopped=True)
    settings.reset(ENABLED, "root", settings.Owner.of(site.account))
    for context in (member, ADMIN):
        assert refused(lambda context=context: put(context, VIDEO)).reason == "EXTRA_CONFIG_DISABLED"
    assert listed(member) == []


def test_what_the_account_may_not_have_is_refused_and_nothing_is_kept(site: Site, engine: Engine, member: Any) -> None:
    new_vm(site, engine, stopped=True)
    assert refused(lambda: put(member, "<devices><sound/></devices>")).reason == "EXTRA_CONFIG_NOT_ALLOWED"
    assert refused(lambda: put(member, DISK)).reason == "EXTRA_CONFIG_HOST_ACCESS"
    assert refused(lambda: put(member, "<video>")).reason == "XML_SYNTAX"
    assert refused(lambda: put(member, VIDEO, name="Not A Name")).reason == "INVALID_EXTRA_CONFIG_NAME"
    assert refused(lambda: put(member, VIDEO, override=True)).reason == "ADMINS_ONLY_FIELD"
    assert listed(member) == []
    settings.change(HOST_ACCESS, "true", "root", settings.Owner.of(site.account))
    assert put(member, DISK).passes


def test_every_start_asks_what_the_account_may_have_by_then(site: Site, engine: Engine, member: Any) -> None:
    vm = new_vm(site, engine, stopped=True)
    put(member, VIDEO, name="screen")
    settings.change(ALLOWED, "clock", "root", settings.Owner.of(site.account))
    error = refused(lambda: site.record(lambda: vms.start(vm, "alice")))
    assert error.reason == "EXTRA_CONFIG_NOT_ALLOWED"
    assert error.metadata["element"] == "devices"
    assert "ostler vm extraconfig remove web screen" in error.message
    (shown,) = listed(member)
    assert (shown.passes, shown.refusal) == (False, "EXTRA_CONFIG_NOT_ALLOWED")
    settings.reset(ENABLED, "root", settings.Owner.of(site.account))
    assert refused(lambda: site.record(lambda: vms.start(vm, "alice"))).reason == "EXTRA_CONFIG_DISABLED"
    SERVICE.RemoveExtraConfig(pb.RemoveExtraConfigRequest(vm="web", name="screen"), member)
    assert Event.select().where(Event.type == "vm.extraconfig.remove", Event.account_id == site.account.id).exists()
    start(site, engine, vm)
    assert list(told(site, vm).domain_xml) == []


def test_an_admin_overrides_until_somebody_else_sets_it_anew(site: Site, engine: Engine, member: Any) -> None:
    vm = new_vm(site, engine, stopped=True)
    settings.reset(ENABLED, "root", settings.Owner.of(site.account))
    assert put(ADMIN, DISK, override=True).override_by == "root"
    assert listed(member)[0].passes
    start(site, engine, vm)
    assert list(told(site, vm).domain_xml) == [DISK]
    settings.change(ENABLED, "true", "root", settings.Owner.of(site.account))
    assert refused(lambda: put(member, DISK)).reason == "EXTRA_CONFIG_HOST_ACCESS"
    assert put(member, VIDEO).override_by == ""
    assert refused(lambda: put(ADMIN, "<uuid>x</uuid>", override=True)).reason == "EXTRA_CONFIG_OWNED"


def test_a_vm_has_a_limited_number(site: Site, engine: Engine, member: Any) -> None:
    new_vm(site, engine, stopped=True)
    for number in range(16):
        put(member, VIDEO, name=f"c{number}")
    assert refused(lambda: put(member, VIDEO, name="more")).reason == "TOO_MANY_EXTRA_CONFIGS"
    assert put(member, VIDEO, name="c3").passes


def test_another_accounts_vm_is_not_there(site: Site, engine: Engine) -> None:
    new_vm(site, engine, stopped=True)
    stranger = calls.context(Caller(Role.MEMBER, new_id(), "eve", Account.create(name=f"e{new_id()[:8]}").id))
    remove = pb.RemoveExtraConfigRequest(vm="web", name="x")
    for call in (
        lambda: put(stranger, VIDEO),
        lambda: listed(stranger),
        lambda: SERVICE.RemoveExtraConfig(remove, stranger),
    ):
        assert refused(call).reason == "VM_NOT_FOUND"


def test_what_is_not_there_cannot_be_removed(site: Site, engine: Engine, member: Any) -> None:
    new_vm(site, engine, stopped=True)
    remove = pb.RemoveExtraConfigRequest(vm="web", name="x")
    assert refused(lambda: SERVICE.RemoveExtraConfig(remove, member)).reason == "EXTRA_CONFIG_NOT_FOUND"


# Service offerings.


def offering(configs: dict[str, str], memory_bytes: int = 1 << 30) -> offering_pb2.ServiceOffering:
    request = offering_pb2.CreateServiceOfferingRequest(
        name=f"o{new_id()[:8]}", cpus=1, memory_bytes=memory_bytes, extra_configs=configs
    )
    return OfferingService().CreateServiceOffering(request, ADMIN)


NUMA = "<cpu><numa><cell id='0' cpus='0' memory='1' unit='GiB' memAccess='shared'/></numa></cpu>"


def test_an_offering_brings_dpdk_whatever_the_account_may_have(site: Site, engine: Engine, member: Any) -> None:
    settings.reset(ENABLED, "root", settings.Owner.of(site.account))
    configs = {"dpdk-numa": NUMA, "dpdk-interface-q": "<driver queues='2'/>", "dpdk-vhost-user": "server"}
    made = offering(configs)
    assert dict(made.extra_configs) == configs
    get = offering_pb2.GetServiceOfferingRequest(service_offering=made.id)
    assert dict(OfferingService().GetServiceOffering(get, member).extra_configs) == {}
    vm = new_vm(site, engine, offering=ServiceOffering.get_by_id(made.id))
    sent = told(site, vm)
    assert list(sent.domain_xml) == [NUMA]
    assert list(sent.interface_xml) == ["<driver queues='2'/>"]
    assert sent.vhost_user == types.ExtraConfig.VHOST_USER_SERVER


@pytest.mark.parametrize(
    ("configs", "reason"),
    [
        ({"video": VIDEO}, "ONLY_DPDK_ALLOWED"),
        ({"dpdk-numa": DISK}, "EXTRA_CONFIG_NOT_ALLOWED"),
        ({"dpdk-numa": NUMA.replace("GiB", "TiB")}, "EXTRA_CONFIG_OWNED"),
    ],
)
def test_an_offering_brings_nothing_else(site: Site, configs: dict[str, str], reason: str) -> None:
    before = ServiceOffering.select().count()
    assert refused(lambda: offering(configs)).reason == reason
    assert ServiceOffering.select().count() == before


def test_numa_cells_of_a_vm_add_up_to_its_memory(site: Site, engine: Engine, member: Any) -> None:
    vm = new_vm(site, engine, stopped=True)
    settings.change(ALLOWED, "cpu/numa", "root", settings.Owner.of(site.account))
    cell = "<cpu><numa><cell id='0' cpus='0' memory='{}' unit='MiB'/></numa></cpu>"
    assert put(member, cell.format(vm.memory_bytes >> 20)).passes
    assert refused(lambda: put(member, cell.format((vm.memory_bytes >> 20) + 1))).reason == "EXTRA_CONFIG_OWNED"


# Details.


def update(site: Site, context: Any, details: dict[str, str]) -> dict[str, str]:
    request = vm_pb2.UpdateVmRequest(
        vm="web", values=vm_pb2.Vm(details=details), update_mask=FieldMask(paths=["details"])
    )
    return dict(VmService(None, site.keys).UpdateVm(request, context).details)  # type: ignore[arg-type]


def test_details_are_kept_and_replaced_as_a_whole(site: Site, engine: Engine, member: Any) -> None:
    new_vm(site, engine, stopped=True, details={"owner": "ann", "ticket": "7"})
    assert update(site, member, {"owner": "bob"}) == {"owner": "bob"}
    assert update(site, member, {}) == {}


@pytest.mark.parametrize("key", ["extraconfig", "extraconfig-1", "ExtraConfig-x", " extraconfig-1"])
def test_details_that_imitate_extra_configuration_are_refused_in_a_new_vm(site: Site, key: str) -> None:
    before = Vm.select().count()
    error = refused(lambda: site.record(lambda: site.new_vm("web", details={key: VIDEO})))
    assert error.reason == "EXTRA_CONFIG_IN_DETAILS"
    assert Vm.select().count() == before


def test_they_are_skipped_in_a_change_and_never_dropped(site: Site, engine: Engine, member: Any) -> None:
    vm = new_vm(site, engine, stopped=True)
    VmDetail.create(vm=vm, key="extraconfig-old", value="kept")  # from before they were refused
    put(member, VIDEO, name="screen")
    assert update(site, member, {"a": "1", "extraconfig-1": DISK, "extraconfig-old": "other"}) == {
        "a": "1",
        "extraconfig-old": "kept",
    }
    assert update(site, member, {}) == {"extraconfig-old": "kept"}
    assert [config.name for config in listed(member)] == ["screen"]
    start(site, engine, vm)
    assert list(told(site, vm).domain_xml) == [VIDEO]


@pytest.mark.parametrize(
    ("details", "reason"),
    [
        ({"a b": "1"}, "INVALID_DETAIL"),
        ({"a": "x" * 1025}, "INVALID_DETAIL"),
        ({f"k{n}": "" for n in range(65)}, "TOO_MANY_DETAILS"),
    ],
)
def test_details_have_limits(site: Site, engine: Engine, member: Any, details: dict[str, str], reason: str) -> None:
    new_vm(site, engine, stopped=True, details={"a": "1"})
    assert refused(lambda: update(site, member, details)).reason == reason
    assert update(site, member, {"a": "2"}) == {"a": "2"}
