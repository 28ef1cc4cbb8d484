"""Who may call what on the main port. A method that is not in the table is nobody's."""

from __future__ import annotations

from collections.abc import Mapping

from ostler_common.errors import PermissionDeniedError, UnauthenticatedError
from ostler_common.identity import Identity, Kind
from ostler_common.tls import Peer
from peewee import JOIN, fn

from ostler_control.caller import Caller, Role
from ostler_control.database import session
from ostler_control.models import Certificate, Host, User, now
from ostler_control.prepared import Prepared
from ostler_control.trust import certificates

_ADMINS = frozenset({Role.ADMIN})
_USERS = frozenset({Role.ADMIN, Role.MEMBER})
_HOSTS = frozenset({Role.HOST})
_ALL = _ADMINS | _USERS | _HOSTS


def _service(name: str, methods: Mapping[str, frozenset[Role]]) -> dict[str, frozenset[Role]]:
    return {f"/{name}/{method}": roles for method, roles in methods.items()}


# Members see and change only what their account owns: the handlers of these methods look at the caller for that.
TABLE: Mapping[str, frozenset[Role]] = {
    **_service(
        "ostler.control.v1.AccountService",
        {"CreateAccount": _ADMINS, "GetAccount": _USERS, "ListAccounts": _USERS, "DeleteAccount": _ADMINS},
    ),
    **_service(
        "ostler.control.v1.UserService",
        {
            "CreateUser": _ADMINS,
            "GetUser": _ADMINS,
            "ListUsers": _ADMINS,
            "RevokeUser": _ADMINS,
            "IssueUserCertificate": _USERS,
            "DeleteUser": _ADMINS,
            "WhoAmI": _USERS,
        },
    ),
    **_service(
        "ostler.control.v1.AffinityService",
        {
            "CreateAffinityGroup": _USERS,
            "GetAffinityGroup": _USERS,
            "ListAffinityGroups": _USERS,
            "SetAffinityGroupHosts": _ADMINS,
            "DeleteAffinityGroup": _USERS,
        },
    ),
    **_service(
        "ostler.control.v1.BackupService",
        {
            "CreateBackupStore": _ADMINS,
            "ListBackupStores": _ADMINS,
            "DeleteBackupStore": _ADMINS,
            "SetBackupStoreKey": _ADMINS,
            "CreateBackup": _USERS,
            "CreateBackupSchedule": _USERS,
            "ListBackupSchedules": _USERS,
            "DeleteBackupSchedule": _USERS,
            "GetBackup": _USERS,
            "ListBackups": _USERS,
            "VerifyBackup": _USERS,
            "DeleteBackup": _USERS,
            "RestoreVm": _USERS,
            "RestoreVmOver": _USERS,
            "RestoreVolume": _USERS,
            "ReadBackupFiles": _USERS,
        },
    ),
    **_service(
        "ostler.control.v1.DrsService",
        {
            "GeneratePlan": _ADMINS,
            "GenerateReturnPlan": _ADMINS,
            "GetPlan": _ADMINS,
            "ListPlans": _ADMINS,
            "ExecutePlan": _ADMINS,
            "ExecuteMapping": _ADMINS,
            "CancelPlan": _ADMINS,
            "GetClusterStatus": _ADMINS,
            "GetPowerPlan": _ADMINS,
            "GetStoragePlan": _ADMINS,
            "ExecuteStoragePlan": _ADMINS,
            "ListAlgorithms": _ADMINS,
        },
    ),
    **_service(
        "ostler.control.v1.HaService",
        {
            "SetPriority": _ADMINS,
            "GetHaStatus": _ADMINS,
            "AddFenceDevice": _ADMINS,
            "ListFenceDevices": _ADMINS,
            "TestFenceDevice": _ADMINS,
            "RemoveFenceDevice": _ADMINS,
            "DeclareHostDead": _ADMINS,
            "PowerOffHost": _ADMINS,
            "PowerOnHost": _ADMINS,
        },
    ),
    **_service("ostler.control.v1.HostAgentService", {"RenewCertificate": _HOSTS, "DownloadTemplate": _HOSTS}),
    **_service(
        "ostler.control.v1.EventService", {"ListEvents": _USERS, "WatchEvents": _USERS, "VerifyEvents": _ADMINS}
    ),
    **_service(
        "ostler.control.v1.HostService",
        {
            "CreateJoinToken": _ADMINS,
            "GetHost": _ADMINS,
            "ListHosts": _ADMINS,
            "UpdateHost": _ADMINS,
            "ProbeHost": _ADMINS,
            "EnterMaintenance": _ADMINS,
            "LeaveMaintenance": _ADMINS,
            "RemoveHost": _ADMINS,
        },
    ),
    **_service(
        "ostler.control.v1.ExtraConfigService",
        {"SetExtraConfig": _USERS, "ListExtraConfigs": _USERS, "RemoveExtraConfig": _USERS},
    ),
    **_service("ostler.control.v1.HypervisorService", {"GetHypervisorType": _ADMINS, "ListHypervisorTypes": _ADMINS}),
    **_service(
        "ostler.control.v1.ImportService",
        {
            "CreateImportSource": _ADMINS,
            "GetImportSource": _ADMINS,
            "ListImportSources": _ADMINS,
            "UpdateImportSource": _ADMINS,
            "DeleteImportSource": _ADMINS,
            "ListSourceVms": _ADMINS,
            "CheckImport": _ADMINS,
            "ImportVm": _ADMINS,
            "CutOverImport": _ADMINS,
            "ImportFiles": _ADMINS,
            "GetImportFiles": _ADMINS,
            "UploadImportFile": _ADMINS,
            "ImportVolume": _ADMINS,
        },
    ),
    **_service(
        "ostler.control.v1.ImportPlanService",
        {
            "ValidateImportPlan": _ADMINS,
            "CreateImportPlan": _ADMINS,
            "GetImportPlan": _ADMINS,
            "ListImportPlans": _ADMINS,
            "CheckImportPlan": _ADMINS,
            "StartImportPlan": _ADMINS,
            "PauseImportPlan": _ADMINS,
            "ResumeImportPlan": _ADMINS,
            "RetryImportPlan": _ADMINS,
            "CancelImportPlan": _ADMINS,
            "DeleteImportPlan": _ADMINS,
        },
    ),
    **_service(
        "ostler.control.v1.IsoService",
        {"UploadIso": _ADMINS, "GetIso": _USERS, "ListIsos": _USERS, "DeleteIso": _ADMINS},
    ),
    **_service(
        "ostler.control.v1.KeyService",
        {"ListKeys": _ADMINS, "RotateKey": _ADMINS, "DeleteKey": _ADMINS, "BackupKeys": _ADMINS, "VerifyKeys": _ADMINS},
    ),
    **_service("ostler.control.v1.LabelService", {"UpdateLabels": _USERS}),
    **_service(
        "ostler.control.v1.NetworkService",
        {
            "CreateNetwork": _ADMINS,
            "GetNetwork": _USERS,
            "ListNetworks": _USERS,
            "UpdateNetwork": _ADMINS,
            "DeleteNetwork": _ADMINS,
        },
    ),
    **_service(
        "ostler.control.v1.OfferingService",
        {
            "CreateServiceOffering": _ADMINS,
            "GetServiceOffering": _USERS,
            "ListServiceOfferings": _USERS,
            "UpdateServiceOffering": _ADMINS,
            "DeleteServiceOffering": _ADMINS,
            "CreateDiskOffering": _ADMINS,
            "GetDiskOffering": _USERS,
            "ListDiskOfferings": _USERS,
            "DeleteDiskOffering": _ADMINS,
        },
    ),
    **_service(
        "ostler.control.v1.PoolService",
        {
            "CreatePool": _ADMINS,
            "SetPoolPassword": _ADMINS,
            "GetPool": _ADMINS,
            "ListPools": _ADMINS,
            "DeletePool": _ADMINS,
        },
    ),
    **_service(
        "ostler.control.v1.SettingService",
        {"ListSettings": _ADMINS, "GetSetting": _ADMINS, "UpdateSetting": _ADMINS, "ResetSetting": _ADMINS},
    ),
    **_service(
        "ostler.control.v1.TemplateService",
        {
            "UploadTemplate": _ADMINS,
            "GetTemplate": _USERS,
            "ListTemplates": _USERS,
            "DeleteTemplate": _ADMINS,
            "CreateTemplate": _ADMINS,
            "RegisterTemplate": _ADMINS,
            "UpdateTemplate": _ADMINS,
        },
    ),
    **_service(
        "ostler.control.v1.UserDataService",
        {
            "RegisterUserData": _USERS,
            "GetUserData": _USERS,
            "ListUserData": _USERS,
            "DeleteUserData": _USERS,
            "RenderUserData": _USERS,
        },
    ),
    **_service(
        "ostler.control.v1.VmService",
        {
            "CreateVm": _USERS,
            "CloneVm": _USERS,
            "GetVm": _USERS,
            "ListVms": _USERS,
            "UpdateVm": _USERS,
            "StartVm": _USERS,
            "StopVm": _USERS,
            "RebootVm": _USERS,
            "ResizeVm": _USERS,
            "MigrateVm": _ADMINS,
            "DeleteVm": _USERS,
            "AdoptVm": _ADMINS,
            "UnmanageVm": _ADMINS,
            "ReinstallVm": _USERS,
            "AddNic": _USERS,
            "RemoveNic": _USERS,
            "SetNicLink": _USERS,
            "SetFirmware": _USERS,
            "UpgradeMachine": _USERS,
            "AttachIso": _USERS,
            "EjectIso": _USERS,
            "FindHosts": _ADMINS,
            "Console": _USERS,
            "ReadConsoleLog": _USERS,
            "Screen": _USERS,
            "SendKey": _USERS,
            "ReadGuestInfo": _USERS,
            "SyncGuestTime": _USERS,
            "SetGuestPassword": _USERS,
            "SetGuestSshKeys": _USERS,
            "Screenshot": _USERS,
        },
    ),
    **_service(
        "ostler.control.v1.VolumeService",
        {
            "CreateVolume": _USERS,
            "GetVolume": _USERS,
            "ListVolumes": _USERS,
            "GrowVolume": _USERS,
            "AttachVolume": _USERS,
            "DetachVolume": _USERS,
            "DeleteVolume": _USERS,
            "ForgetVolume": _ADMINS,
            "RekeyVolume": _USERS,
            "EncryptVolume": _USERS,
            "MigrateVolume": _ADMINS,
            "LimitVolume": _ADMINS,
            "ChangeVolumeOffering": _USERS,
            "CopyVolume": _USERS,
            "DownloadVolume": _USERS,
            "UploadVolume": _USERS,
        },
    ),
    **_service(
        "ostler.control.v1.SnapshotService",
        {
            "CreateSnapshot": _USERS,
            "GetSnapshot": _USERS,
            "ListSnapshots": _USERS,
            "DeleteSnapshot": _USERS,
            "ForgetSnapshot": _ADMINS,
            "RevertVolume": _USERS,
            "CreateSnapshotSchedule": _USERS,
            "ListSnapshotSchedules": _USERS,
            "DeleteSnapshotSchedule": _USERS,
        },
    ),
    **_service(
        "ostler.control.v1.VmSnapshotService",
        {
            "CreateVmSnapshot": _USERS,
            "GetVmSnapshot": _USERS,
            "ListVmSnapshots": _USERS,
            "DeleteVmSnapshot": _USERS,
            "RevertVm": _USERS,
            "CreateVmSnapshotSchedule": _USERS,
            "ListVmSnapshotSchedules": _USERS,
            "DeleteVmSnapshotSchedule": _USERS,
        },
    ),
    **_service(
        "ostler.control.v1.ZoneService",
        {"CreateZone": _ADMINS, "GetZone": _USERS, "ListZones": _USERS, "DeleteZone": _ADMINS},
    ),
    **_service(
        "ostler.control.v1.ClusterService",
        {
            "CreateCluster": _ADMINS,
            "GetCluster": _ADMINS,
            "ListClusters": _ADMINS,
            "UpdateCluster": _ADMINS,
            "DeleteCluster": _ADMINS,
        },
    ),
    **_service(
        "google.longrunning.Operations",
        {
            "ListOperations": _USERS,
            "GetOperation": _USERS,
            "WaitOperation": _USERS,
            "CancelOperation": _USERS,
            "DeleteOperation": _ADMINS,
        },
    ),
    **_service("grpc.health.v1.Health", {"Check": _ALL, "List": _ALL, "Watch": _ALL}),
    **_service("grpc.reflection.v1alpha.ServerReflection", {"ServerReflectionInfo": _USERS}),
}


