from __future__ import annotations

import datetime
import threading

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from ostler.control.v1 import account_pb2, event_pb2, offering_pb2, zone_pb2
from ostler.types.v1 import volume_pb2
from ostler_common.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    OstlerError,
)
from ostler_control import events
from ostler_control.api.accounts import AccountService
from ostler_control.api.events import EventService
from ostler_control.api.offerings import OfferingService
from ostler_control.api.zones import ClusterService, ZoneService
from ostler_control.models import Account, Cluster, Event, Host, Pool, ServiceOffering, Vm, Zone, new_id, now

from tests.unit.control import calls

MIB = 1 << 20
ADMIN = calls.admin()
CONTEXT = calls.context(ADMIN)

pytestmark = pytest.mark.usefixtures("fresh_database")


def _reason(error: pytest.ExceptionInfo[OstlerError]) -> str:
    return error.value.reason


def _events() -> list[tuple[str, str, str]]:
    return [(row.type, row.outcome, row.resource_name) for row in Event.select().order_by(Event.create_time)]


def test_an_accounts_life() -> None:
    service = AccountService()
    account = service.CreateAccount(account_pb2.CreateAccountRequest(name="acme"), CONTEXT)
    assert service.GetAccount(account_pb2.GetAccountRequest(account="acme"), CONTEXT) == account
    assert list(service.ListAccounts(account_pb2.ListAccountsRequest(), CONTEXT).accounts) == [account]
    with pytest.raises(AlreadyExistsError):
        service.CreateAccount(account_pb2.CreateAccountRequest(name="acme"), CONTEXT)
    member = calls.user("m", Account.get())
    with pytest.raises(FailedPreconditionError, match="1 users") as caught:
        service.DeleteAccount(account_pb2.DeleteAccountRequest(account="acme"), CONTEXT)
    assert _reason(caught) == "NOT_EMPTY"
    Account.create(name="other")
    seen = service.ListAccounts(account_pb2.ListAccountsRequest(), calls.context(member)).accounts
    assert [row.name for row in seen] == ["acme"]
    service.DeleteAccount(account_pb2.DeleteAccountRequest(account="other"), CONTEXT)
    assert _events() == [("account.create", "succeeded", "acme"), ("account.delete", "succeeded", "other")]


def test_a_zone_and_its_clusters() -> None:
    zones, clusters = ZoneService(), ClusterService()
    zone = zones.CreateZone(zone_pb2.CreateZoneRequest(name="east"), CONTEXT)
    other = zones.CreateZone(zone_pb2.CreateZoneRequest(name="west"), CONTEXT)
    cluster = clusters.CreateCluster(zone_pb2.CreateClusterRequest(name="c1", zone="east", cpu_overcommit=4), CONTEXT)
    assert (cluster.cpu_overcommit, cluster.memory_overcommit, cluster.enabled, cluster.zone_name) == (
        4.0,
        1.0,
        True,
        "east",
    )
    clusters.CreateCluster(zone_pb2.CreateClusterRequest(name="c1", zone=other.id), CONTEXT)
    with pytest.raises(AlreadyExistsError):
        clusters.CreateCluster(zone_pb2.CreateClusterRequest(name="c1", zone="east"), CONTEXT)
    with pytest.raises(FailedPreconditionError) as ambiguous:
        clusters.GetCluster(zone_pb2.GetClusterRequest(cluster="c1"), CONTEXT)
    assert _reason(ambiguous) == "AMBIGUOUS_NAME"
    found = clusters.ListClusters(zone_pb2.ListClustersRequest(zone="east"), CONTEXT).clusters
    assert [row.id for row in found] == [cluster.id]
    with pytest.raises(FailedPreconditionError, match="1 cluster"):
        zones.DeleteZone(zone_pb2.DeleteZoneRequest(zone="east"), CONTEXT)
    Host.create(name="h", address="x", cluster=cluster.id)
    Host.create(name="old", address="x", cluster=cluster.id, removed=True)
    assert clusters.GetCluster(zone_pb2.GetClusterRequest(cluster=cluster.id), CONTEXT).host_count == 1
    with pytest.raises(FailedPreconditionError, match="1 host"):
        clusters.DeleteCluster(zone_pb2.DeleteClusterRequest(cluster=cluster.id), CONTEXT)
    Host.update(removed=True).execute()
    Pool.create(name="p", type="nfs", scope="cluster", scope_id=cluster.id)
    with pytest.raises(FailedPreconditionError, match="1 pool"):
        clusters.DeleteCluster(zone_pb2.DeleteClusterRequest(cluster=cluster.id), CONTEXT)
    Pool.delete().execute()
    clusters.DeleteCluster(zone_pb2.DeleteClusterRequest(cluster=cluster.id), CONTEXT)
    zones.DeleteZone(zone_pb2.DeleteZoneRequest(zone=zone.id), CONTEXT)
    assert [row.name for row in zones.ListZones(zone_pb2.ListZonesRequest(), CONTEXT).zones] == ["west"]


