"""Details for drivers: from template, service offering and VM to what the host receives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from ostler.control.v1 import offering_pb2
from ostler.types.v1 import host_pb2, volume_pb2
from ostler_common.errors import OstlerError
from ostler_control import database, vms
from ostler_control.api.convert import templates as convert_templates
from ostler_control.api.offerings import OfferingService
from ostler_control.caller import Caller, Role
from ostler_control.catalog import driver_details
from ostler_control.fleet import store
from ostler_control.models import Host, OfferingDetail, ServiceOffering, Template, TemplateDetail, Vm, new_id
from ostler_control.operations import Engine
from ostler_control.states import HostState
from ostler_control.vms.driver_details import schema_of

from tests import databases
from tests.sites import GIB, Site, outcome, site_at_work
from tests.unit.control import calls

OK = ("succeeded", "")
ADMIN = calls.context(calls.admin())
DETAIL = host_pb2.DriverDetail
SCHEMA = (
    DETAIL(key="kernel", summary="path of the kernel", kind=DETAIL.TEXT, required=True, max_length=100),
    DETAIL(key="command-line", summary="of the kernel", kind=DETAIL.TEXT, per_vm=True, max_length=40),
)


@pytest.fixture(scope="module")
def working(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Engine]]:
    """A site whose hosts report a driver that requires a kernel."""
    state_dir = tmp_path_factory.mktemp("site")
    with databases.bound(f"sqlite:///{state_dir}/ostler.sqlite") as url, site_at_work(url, state_dir) as (site, engine):
        for host in list(Host.select()):
            report(host, SCHEMA)
        yield site, engine


def report(host: Any, schema: tuple[host_pb2.DriverDetail, ...]) -> None:
    capabilities = host_pb2.Capabilities(
        hypervisor_type="kvm", hypervisor_display_name="KVM", driver_details=schema, pool_types=["local"],
        functions=["volume-encryption", "nics", "live-migration"], cpus=64, memory_bytes=256 * GIB, bridges=["br0"],
        volume_encryption=True, template_formats=[volume_pb2.DISK_FORMAT_RAW, volume_pb2.DISK_FORMAT_QCOW2],
    )  # fmt: skip
    store.set_facts(store.WatchedHost(host.id, host.name, host.address, HostState.UP), "1", capabilities)


@pytest.fixture
def site(working: tuple[Site, Engine]) -> Iterator[Site]:
    site, engine = working
    yield site
    for vm in list(Vm.select()):
        operation = site.record(lambda vm=vm: vms.delete(vm, "root", force=True))  # type: ignore[misc]
        assert outcome(engine, operation) == OK
    TemplateDetail.delete().execute()
    OfferingDetail.delete().execute()


def give(site: Site, template: Mapping[str, str], offering: Mapping[str, str]) -> None:
    driver_details.add_to_template(site.template, template)
    driver_details.add_to_offering(site.plain, offering)


def new_vm(working: tuple[Site, Engine], **details: str) -> Any:
    site, engine = working
    named = {f"driver.{key.replace('_', '-')}": value for key, value in details.items()}
    operation = site.record(lambda: site.new_vm("web", offering=site.plain, details=named))
    assert outcome(engine, operation) == OK
    return Vm.get_by_id(operation.resource_id)


def received(site: Site, vm: Any) -> dict[str, str]:
    """The details that the VM's host received."""
    host: Any = Vm.get_by_id(vm.id).host
    return dict(site.hosts[host.name].vms[vm.id].spec.details)


def refusal(call: Any) -> OstlerError:
    with pytest.raises(OstlerError) as caught:
        call()
    return caught.value


def test_the_vm_comes_before_the_offering_and_the_offering_before_the_template(
    working: tuple[Site, Engine], site: Site
) -> None:
    give(
        site, {"driver.kernel": "/k1", "driver.command-line": "a"}, {"driver.kernel": "/k2", "driver.command-line": "b"}
    )
    vm = new_vm(working, command_line="c")
    assert received(site, vm) == {"kernel": "/k2", "command-line": "c"}


def test_a_vm_without_a_required_detail_is_refused_and_nothing_is_left(
    working: tuple[Site, Engine], site: Site
) -> None:
    error = refusal(lambda: new_vm(working))
    assert (error.reason, error.metadata) == ("DETAIL_MISSING", {"detail": "driver.kernel"})
    assert Vm.select().count() == 0
    assert {host.allocated_cpus for host in Host.select()} == {0}


def test_vms_set_only_what_the_driver_lets_them(working: tuple[Site, Engine], site: Site) -> None:
    give(site, {"driver.kernel": "/k1"}, {})
    assert refusal(lambda: new_vm(working, kernel="/etc/shadow")).reason == "DETAIL_NOT_ALLOWED"
    assert refusal(lambda: new_vm(working, initrd="/i")).reason == "DETAIL_UNKNOWN"
    assert refusal(lambda: new_vm(working, command_line="x" * 41)).reason == "DETAIL_INVALID"
    vm = new_vm(working)
    with database.session():
        error = refusal(lambda: vms.update(vm, "root", None, None, {"driver.kernel": "/etc/shadow"}))
    assert error.reason == "DETAIL_NOT_ALLOWED"
    assert received(site, vm) == {"kernel": "/k1"}