def authorize(peer: Peer, method: str) -> Caller:
    """Who calls, if the call is allowed: asked for every call of the main port, and nothing is remembered between two.

    Raises UnauthenticatedError when the certificate is not on the list of good ones or its holder is gone;
    PermissionDeniedError when the table does not let such a caller call the method.
    """
    with session():
        caller = _caller(peer)
    if caller.role not in TABLE.get(method, frozenset()):
        raise PermissionDeniedError(
            f"{caller.role} {caller.name} may not call {method.rpartition('/')[2]}",
            "NOT_ALLOWED",
            {"role": str(caller.role), "method": method},
        )
    return caller


# A certificate that is good now and its holder, with "" for what there is not: one statement, for every call asks it.
_HOLDER = Prepared(
    lambda value: (
        Certificate.select(
            *(Certificate.ca, Certificate.kind, Certificate.name),
            *(fn.COALESCE(column, "") for column in (User.name, User.role, User.account, Host.name)),
        )
        .join(User, JOIN.LEFT_OUTER, on=(User.id == Certificate.name))
        .join(Host, JOIN.LEFT_OUTER, on=(Host.id == Certificate.name) & ~Host.removed)
        .where(certificates.good(value("serial"), value("now")))
    )
)


def _caller(peer: Peer) -> Caller:
    found = None
    if peer.serial is not None:
        found = _HOLDER.first(tuple[str, ...], serial=certificates.text_of(peer.serial), now=now())
    if found is None or Identity(Kind(found[1]), found[2]) != peer.identity:
        raise UnauthenticatedError(
            "the client certificate is not accepted: never issued, revoked or expired (ask an admin for a new one)",
            "BAD_CERTIFICATE",
        )
    ca, kind, holder_id, user, role, account_id, host = found
    if kind == Kind.USER and ca == certificates.USERS and user:
        return Caller(Role(role), holder_id, user, account_id)
    if kind == Kind.HOST and ca == certificates.FLEET and host:
        return Caller(Role.HOST, holder_id, host)
    raise UnauthenticatedError(f"{kind} {holder_id} is unknown", "UNKNOWN_CALLER")
