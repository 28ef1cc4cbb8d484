"""Every RPC that changes something leaves an event with its caller's name, or is listed here with the reason why not.

The RPCs come from the table of who may call what, and their answers from the descriptors: a new one fails a test until
it is called here.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ostler_control
import pytest
from google.longrunning import operations_pb2
from google.protobuf import descriptor_pool
from google.protobuf.field_mask_pb2 import FieldMask
from ostler.client import OstlerError
from ostler.control.v1 import (
    account_pb2,
    affinity_pb2,
    backup_pb2,
    drs_pb2,
    ha_pb2,
    host_pb2,
    iso_pb2,
    key_pb2,
    label_pb2,
    network_pb2,
    offering_pb2,
    setting_pb2,
    snapshot_pb2,
    template_pb2,
    userdata_pb2,
    vm_pb2,
    vm_snapshot_pb2,
    volume_pb2,
    zone_pb2,
)
from ostler.types.v1 import volume_pb2 as volume_types
from ostler_agent.tools import iso as iso_tool
from ostler_common import pki
from ostler_control.api.authorization import TABLE
from ostler_control.models import Event, Operation
from ostler_control.operations import records

from tests.consoles import Served, served_site
from tests.fakes.working_agent import Fault

ROOT = Path(__file__).resolve().parents[2]
OPERATION = "google.longrunning.Operation"
ADMIN = "admin"
MIB = 1 << 20

# What only reads, whatever its name.
READ = {
    *(
        "WhoAmI",
        "FindHosts",
        "Screenshot",
        "ReadGuestInfo",
        "RenderUserData",
        "ValidateImportPlan",
        "CheckImport",
        "CheckImportPlan",
    ),
    *("VerifyEvents", "WatchEvents", "VerifyKeys", "WaitOperation", "ReadConsoleLog", "DownloadTemplate"),
    *("ServerReflectionInfo", "Check", "List", "Watch"),
}
# Why a call that changes something needs no event of its own.
NO_EVENT = {
    "ProbeHost": "measures a host again; what comes of it is told when the host's capabilities change",
    "TestFenceDevice": "reads a host's power; only the time and outcome of the test are kept",
    "UploadImportFile": "sends the content of a file that the operation of ImportFiles waits for",
}
# Tests that call what needs a vCenter, a fence device or a joined host, and look for its event.
ELSEWHERE = {
    "CreateImportSource": ("tests/unit/imports/test_service.py", "import-source.create"),
    "UpdateImportSource": ("tests/unit/imports/test_service.py", "import-source.update"),
    "DeleteImportSource": ("tests/unit/imports/test_service.py", "import-source.delete"),
    "CutOverImport": ("tests/unit/imports/test_warm_import.py", "vm.import.cut-over"),
    "CreateImportPlan": ("tests/unit/imports/waves/test_waves.py", "import-plan.create"),
    "PauseImportPlan": ("tests/unit/imports/waves/test_waves.py", "import-plan.pause"),
    "CancelImportPlan": ("tests/unit/imports/waves/test_waves.py", "import-plan.cancel"),
    "DeleteImportPlan": ("tests/unit/imports/waves/test_waves.py", "import-plan.delete"),
    "AddFenceDevice": ("tests/security/test_fencing.py", "fence.add"),
    "RemoveFenceDevice": ("tests/security/test_fencing.py", "fence.remove"),
    "ReadBackupFiles": ("tests/unit/control/test_backup_files.py", "backup.read-files"),
    "ForgetVolume": ("tests/security/test_lost_storage.py", "volume.forget"),
    "ForgetSnapshot": ("tests/security/test_lost_storage.py", "snapshot.forget"),
    "RenewCertificate": ("tests/unit/control/test_trust.py", "host.renew"),
    "CreatePool": ("tests/unit/control/test_fleet.py", "pool.create"),
    "CreateBackupStore": ("tests/unit/control/test_fleet.py", "pool.create"),
    "SetBackupStoreKey": ("tests/unit/control/test_fleet.py", "pool.set-access-key"),
    "DeleteBackupStore": ("tests/unit/control/test_fleet.py", "pool.delete"),
    "SetPoolPassword": ("tests/unit/control/test_fleet.py", "pool.set-password"),
    "DeletePool": ("tests/unit/control/test_fleet.py", "pool.delete"),
    "RegisterTemplate": ("tests/unit/control/test_work_services.py", "template.register"),
    "SetExtraConfig": ("tests/unit/control/test_extra_config_life.py", "vm.extraconfig.set"),
    "RemoveExtraConfig": ("tests/unit/control/test_extra_config_life.py", "vm.extraconfig.remove"),
    "CancelPlan": ("tests/unit/control/test_drs_plans.py", "drs.cancel"),
    "GenerateReturnPlan": ("tests/unit/control/test_drs_plans.py", "drs.generate"),
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served_site(tmp_path_factory.mktemp("site")) as served:
        yield served


def mask(*paths: str) -> FieldMask:
    return FieldMask(paths=paths)


def csr() -> bytes:
    return pki.new_key_and_csr(None)[1]


def calls(served: Served) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Calls in an order in which each succeeds: the name of the RPC, and what calls it."""
    client = served.client
    yield "CreateAccount", lambda: client.accounts.CreateAccount(account_pb2.CreateAccountRequest(name="shop"))
    user = account_pb2.CreateUserRequest(name="mia", role=account_pb2.User.MEMBER, account="shop", csr_pem=csr())
    yield "CreateUser", lambda: client.users.CreateUser(user)
    issue = account_pb2.IssueUserCertificateRequest(user="mia", csr_pem=csr())
    yield "IssueUserCertificate", lambda: client.users.IssueUserCertificate(issue)
    yield "RevokeUser", lambda: client.users.RevokeUser(account_pb2.RevokeUserRequest(user="mia"))
    yield "DeleteUser", lambda: client.users.DeleteUser(account_pb2.DeleteUserRequest(user="mia"))
    yield "DeleteAccount", lambda: client.accounts.DeleteAccount(account_pb2.DeleteAccountRequest(account="shop"))

    yield "CreateZone", lambda: client.zones.CreateZone(zone_pb2.CreateZoneRequest(name="north"))
    cluster = zone_pb2.CreateClusterRequest(name="web", zone="north")
    yield "CreateCluster", lambda: client.clusters.CreateCluster(cluster)
    update = zone_pb2.UpdateClusterRequest(
        cluster="web", values=zone_pb2.Cluster(cpu_overcommit=2), update_mask=mask("cpu_overcommit")
    )
    yield "UpdateCluster", lambda: client.clusters.UpdateCluster(update)
    token = host_pb2.CreateJoinTokenRequest(cluster="web")
    yield "CreateJoinToken", lambda: client.hosts.CreateJoinToken(token)
    yield "DeleteCluster", lambda: client.clusters.DeleteCluster(zone_pb2.DeleteClusterRequest(cluster="web"))
    yield "DeleteZone", lambda: client.zones.DeleteZone(zone_pb2.DeleteZoneRequest(zone="north"))

    network = network_pb2.CreateNetworkRequest(name="back", zone="zone", bridge="br0", vlan=7)
    yield "CreateNetwork", lambda: client.networks.CreateNetwork(network)
    wider = network_pb2.UpdateNetworkRequest(
        network="back", values=network_pb2.Network(all_accounts=True), update_mask=mask("all_accounts")
    )
    yield "UpdateNetwork", lambda: client.networks.UpdateNetwork(wider)
    yield "DeleteNetwork", lambda: client.networks.DeleteNetwork(network_pb2.DeleteNetworkRequest(network="back"))

    offering = offering_pb2.CreateServiceOfferingRequest(name="tall", cpus=1, memory_bytes=1 << 30)
    yield "CreateServiceOffering", lambda: client.offerings.CreateServiceOffering(offering)
    detailed = offering_pb2.UpdateServiceOfferingRequest(
        service_offering="tall", values=offering_pb2.ServiceOffering(details={}), update_mask=mask("details")
    )
    yield "UpdateServiceOffering", lambda: client.offerings.UpdateServiceOffering(detailed)
    gone = offering_pb2.DeleteServiceOfferingRequest(service_offering="tall")
    yield "DeleteServiceOffering", lambda: client.offerings.DeleteServiceOffering(gone)
    disk = offering_pb2.CreateDiskOfferingRequest(name="wide")
    yield "CreateDiskOffering", lambda: client.offerings.CreateDiskOffering(disk)
    lost = offering_pb2.DeleteDiskOfferingRequest(disk_offering="wide")
    yield "DeleteDiskOffering", lambda: client.offerings.DeleteDiskOffering(lost)

    setting = setting_pb2.UpdateSettingRequest(name="event.retention", value="30")
    yield "UpdateSetting", lambda: client.settings.UpdateSetting(setting)
    yield "ResetSetting", lambda: client.settings.ResetSetting(setting_pb2.ResetSettingRequest(name="event.retention"))

    header = template_pb2.UploadTemplateRequest.Header(
        name="raw",
        format=volume_types.DISK_FORMAT_RAW,
        file_size_bytes=MIB,
        sha256=hashlib.sha256(bytes(MIB)).hexdigest(),
    )
    pieces = [template_pb2.UploadTemplateRequest(header=header), template_pb2.UploadTemplateRequest(data=bytes(MIB))]
    yield "UploadTemplate", lambda: client.templates.UploadTemplate(iter(pieces))
    data = userdata_pb2.RegisterUserDataRequest(name="init", data=b"#cloud-config\n{}\n")
    yield "RegisterUserData", lambda: client.user_data.RegisterUserData(data)
    linked = template_pb2.UpdateTemplateRequest(template="raw", user_data="init")
    yield "UpdateTemplate", lambda: client.templates.UpdateTemplate(linked)
    yield "DeleteTemplate", lambda: client.templates.DeleteTemplate(template_pb2.DeleteTemplateRequest(template="raw"))
    unused = userdata_pb2.DeleteUserDataRequest(user_data="init")
    yield "DeleteUserData", lambda: client.user_data.DeleteUserData(unused)
    data_of_iso = iso_tool.build("drivers", {"readme": b""})
    iso_header = iso_pb2.UploadIsoRequest.Header(name="drivers", file_size_bytes=len(data_of_iso))
    iso_parts = [iso_pb2.UploadIsoRequest(header=iso_header), iso_pb2.UploadIsoRequest(data=data_of_iso)]
    yield "UploadIso", lambda: client.isos.UploadIso(iter(iso_parts))
    yield "DeleteIso", lambda: client.isos.DeleteIso(iso_pb2.DeleteIsoRequest(iso="drivers"))
    backup = key_pb2.BackupKeysRequest(wrapping_key=bytes(32), salt=bytes(16), n=1 << 14, r=8, p=1)
    yield "BackupKeys", lambda: client.keys.BackupKeys(backup)

    group = affinity_pb2.CreateAffinityGroupRequest(name="there", kind=affinity_pb2.AffinityGroup.RUN_ON, hosts=["h1"])
    yield "CreateAffinityGroup", lambda: client.affinity.CreateAffinityGroup(group)
    hosts = affinity_pb2.SetAffinityGroupHostsRequest(group="there", hosts=["h1", "h2"])
    yield "SetAffinityGroupHosts", lambda: client.affinity.SetAffinityGroupHosts(hosts)
    ungroup = affinity_pb2.DeleteAffinityGroupRequest(group="there")
    yield "DeleteAffinityGroup", lambda: client.affinity.DeleteAffinityGroup(ungroup)

    vm = served.create_vm("web")
    [volume] = [volume.volume_id for volume in vm.volumes]
    named = vm_pb2.UpdateVmRequest(vm="web", values=vm_pb2.Vm(description="shop"), update_mask=mask("description"))
    yield "UpdateVm", lambda: client.vms.UpdateVm(named)
    yield "UpdateLabels", lambda: client.labels.UpdateLabels(label_pb2.UpdateLabelsRequest(vm="web", set={"a": "b"}))
    yield "Console", lambda: next(client.vms.Console(iter([vm_pb2.ConsoleInput(vm="web")])))
    yield "Screen", lambda: next(client.vms.Screen(iter([vm_pb2.ConsoleInput(vm="web")])))
    yield "SyncGuestTime", lambda: _unheard(lambda: client.vms.SyncGuestTime(vm_pb2.SyncGuestTimeRequest(vm="web")))
    password = vm_pb2.SetGuestPasswordRequest(vm="web", guest_user="root", password=b"correct horse")
    yield "SetGuestPassword", lambda: _unheard(lambda: client.vms.SetGuestPassword(password))
    keys = vm_pb2.SetGuestSshKeysRequest(vm="web", guest_user="root", ssh_keys=[f"ssh-ed25519 {'A' * 68}"])
    yield "SetGuestSshKeys", lambda: _unheard(lambda: client.vms.SetGuestSshKeys(keys))
    yield "SendKey", lambda: client.vms.SendKey(vm_pb2.SendKeyRequest(vm="web", keys="ctrl-alt-del"))
    high = ha_pb2.SetPriorityRequest(vm="web", priority=ha_pb2.PRIORITY_HIGH)
    yield "SetPriority", lambda: client.ha.SetPriority(high)
    schedule = snapshot_pb2.CreateSnapshotScheduleRequest(
        volume=volume, interval=snapshot_pb2.SnapshotSchedule.DAILY, keep=2
    )
    made: list[snapshot_pb2.SnapshotSchedule] = []
    yield "CreateSnapshotSchedule", lambda: made.append(client.snapshots.CreateSnapshotSchedule(schedule))
    yield (
        "DeleteSnapshotSchedule",
        lambda: client.snapshots.DeleteSnapshotSchedule(
            snapshot_pb2.DeleteSnapshotScheduleRequest(schedule=made[0].id)
        ),
    )
    nightly = backup_pb2.CreateBackupScheduleRequest(
        vm="web", interval=backup_pb2.BackupSchedule.DAILY, keep=backup_pb2.BackupRetention(last=2)
    )
    planned: list[backup_pb2.BackupSchedule] = []
    yield "CreateBackupSchedule", lambda: planned.append(client.backups.CreateBackupSchedule(nightly))
    yield (
        "DeleteBackupSchedule",
        lambda: client.backups.DeleteBackupSchedule(backup_pb2.DeleteBackupScheduleRequest(schedule=planned[0].id)),
    )
    hourly = vm_snapshot_pb2.CreateVmSnapshotScheduleRequest(
        vm="web", interval=vm_snapshot_pb2.VmSnapshotSchedule.HOURLY, keep=2
    )
    of_vm: list[vm_snapshot_pb2.VmSnapshotSchedule] = []
    yield (
        "CreateVmSnapshotSchedule",
        lambda: of_vm.append(client.vm_snapshots.CreateVmSnapshotSchedule(hourly)),
    )
    yield (
        "DeleteVmSnapshotSchedule",
        lambda: client.vm_snapshots.DeleteVmSnapshotSchedule(
            vm_snapshot_pb2.DeleteVmSnapshotScheduleRequest(schedule=of_vm[0].id)
        ),
    )
    wanted = volume_pb2.CreateVolumeRequest(name="data", disk_offering="plain", size_bytes=MIB)
    client.wait(client.volumes.CreateVolume(wanted), volume_pb2.Volume)
    download = volume_pb2.DownloadVolumeRequest(volume="data")
    yield "DownloadVolume", lambda: list(client.volumes.DownloadVolume(download))
    client.offerings.CreateDiskOffering(offering_pb2.CreateDiskOfferingRequest(name="other"))
    other = volume_pb2.ChangeVolumeOfferingRequest(volume="data", disk_offering="other")
    yield "ChangeVolumeOffering", lambda: client.volumes.ChangeVolumeOffering(other)

    plan = drs_pb2.GeneratePlanRequest(cluster="cluster")
    yield "GeneratePlan", lambda: client.drs.GeneratePlan(plan)
    off = host_pb2.UpdateHostRequest(host="h3", values=host_pb2.Host(enabled=False), update_mask=mask("enabled"))
    yield "UpdateHost", lambda: client.hosts.UpdateHost(off)
    yield "EnterMaintenance", lambda: client.hosts.EnterMaintenance(host_pb2.EnterMaintenanceRequest(host="h3"))
    yield "LeaveMaintenance", lambda: client.hosts.LeaveMaintenance(host_pb2.LeaveMaintenanceRequest(host="h3"))
    yield "RemoveHost", lambda: client.hosts.RemoveHost(host_pb2.RemoveHostRequest(host="h3"))

    client.wait(client.vms.StopVm(vm_pb2.StopVmRequest(vm="web", force=True)), vm_pb2.Vm)
    upgrade = vm_pb2.UpgradeMachineRequest(vm="web")
    yield "UpgradeMachine", lambda: client.vms.UpgradeMachine(upgrade)
    held = threading.Event()
    for fake in served.site.hosts.values():
        fake.fail("StartVm", Fault(hold=held))
    operation = client.vms.StartVm(vm_pb2.StartVmRequest(vm="web"))
    yield (
        "CancelOperation",
        lambda: client.operations.CancelOperation(operations_pb2.CancelOperationRequest(name=operation.name)),
    )
    held.set()
    client.operations.WaitOperation(operations_pb2.WaitOperationRequest(name=operation.name))
    yield (
        "DeleteOperation",
        lambda: client.operations.DeleteOperation(operations_pb2.DeleteOperationRequest(name=operation.name)),
    )