def test_a_cluster_changes_only_what_the_mask_names() -> None:
    row = Cluster.create(name="c1", zone=Zone.create(name="z"), cpu_overcommit=2.0)
    request = zone_pb2.UpdateClusterRequest(
        cluster=row.id,
        values=zone_pb2.Cluster(name="c2", cpu_overcommit=8.0, enabled=False),
        update_mask=FieldMask(paths=["name", "enabled"]),
    )
    changed = ClusterService().UpdateCluster(request, CONTEXT)
    assert (changed.name, changed.enabled, changed.cpu_overcommit) == ("c2", False, 2.0)
    Cluster.create(name="taken", zone=row.zone)
    request.values.name = "taken"
    with pytest.raises(AlreadyExistsError):
        ClusterService().UpdateCluster(request, CONTEXT)


@pytest.mark.parametrize("overcommit", [0.5, -1.0, 1000.0, float("nan"), float("inf")])
def test_an_overcommit_that_makes_no_sense_is_refused(overcommit: float) -> None:
    Zone.create(name="z")
    request = zone_pb2.CreateClusterRequest(name="c", zone="z", memory_overcommit=overcommit)
    with pytest.raises(InvalidArgumentError) as caught:
        ClusterService().CreateCluster(request, CONTEXT)
    assert caught.value.violations[0].field == "memory_overcommit"


def test_service_offerings_retire_and_free_their_name() -> None:
    service = OfferingService()
    request = offering_pb2.CreateServiceOfferingRequest(name="small", cpus=2, memory_bytes=256 * MIB, encrypt_root=True)
    small = service.CreateServiceOffering(request, CONTEXT)
    assert (small.cpus, small.memory_bytes, small.encrypt_root) == (2, 256 * MIB, True)
    with pytest.raises(AlreadyExistsError):
        service.CreateServiceOffering(request, CONTEXT)
    account = Account.create(name="a")
    vm = Vm.create(name="v", account=account, service_offering=small.id, cpus=2, memory_bytes=256 * MIB)
    service.DeleteServiceOffering(offering_pb2.DeleteServiceOfferingRequest(service_offering="small"), CONTEXT)
    with pytest.raises(NotFoundError):
        service.GetServiceOffering(offering_pb2.GetServiceOfferingRequest(service_offering="small"), CONTEXT)
    assert Vm.get_by_id(vm.id).service_offering.name == "small"
    plain = service.CreateServiceOffering(
        offering_pb2.CreateServiceOfferingRequest(name="small", cpus=1, memory_bytes=MIB), CONTEXT
    )
    listed = service.ListServiceOfferings(
        offering_pb2.ListServiceOfferingsRequest(encrypt_root=False), CONTEXT
    ).service_offerings
    assert [row.id for row in listed] == [plain.id]
    encrypting = offering_pb2.ListServiceOfferingsRequest(encrypt_root=True)
    assert not service.ListServiceOfferings(encrypting, CONTEXT).service_offerings
    assert ServiceOffering.select().count() == 2