def test_a_start_checks_what_the_driver_states_by_then(working: tuple[Site, Engine], site: Site) -> None:
    _, engine = working
    give(site, {"driver.kernel": "/k1"}, {})
    vm = new_vm(working)
    assert outcome(engine, site.record(lambda: vms.stop(vm, "root", 0, True))) == OK
    TemplateDetail.delete().execute()
    error = refusal(lambda: site.record(lambda: vms.start(vm, "root")))
    assert error.reason == "DETAIL_MISSING"
    give(site, {"driver.kernel": "/k3"}, {})
    assert outcome(engine, site.record(lambda: vms.start(vm, "root"))) == OK
    assert received(site, vm) == {"kernel": "/k3"}


@pytest.mark.parametrize(
    ("details", "reason"),
    [
        ({"kernel": "/k"}, "INVALID_DETAIL"),
        ({"driver.": "/k"}, "INVALID_DETAIL"),
        ({"driver.kernel": ""}, "INVALID_DETAIL"),
        ({"driver.kernel": "x" * 1025}, "INVALID_DETAIL"),
        ({f"driver.k{number}": "x" for number in range(33)}, "TOO_MANY_DETAILS"),
    ],
)
@pytest.mark.usefixtures("site")
def test_what_an_offering_cannot_have_is_refused(details: dict[str, str], reason: str) -> None:
    request = offering_pb2.CreateServiceOfferingRequest(name="odd", cpus=1, memory_bytes=GIB, details=details)
    service = OfferingService()
    error = refusal(lambda: driver_details.check_given(details))
    assert error.reason == reason
    with pytest.raises(OstlerError):
        service.CreateServiceOffering(request, ADMIN)
    assert ServiceOffering.get_or_none(ServiceOffering.name == "odd") is None


def test_only_admins_see_what_details_tell_of_hosts(site: Site) -> None:
    request = offering_pb2.CreateServiceOfferingRequest(
        name="fire", cpus=1, memory_bytes=GIB, details={"driver.kernel": "/k1"}
    )
    service = OfferingService()
    assert dict(service.CreateServiceOffering(request, ADMIN).details) == {"driver.kernel": "/k1"}
    member = Caller(Role.MEMBER, new_id(), "alice", site.account.id)
    wanted = offering_pb2.GetServiceOfferingRequest(service_offering="fire")
    assert not service.GetServiceOffering(wanted, calls.context(member)).details
    give(site, {"driver.kernel": "/k1"}, {})
    template: Any = Template.get_by_id(site.template.id)
    assert dict(convert_templates.template(template, calls.admin()).details) == {"driver.kernel": "/k1"}
    assert not convert_templates.template(template, member).details


def test_a_schema_that_is_not_valid_counts_as_none() -> None:
    assert schema_of('{"driverDetails": [{"key": "Bad Key", "summary": "x", "maxLength": 1}]}') == ()
    assert schema_of("{}") == ()


def test_changed_details_reach_vms_at_their_next_start(working: tuple[Site, Engine], site: Site) -> None:
    engine = working[1]
    give(site, {"driver.kernel": "/k1"}, {"driver.command-line": "quiet"})
    vm = new_vm(working)
    service = OfferingService()
    request = offering_pb2.UpdateServiceOfferingRequest(
        service_offering=site.plain.name,
        values=offering_pb2.ServiceOffering(details={"driver.command-line": "debug"}),
        update_mask=FieldMask(paths=["details"]),
    )
    assert dict(service.UpdateServiceOffering(request, ADMIN).details) == {"driver.command-line": "debug"}
    template: Any = Template.get_by_id(site.template.id)
    driver_details.replace_of_template(template, {"driver.kernel": "/k2"}, "root")
    assert received(site, vm) == {"kernel": "/k1", "command-line": "quiet"}, "it runs as it was started"
    assert outcome(engine, site.record(lambda: vms.stop(vm, "root", 0, True))) == OK
    assert outcome(engine, site.record(lambda: vms.start(vm, "root"))) == OK
    assert received(site, vm) == {"kernel": "/k2", "command-line": "debug"}
    driver_details.replace_of_template(template, {}, "root")
    assert TemplateDetail.select().count() == 0


@pytest.mark.usefixtures("site")
def test_bad_changes_leave_details_as_they_are(site: Site) -> None:
    give(site, {}, {"driver.kernel": "/k1"})
    service = OfferingService()
    for details, mask in (({"kernel": "/k"}, ["details"]), ({}, []), ({}, ["cpus"])):
        request = offering_pb2.UpdateServiceOfferingRequest(
            service_offering=site.plain.name,
            values=offering_pb2.ServiceOffering(details=details),
            update_mask=FieldMask(paths=mask),
        )
        with pytest.raises(OstlerError):
            service.UpdateServiceOffering(request, ADMIN)
    assert [(row.key, row.value) for row in OfferingDetail.select()] == [("kernel", "/k1")]
