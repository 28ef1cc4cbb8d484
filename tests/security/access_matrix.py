"""Who but an admin may call what: the expectation that the control plane's table is held against.

A method that is missing here is the admins' alone. Members act on what their account owns only
(`test_strangers.py`).
"""

from __future__ import annotations

from collections.abc import Mapping

MEMBERS: Mapping[str, frozenset[str]] = {
    "AccountService": frozenset({"GetAccount", "ListAccounts"}),
    "AffinityService": frozenset(
        {"CreateAffinityGroup", "DeleteAffinityGroup", "GetAffinityGroup", "ListAffinityGroups"}
    ),
    "BackupService": frozenset(
        {
            "CreateBackup",
            "CreateBackupSchedule",
            "DeleteBackup",
            "DeleteBackupSchedule",
            "GetBackup",
            "ListBackupSchedules",
            "ListBackups",
            "ReadBackupFiles",
            "RestoreVm",
            "RestoreVmOver",
            "RestoreVolume",
            "VerifyBackup",
        }
    ),
    "EventService": frozenset({"ListEvents", "WatchEvents"}),
    "ExtraConfigService": frozenset({"ListExtraConfigs", "RemoveExtraConfig", "SetExtraConfig"}),
    "IsoService": frozenset({"GetIso", "ListIsos"}),
    "LabelService": frozenset({"UpdateLabels"}),
    "NetworkService": frozenset({"GetNetwork", "ListNetworks"}),
    "OfferingService": frozenset(
        {"GetDiskOffering", "GetServiceOffering", "ListDiskOfferings", "ListServiceOfferings"}
    ),
    "SnapshotService": frozenset(
        {
            "CreateSnapshot",
            "CreateSnapshotSchedule",
            "DeleteSnapshot",
            "DeleteSnapshotSchedule",
            "GetSnapshot",
            "ListSnapshotSchedules",
            "ListSnapshots",
            "RevertVolume",
        }
    ),
    "TemplateService": frozenset({"GetTemplate", "ListTemplates"}),
    "UserDataService": frozenset(
        {"DeleteUserData", "GetUserData", "ListUserData", "RegisterUserData", "RenderUserData"}
    ),
    "UserService": frozenset({"IssueUserCertificate", "WhoAmI"}),
    "VmSnapshotService": frozenset(
        {
            "CreateVmSnapshot",
            "CreateVmSnapshotSchedule",
            "DeleteVmSnapshot",
            "DeleteVmSnapshotSchedule",
            "GetVmSnapshot",
            "ListVmSnapshotSchedules",
            "ListVmSnapshots",
            "RevertVm",
        }
    ),
    "VmService": frozenset(
        {
            "AddNic",
            "AttachIso",
            "CloneVm",
            "Console",
            "CreateVm",
            "DeleteVm",
            "EjectIso",
            "GetVm",
            "ListVms",
            "ReadConsoleLog",
            "ReadGuestInfo",
            "RebootVm",
            "ReinstallVm",
            "RemoveNic",
            "ResizeVm",
            "Screen",
            "Screenshot",
            "SendKey",
            "SetFirmware",
            "SetGuestPassword",
            "SetGuestSshKeys",
            "SetNicLink",
            "StartVm",
            "StopVm",
            "SyncGuestTime",
            "UpdateVm",
            "UpgradeMachine",
        }
    ),
    "VolumeService": frozenset(
        {
            "AttachVolume",
            "ChangeVolumeOffering",
            "CopyVolume",
            "CreateVolume",
            "DeleteVolume",
            "DetachVolume",
            "DownloadVolume",
            "EncryptVolume",
            "GetVolume",
            "GrowVolume",
            "ListVolumes",
            "RekeyVolume",
            "UploadVolume",
        }
    ),
    "ZoneService": frozenset({"GetZone", "ListZones"}),
    "google.longrunning.Operations": frozenset({"CancelOperation", "GetOperation", "ListOperations", "WaitOperation"}),
    "grpc.health.v1.Health": frozenset({"Check", "List", "Watch"}),
    "grpc.reflection.v1alpha.ServerReflection": frozenset({"ServerReflectionInfo"}),
}

HOSTS: Mapping[str, frozenset[str]] = {
    "HostAgentService": frozenset({"DownloadTemplate", "RenewCertificate"}),
    "grpc.health.v1.Health": frozenset({"Check", "List", "Watch"}),
}
