"""An object of each kind that has labels, with as few rows as it needs, and the call that lists them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import TypeVar, cast

import grpc
from google.protobuf.message import Message
from ostler.control.v1 import (
    account_pb2,
    affinity_pb2,
    backup_pb2,
    host_pb2,
    import_pb2,
    import_plan_pb2,
    iso_pb2,
    key_pb2,
    network_pb2,
    offering_pb2,
    pool_pb2,
    snapshot_pb2,
    template_pb2,
    userdata_pb2,
    vm_pb2,
    vm_snapshot_pb2,
    volume_pb2,
    zone_pb2,
)
from ostler_control.api.accounts import AccountService
from ostler_control.api.affinity import AffinityService
from ostler_control.api.backups import BackupService
from ostler_control.api.hosts import HostService
from ostler_control.api.import_plans import ImportPlanService
from ostler_control.api.imports import ImportService
from ostler_control.api.isos import IsoService
from ostler_control.api.keys import KeyService
from ostler_control.api.networks import NetworkService
from ostler_control.api.offerings import OfferingService
from ostler_control.api.pools import PoolService
from ostler_control.api.snapshots import SnapshotService
from ostler_control.api.templates import TemplateService
from ostler_control.api.userdata import UserDataService
from ostler_control.api.users import UserService
from ostler_control.api.vm_snapshots import VmSnapshotService
from ostler_control.api.vms import VmService
from ostler_control.api.volumes import VolumeService
from ostler_control.api.zones import ClusterService, ZoneService
from ostler_control.keys import Keyring
from ostler_control.models import (
    Account,
    AffinityGroup,
    Backup,
    BackupSchedule,
    BaseModel,
    Cluster,
    DiskOffering,
    Host,
    ImportPlan,
    ImportSource,
    Iso,
    Kek,
    Network,
    Passphrase,
    Pool,
    ServiceOffering,
    Snapshot,
    SnapshotSchedule,
    Template,
    User,
    UserData,
    Vm,
    VmSnapshot,
    VmSnapshotSchedule,
    Volume,
    Zone,
    new_id,
    now,
)

MIB = 1 << 20
_S = TypeVar("_S")


def name() -> str:
    """One that nothing has yet."""
    return f"x{new_id()[:8]}"


def account() -> Account:
    return Account.create(name=name())


def zone(_: Account) -> Zone:
    return Zone.create(name=name())


def cluster(owner: Account) -> Cluster:
    return Cluster.create(name=name(), zone=zone(owner))


def pool(owner: Account) -> Pool:
    place = zone(owner)
    return Pool.create(name=name(), type="nfs", path="/p", scope="zone", scope_id=place.id)


def service_offering(_: Account) -> ServiceOffering:
    return ServiceOffering.create(name=name(), cpus=1, memory_bytes=MIB)


def vm(owner: Account) -> Vm:
    offering = service_offering(owner)
    return Vm.create(name=name(), account=owner, service_offering=offering, cpus=1, memory_bytes=MIB)


def volume(owner: Account) -> Volume:
    return Volume.create(name=name(), account=owner, pool=pool(owner), size_bytes=MIB)


def snapshot(owner: Account) -> Snapshot:
    of = volume(owner)
    return Snapshot.create(name=name(), account=owner, volume_id=of.id, pool=of.pool, size_bytes=MIB)


def passphrase() -> Passphrase:
    kek = Kek.get_or_none() or Kek.create(id="file:1", name="file:1", current=True)
    return Passphrase.create(kek=kek, sealed=b"x", bound_id=new_id())


def user_data(owner: Account) -> UserData:
    return UserData.create(
        name=name(), account=owner, format="script", size_bytes=1, passphrase=passphrase(), sealed=b"x"
    )


MAKERS: Mapping[str, Callable[[Account], BaseModel]] = {
    "vm": vm,
    "volume": volume,
    "snapshot": snapshot,
    "vm_snapshot": lambda a: VmSnapshot.create(name=name(), account=a, vm_id=new_id(), vm_name="web"),
    "backup": lambda a: Backup.create(
        name=name(), account=a, vm_id=new_id(), vm_name="web", pool=pool(a), definition="{}"
    ),
    "host": lambda a: Host.create(name=name(), address="h:1", cluster=cluster(a)),
    "template": lambda _: Template.create(name=name(), format="raw", virtual_size_bytes=1, file_size_bytes=1),
    "iso": lambda _: Iso.create(name=name(), file_size_bytes=1, sha256="0" * 64),
    "pool": pool,
    "network": lambda a: Network.create(name=name(), zone=zone(a), bridge="br0"),
    "cluster": cluster,
    "zone": zone,
    "service_offering": service_offering,
    "disk_offering": lambda _: DiskOffering.create(name=name()),
    "snapshot_schedule": lambda a: SnapshotSchedule.create(volume=volume(a), interval="daily", keep=1, next_time=now()),
    "vm_snapshot_schedule": lambda a: VmSnapshotSchedule.create(vm=vm(a), interval="daily", keep=1, next_time=now()),
    "backup_schedule": lambda a: BackupSchedule.create(vm=vm(a), interval="daily", keep_last=1, next_time=now()),
    "import_source": lambda _: ImportSource.create(
        name=name(), type="vmware", address="vc", username="root", thumbprint="0" * 64, passphrase=passphrase()
    ),
    "import_plan": lambda _: ImportPlan.create(
        name=name(),
        source_id=new_id(),
        source_name="vc1",
        user="root",
        document="",
        max_vms=1,
        max_per_esxi_host=1,
        max_per_vcenter=1,
        max_per_conversion_host=1,
    ),
    "account": lambda _: account(),
    "user": lambda a: User.create(name=name(), role="member", account=a),
    "key": lambda _: Kek.create(name=name()),
    "user_data": user_data,
    "affinity_group": lambda a: AffinityGroup.create(name=name(), account=a, kind="affinity"),
}


def _bare(service: type[_S]) -> _S:
    """A service for its lists, which need neither agents nor keys."""
    return object.__new__(service)


class _NoKeys:
    """A provider that has lost all keys, so that the list shows what the database knows."""

    def stored_versions(self) -> list[str]:
        return []


# The call, its request and the field of its answer that has the rows.
LISTS: Mapping[str, tuple[object, str, type[Message], str]] = {
    "vm": (_bare(VmService), "ListVms", vm_pb2.ListVmsRequest, "vms"),
    "volume": (_bare(VolumeService), "ListVolumes", volume_pb2.ListVolumesRequest, "volumes"),
    "snapshot": (_bare(SnapshotService), "ListSnapshots", snapshot_pb2.ListSnapshotsRequest, "snapshots"),
    "vm_snapshot": (
        *(_bare(VmSnapshotService), "ListVmSnapshots"),
        *(vm_snapshot_pb2.ListVmSnapshotsRequest, "vm_snapshots"),
    ),
    "backup": (_bare(BackupService), "ListBackups", backup_pb2.ListBackupsRequest, "backups"),
    "host": (_bare(HostService), "ListHosts", host_pb2.ListHostsRequest, "hosts"),
    "template": (_bare(TemplateService), "ListTemplates", template_pb2.ListTemplatesRequest, "templates"),
    "iso": (_bare(IsoService), "ListIsos", iso_pb2.ListIsosRequest, "isos"),
    "pool": (_bare(PoolService), "ListPools", pool_pb2.ListPoolsRequest, "pools"),
    "network": (_bare(NetworkService), "ListNetworks", network_pb2.ListNetworksRequest, "networks"),
    "cluster": (_bare(ClusterService), "ListClusters", zone_pb2.ListClustersRequest, "clusters"),
    "zone": (_bare(ZoneService), "ListZones", zone_pb2.ListZonesRequest, "zones"),
    "service_offering": (
        *(_bare(OfferingService), "ListServiceOfferings"),
        *(offering_pb2.ListServiceOfferingsRequest, "service_offerings"),
    ),
    "disk_offering": (
        *(_bare(OfferingService), "ListDiskOfferings"),
        *(offering_pb2.ListDiskOfferingsRequest, "disk_offerings"),
    ),
    "snapshot_schedule": (
        *(_bare(SnapshotService), "ListSnapshotSchedules"),
        *(snapshot_pb2.ListSnapshotSchedulesRequest, "schedules"),
    ),
    "vm_snapshot_schedule": (
        *(_bare(VmSnapshotService), "ListVmSnapshotSchedules"),
        *(vm_snapshot_pb2.ListVmSnapshotSchedulesRequest, "schedules"),
    ),
    "backup_schedule": (
        *(_bare(BackupService), "ListBackupSchedules"),
        *(backup_pb2.ListBackupSchedulesRequest, "schedules"),
    ),
    "import_source": (_bare(ImportService), "ListImportSources", import_pb2.ListImportSourcesRequest, "sources"),
    "import_plan": (_bare(ImportPlanService), "ListImportPlans", import_plan_pb2.ListImportPlansRequest, "plans"),
    "account": (_bare(AccountService), "ListAccounts", account_pb2.ListAccountsRequest, "accounts"),
    "user": (_bare(UserService), "ListUsers", account_pb2.ListUsersRequest, "users"),
    "key": (
        KeyService(cast("Keyring", SimpleNamespace(provider=_NoKeys()))),
        "ListKeys",
        key_pb2.ListKeysRequest,
        "keys",
    ),
    "user_data": (_bare(UserDataService), "ListUserData", userdata_pb2.ListUserDataRequest, "user_data"),
    "affinity_group": (
        *(_bare(AffinityService), "ListAffinityGroups"),
        *(affinity_pb2.ListAffinityGroupsRequest, "affinity_groups"),
    ),
}


def listed(field: str, selector: str, context: grpc.ServicerContext) -> dict[str, dict[str, str]]:
    """The labels of what a kind's list shows with this selector, by id."""
    service, method, request, rows = LISTS[field]
    call = cast("Callable[[Message, grpc.ServicerContext], object]", getattr(service, method))
    answer = call(request(selector=selector), context)
    return {row.name if field == "key" else row.id: dict(row.labels) for row in getattr(answer, rows)}