def changing() -> dict[str, Any]:
    """The names of the RPCs that change something, and their descriptors (none for those that are not Ostler's own)."""
    found: dict[str, Any] = {}
    for path in TABLE:
        service, _, name = path.removeprefix("/").partition("/")
        if name.startswith(("Get", "List")) or name in READ:
            continue
        descriptor = None
        if service.startswith("ostler."):
            descriptor = descriptor_pool.Default().FindServiceByName(service).methods_by_name[name]
        assert name not in found, "two RPCs have one name"
        found[name] = descriptor
    return found


def _unheard(call: Callable[[], object]) -> None:
    """What is asked of a guest without an agent is refused, and recorded all the same."""
    with pytest.raises(OstlerError) as refused:
        call()
    assert refused.value.reason == "GUEST_AGENT_MISSING"


def starts_operation(descriptor: Any) -> bool:
    return descriptor is not None and descriptor.output_type.full_name == OPERATION


def test_every_call_that_changes_something_is_an_event_of_its_caller(served: Served) -> None:
    called = set()
    missing = []
    for name, call in calls(served):
        before = Event.select(Event.id)
        known = {row.id for row in before}
        call()
        new = [row for row in Event.select().where(Event.actor == ADMIN) if row.id not in known]
        called.add(name)
        if not new:
            missing.append(name)
    assert missing == []
    rest = {name for name, descriptor in changing().items() if not starts_operation(descriptor)}
    assert called | set(ELSEWHERE) | set(NO_EVENT) == rest
    assert not called & set(ELSEWHERE)