@pytest.mark.parametrize(
    ("cpus", "memory_bytes", "field"),
    [
        (0, MIB, "cpus"),
        (513, MIB, "cpus"),
        (1, 0, "memory_bytes"),
        (1, MIB + 1, "memory_bytes"),
        (1, 1 << 62, "memory_bytes"),
    ],
)
def test_service_offerings_of_impossible_size(cpus: int, memory_bytes: int, field: str) -> None:
    request = offering_pb2.CreateServiceOfferingRequest(name="x", cpus=cpus, memory_bytes=memory_bytes)
    with pytest.raises(InvalidArgumentError) as caught:
        OfferingService().CreateServiceOffering(request, CONTEXT)
    assert caught.value.violations[0].field == field


def test_disk_offerings() -> None:
    service = OfferingService()
    offering = service.CreateDiskOffering(offering_pb2.CreateDiskOfferingRequest(name="data", encrypt=True), CONTEXT)
    assert (offering.size_bytes, offering.encrypt) == (0, True)
    assert offering.provisioning == volume_pb2.PROVISIONING_THIN
    assert offering.format == volume_pb2.DISK_FORMAT_QCOW2
    thick = service.CreateDiskOffering(
        offering_pb2.CreateDiskOfferingRequest(
            name="thick",
            size_bytes=MIB,
            provisioning=volume_pb2.PROVISIONING_THICK,
            format=volume_pb2.DISK_FORMAT_RAW,
        ),
        CONTEXT,
    )
    assert (thick.provisioning, thick.format) == (volume_pb2.PROVISIONING_THICK, volume_pb2.DISK_FORMAT_RAW)
    listed = service.ListDiskOfferings(offering_pb2.ListDiskOfferingsRequest(encrypt=True), CONTEXT).disk_offerings
    assert [row.name for row in listed] == ["data"]
    service.DeleteDiskOffering(offering_pb2.DeleteDiskOfferingRequest(disk_offering="data"), CONTEXT)
    assert [
        row.name for row in service.ListDiskOfferings(offering_pb2.ListDiskOfferingsRequest(), CONTEXT).disk_offerings
    ] == ["thick"]
    unknown = offering_pb2.CreateDiskOfferingRequest(name="x", format=99)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="DISK_FORMAT_QCOW2"):
        service.CreateDiskOffering(unknown, CONTEXT)


def test_events_are_listed_newest_first_and_members_see_their_accounts_only() -> None:
    account = Account.create(name="a")
    vm_id = new_id()
    events.record("vm.start", events.Outcome.STARTED, "m", "vm", vm_id, "web1", account_id=account.id)
    events.record("vm.start", events.Outcome.FAILED, "m", "vm", vm_id, "web1", "no room", account_id=account.id)
    events.record("vmware.sync", events.Outcome.NOTICED, events.SYSTEM, "vcenter", new_id(), "v")
    events.record("host.up", events.Outcome.NOTICED, events.SYSTEM, "host", new_id(), "h1")
    service = EventService(threading.Event())

    def listed(request: event_pb2.ListEventsRequest, context: grpc.ServicerContext = CONTEXT) -> list[str]:
        return [f"{row.type} {row.outcome}" for row in service.ListEvents(request, context).events]

    assert [line.split()[0] for line in listed(event_pb2.ListEventsRequest())] == [
        "host.up",
        "vmware.sync",
        "vm.start",
        "vm.start",
    ]
    assert len(listed(event_pb2.ListEventsRequest(type="vm"))) == 2
    assert len(listed(event_pb2.ListEventsRequest(type="vm.start", resource_id=vm_id))) == 2
    member = calls.context(calls.user("m", account))
    assert len(listed(event_pb2.ListEventsRequest(), member)) == 2
    stranger = calls.context(calls.user("s", Account.create(name="b")))
    assert listed(event_pb2.ListEventsRequest(resource_id=vm_id), stranger) == []
    later = Timestamp()
    later.FromDatetime(now() + datetime.timedelta(minutes=1))
    assert listed(event_pb2.ListEventsRequest(start_time=later)) == []