@pytest.mark.parametrize(("path", "type"), ELSEWHERE.values(), ids=ELSEWHERE)
def test_the_other_tests_look_for_the_event(path: str, type: str) -> None:
    assert f'"{type}"' in (ROOT / path).read_text()


def test_operations_come_into_being_with_their_event_only() -> None:
    """RPCs that answer with an operation need no call here: `record_operation` alone makes the row, and writes the
    event in the same transaction."""
    makers = []
    for path in Path(ostler_control.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                *("Operation.create", "Operation.insert", "Operation.insert_many", "Operation.bulk_create"),
                "Operation",
            ):
                makers.append(path.name)
    assert makers == ["records.py"]
    assert '_event(operation, events.Outcome.STARTED, "")' in inspect.getsource(records.record_operation)


def test_an_operation_that_is_not_recorded_leaves_no_event(served: Served) -> None:
    count = Event.select().count(), Operation.select().count()
    with pytest.raises(OstlerError):
        served.client.vms.CreateVm(vm_pb2.CreateVmRequest(name="web", template="tiny", service_offering="nowhere"))
    request = vm_pb2.CreateVmRequest(name="draft", template="tiny", service_offering="encrypted", validate_only=True)
    served.client.vms.CreateVm(request)
    assert (Event.select().count(), Operation.select().count()) == count
