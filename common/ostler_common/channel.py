"""Channels to servers of ours: TLS, keepalive, and the one place for deadlines and retries."""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Mapping
from typing import Any

import grpc
import grpc.aio

from ostler_common.address import resolve, split_addresses
from ostler_common.pki import CONTROL_SERVER_NAME, host_server_name
from ostler_common.tls import TlsFiles
from ostler_common.tracing_calls import carrying

__all__ = [
    "CONTROL_SERVER_NAME",
    "DEADLINE_S",
    "DEFAULT_DEADLINE_S",
    "RETRIED",
    "TRANSPORT_OPTIONS",
    "host_server_name",
    "open_aio_channel",
    "open_channel",
    "secure_channel",
    "service_config",
]

# Both ends of every connection.
TRANSPORT_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.max_send_message_length", 16 << 20),
    ("grpc.max_metadata_size", 64 << 10),  # an error's details travel as headers
)

# A call ends after this many seconds unless its caller says otherwise.
DEFAULT_DEADLINE_S = 30

# Services and methods that may take longer; None: as long as they like, because keepalive notices when the other side
# is gone, and a job can be cancelled.
DEADLINE_S: Mapping[tuple[str, str], int | None] = {
    ("ostler.agent.v1.AdoptionService", "AdoptVm"): None,
    ("ostler.agent.v1.AdoptionService", "ReleaseVm"): None,
    ("ostler.agent.v1.ConversionService", "ConvertVm"): None,
    ("ostler.agent.v1.ConversionService", "ConvertVolumes"): None,
    ("ostler.agent.v1.ConversionService", "DeleteStaging"): 600,
    ("ostler.agent.v1.ConversionService", "DownloadArchive"): None,
    ("ostler.agent.v1.ConversionService", "ExportVm"): None,
    ("ostler.agent.v1.ConversionService", "InspectStaging"): 600,
    ("ostler.agent.v1.ConversionService", "UploadFile"): None,
    ("ostler.agent.v1.ConversionService", "WriteDisk"): None,
    ("ostler.agent.v1.HostService", "ProbeCapabilities"): 120,
    ("ostler.agent.v1.HostService", "WatchHost"): None,
    ("ostler.agent.v1.JobService", "WatchJob"): None,
    ("ostler.agent.v1.PoolService", "EnsurePool"): 120,
    ("ostler.agent.v1.PoolService", "RemovePool"): 120,
    ("ostler.agent.v1.RemoteKvmService", "CopyRemoteDisks"): None,
    ("ostler.agent.v1.RemoteKvmService", "EndRemoteCopy"): 180,
    ("ostler.agent.v1.RemoteKvmService", "ListRemoteVms"): 180,
    ("ostler.agent.v1.VolumeService", "AdoptVolume"): None,
    ("ostler.agent.v1.VolumeService", "ReleaseVolume"): None,
    ("ostler.agent.v1.VolumeService", "CreateVolume"): None,
    ("ostler.agent.v1.VolumeService", "GrowVolume"): None,
    ("ostler.agent.v1.VolumeService", "DeleteVolume"): None,
    ("ostler.agent.v1.VolumeService", "CopyVolume"): None,
    ("ostler.agent.v1.VolumeService", "CopyDisks"): None,
    ("ostler.agent.v1.VolumeService", "DigestVolume"): None,
    ("ostler.agent.v1.VolumeService", "UploadVolume"): None,
    ("ostler.agent.v1.VolumeService", "MirrorVolume"): None,
    ("ostler.agent.v1.VolumeService", "PivotVolume"): None,
    ("ostler.agent.v1.VolumeService", "CancelMirror"): None,
    ("ostler.agent.v1.VolumeService", "AddVolumeKey"): None,
    ("ostler.agent.v1.VolumeService", "RemoveVolumeKey"): None,
    ("ostler.agent.v1.VolumeService", "ReadVolume"): None,
    ("ostler.agent.v1.VolumeService", "ReadBackupFiles"): None,
    ("ostler.agent.v1.VmService", "DefineVm"): None,
    ("ostler.agent.v1.VmService", "StartVm"): None,
    ("ostler.agent.v1.VmService", "StopVm"): None,
    ("ostler.agent.v1.VmService", "RebootVm"): None,
    ("ostler.agent.v1.VmService", "LimitDisk"): None,
    ("ostler.agent.v1.VmService", "ResizeVm"): None,
    ("ostler.agent.v1.VmService", "SetNicLink"): None,
    ("ostler.agent.v1.VmService", "ChangeCdrom"): None,
    ("ostler.agent.v1.VmService", "DeleteVm"): None,
    ("ostler.agent.v1.VmService", "AttachNic"): None,
    ("ostler.agent.v1.VmService", "DetachNic"): None,
    ("ostler.agent.v1.VmService", "AttachVolume"): None,
    ("ostler.agent.v1.VmService", "DetachVolume"): None,
    ("ostler.agent.v1.VmService", "Console"): None,
    ("ostler.agent.v1.VmService", "ReadConsoleLog"): None,
    ("ostler.agent.v1.VmService", "Screen"): None,
    ("ostler.agent.v1.MigrationService", "PrepareMigration"): None,
    ("ostler.agent.v1.MigrationService", "MigrateVm"): None,
    ("ostler.agent.v1.MigrationService", "FinishMigration"): None,
    ("ostler.control.v1.BackupService", "CreateBackupStore"): 150,
    ("ostler.control.v1.BackupService", "ReadBackupFiles"): None,
    ("ostler.control.v1.DrsService", "GeneratePlan"): 300,
    ("ostler.control.v1.DrsService", "GenerateReturnPlan"): 300,
    ("ostler.control.v1.DrsService", "ExecuteMapping"): 300,
    ("ostler.control.v1.DrsService", "GetClusterStatus"): 300,
    ("ostler.control.v1.EventService", "VerifyEvents"): 600,
    ("ostler.control.v1.EventService", "WatchEvents"): None,
    ("ostler.control.v1.HaService", "AddFenceDevice"): 120,
    ("ostler.control.v1.HaService", "TestFenceDevice"): 120,
    ("ostler.control.v1.HostAgentService", "DownloadTemplate"): None,
    ("ostler.control.v1.HostService", "EnterMaintenance"): 300,
    ("ostler.control.v1.HostService", "ProbeHost"): 150,
    ("ostler.control.v1.ImportPlanService", "CheckImportPlan"): 300,
    # With a KVM host as the source, these have a host of the fleet ask it.
    ("ostler.control.v1.ImportService", "CheckImport"): 200,
    ("ostler.control.v1.ImportService", "CreateImportSource"): 200,
    ("ostler.control.v1.ImportService", "ImportVm"): 200,
    ("ostler.control.v1.ImportService", "ListSourceVms"): 200,
    ("ostler.control.v1.ImportService", "UpdateImportSource"): 200,
    ("ostler.control.v1.ImportService", "ImportFiles"): 90,  # these have a host inspect, which may take 60 s
    ("ostler.control.v1.ImportService", "ImportVolume"): 90,
    ("ostler.control.v1.TemplateService", "RegisterTemplate"): 90,
    ("ostler.control.v1.VmService", "AdoptVm"): 90,
    ("ostler.control.v1.ImportService", "UploadImportFile"): None,
    ("ostler.control.v1.IsoService", "UploadIso"): None,
    ("ostler.control.v1.KeyService", "VerifyKeys"): 600,
    ("ostler.control.v1.PoolService", "CreatePool"): 150,
    ("ostler.control.v1.TemplateService", "UploadTemplate"): None,
    ("ostler.control.v1.VmService", "Console"): None,
    ("ostler.control.v1.VmService", "ReadConsoleLog"): None,
    ("ostler.control.v1.VmService", "Screen"): None,
    ("ostler.control.v1.VolumeService", "DownloadVolume"): None,
    ("ostler.control.v1.VolumeService", "UploadVolume"): None,
    ("google.longrunning.Operations", "WaitOperation"): None,
}

# What gRPC sends again by itself when the connection fails before an answer has begun: calls that only read. Calls that
# start or watch a job are never among them: gRPC would hold one on a dead connection for ever, where its caller sees a
# failure and attaches again (they are idempotent by operation id). Changing calls to the control plane are repeated by
# their callers, with the same request_id.
RETRIED: Mapping[str, tuple[str, ...]] = {
    "ostler.agent.v1.ConversionService": ("CreateStaging", "GetStaging", "DeleteStaging", "InspectStaging"),
    "ostler.agent.v1.HostService": ("GetHost", "ProbeCapabilities", "UpdateTrust", "ReadLease"),
    "ostler.agent.v1.JobService": ("GetJob", "CancelJob"),
    "ostler.agent.v1.PoolService": ("EnsurePool", "GetPool", "ListPools"),
    "ostler.agent.v1.RemoteKvmService": ("EndRemoteCopy", "ListRemoteVms"),
    "ostler.agent.v1.VmService": ("GetVm", "ListVms", "Screenshot"),
    "ostler.agent.v1.VolumeService": ("GetVolume",),
    "ostler.control.v1.AccountService": ("GetAccount", "ListAccounts"),
    "ostler.control.v1.UserService": ("GetUser", "ListUsers", "WhoAmI"),
    "ostler.control.v1.AffinityService": ("GetAffinityGroup", "ListAffinityGroups"),
    "ostler.control.v1.BackupService": ("GetBackup", "ListBackups", "ListBackupSchedules", "ListBackupStores"),
    "ostler.control.v1.DrsService": (
        *("GetPlan", "ListPlans", "GetPowerPlan", "GetStoragePlan"),
        *("GetClusterStatus", "ListAlgorithms"),
    ),
    "ostler.control.v1.EventService": ("ListEvents", "VerifyEvents"),
    "ostler.control.v1.ExtraConfigService": ("ListExtraConfigs",),
    "ostler.control.v1.HaService": ("GetHaStatus", "ListFenceDevices"),
    "ostler.control.v1.HostService": ("GetHost", "ListHosts"),
    "ostler.control.v1.HypervisorService": ("GetHypervisorType", "ListHypervisorTypes"),
    "ostler.control.v1.ImportService": ("GetImportFiles", "GetImportSource", "ListImportSources", "ListSourceVms"),
    "ostler.control.v1.ImportPlanService": ("ValidateImportPlan", "GetImportPlan", "ListImportPlans"),
    "ostler.control.v1.IsoService": ("GetIso", "ListIsos"),
    "ostler.control.v1.KeyService": ("ListKeys", "VerifyKeys"),
    "ostler.control.v1.NetworkService": ("GetNetwork", "ListNetworks"),
    "ostler.control.v1.OfferingService": (
        *("GetServiceOffering", "ListServiceOfferings"),
        *("GetDiskOffering", "ListDiskOfferings"),
    ),
    "ostler.control.v1.PoolService": ("GetPool", "ListPools"),
    "ostler.control.v1.SnapshotService": ("GetSnapshot", "ListSnapshots", "ListSnapshotSchedules"),
    "ostler.control.v1.SettingService": ("GetSetting", "ListSettings"),
    "ostler.control.v1.TemplateService": ("GetTemplate", "ListTemplates"),
    "ostler.control.v1.UserDataService": ("GetUserData", "ListUserData"),
    "ostler.control.v1.VmService": ("GetVm", "ListVms", "FindHosts", "Screenshot"),
    "ostler.control.v1.VmSnapshotService": ("GetVmSnapshot", "ListVmSnapshots", "ListVmSnapshotSchedules"),
    "ostler.control.v1.VolumeService": ("GetVolume", "ListVolumes"),
    "ostler.control.v1.ZoneService": ("GetZone", "ListZones"),
    "ostler.control.v1.ClusterService": ("GetCluster", "ListClusters"),
    "google.longrunning.Operations": ("GetOperation", "ListOperations", "WaitOperation", "CancelOperation"),
}

_AGENT_SERVICES = "ostler.agent."

_RETRY_POLICY = {
    "maxAttempts": 4,
    "initialBackoff": "0.2s",
    "maxBackoff": "3s",
    "backoffMultiplier": 2.5,
    "retryableStatusCodes": ["UNAVAILABLE"],
}


def deadline_s(service: str, method: str) -> int | None:
    """How long a call may take unless its caller says otherwise; None: as long as it likes."""
    return DEADLINE_S.get((service, method), DEFAULT_DEADLINE_S)


def service_config(server_name: str) -> dict[str, Any]:
    """gRPC's service config: the default deadlines and retries of what this server offers, from the tables above. gRPC
    reads it again for each channel, so methods with the same values share an entry, and others are left out."""
    agents = server_name != CONTROL_SERVER_NAME
    methods = {(service, method) for service, names in RETRIED.items() for method in names} | set(DEADLINE_S)
    names: dict[tuple[int | None, bool], list[dict[str, str]]] = {(DEFAULT_DEADLINE_S, False): [{}]}
    for service, method in sorted(methods):
        if service.startswith(_AGENT_SERVICES) == agents:
            values = (deadline_s(service, method), method in RETRIED.get(service, ()))
            names.setdefault(values, []).append({"service": service, "method": method})
    return {"methodConfig": [_entry(named, *values) for values, named in names.items()]}


def open_channel(address: str, files: TlsFiles, server_name: str) -> grpc.Channel:
    """A channel to the server that answers at "host:port" and proves to be `server_name` (of `host_server_name`, or
    CONTROL_SERVER_NAME). It keeps the certificate that it was opened with: open another when that was renewed.

    address: of several, separated by commas, the channel connects to one that answers, and to another one when that
    dies. Raises InvalidArgumentError INVALID_FIELD when it is malformed.
    """
    return secure_channel(target(address), _credentials(files), server_name)


def open_channel_of_own_thread(address: str, files: TlsFiles, server_name: str) -> grpc.Channel:
    """The same, but whoever reads a stream of answers waits for them itself, where gRPC has a further thread that does:
    two switches of threads less for each answer. Such a stream can be cancelled from any thread, but only its reader
    learns of its end."""
    return secure_channel(target(address), _credentials(files), server_name, (("SingleThreadedUnaryStream", 1),))


def target(address: str) -> str:
    """What gRPC connects to for "host:port", or for several of them separated by commas.

    Those of several are resolved now, once: gRPC takes a list of IP addresses only. It tries the next one after 250 ms.
    They are in random order, so that callers are spread over the servers.
    """
    several = split_addresses(address)
    if len(several) < 2:
        return address.strip()
    random.shuffle(several)
    found = resolve(several)
    if not found:
        return several[0]  # its failure names it
    if all(":" not in host for host, _ in found):
        return "ipv4:" + ",".join(f"{host}:{port}" for host, port in found)
    return "ipv6:" + ",".join(f"[{host if ':' in host else f'::ffff:{host}'}]:{port}" for host, port in found)


def secure_channel(
    address: str, credentials: grpc.ChannelCredentials, server_name: str, further: tuple[tuple[str, int], ...] = ()
) -> grpc.Channel:
    """The same with credentials of another origin, for a caller that has no certificate yet. further: options."""
    return carrying(grpc.secure_channel(address, credentials, options=(*_options(server_name), *further)))


def open_aio_channel(address: str, files: TlsFiles, server_name: str) -> grpc.aio.Channel:
    """The same for asyncio, and for small messages."""
    # Else gRPC answers what it receives with pings, to learn how much the connection could carry.
    options = (*_options(server_name), ("grpc.http2.bdp_probe", 0))
    return grpc.aio.secure_channel(address, _credentials(files), options=options)


def _entry(names: list[dict[str, str]], deadline_s: int | None, retried: bool) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": names}
    if deadline_s is not None:
        entry["timeout"] = f"{deadline_s}s"
    if retried:
        entry["retryPolicy"] = _RETRY_POLICY
    return entry


def _credentials(files: TlsFiles) -> grpc.ChannelCredentials:
    pems = files.read()
    return grpc.ssl_channel_credentials(pems.trust, pems.key, pems.certificate)


@functools.cache
def _service_config_json(for_control: bool) -> str:
    return json.dumps(service_config(CONTROL_SERVER_NAME if for_control else ""))


def _options(server_name: str) -> tuple[tuple[str, int | str], ...]:
    return (
        *TRANSPORT_OPTIONS,
        ("grpc.ssl_target_name_override", server_name),
        ("grpc.service_config", _service_config_json(server_name == CONTROL_SERVER_NAME)),
        ("grpc.service_config_disable_resolution", 1),
        ("grpc.enable_http_proxy", 0),
        ("grpc.use_local_subchannel_pool", 1),  # a channel opened anew must not find the old one's connection
        ("grpc.initial_reconnect_backoff_ms", 500),
        ("grpc.max_reconnect_backoff_ms", 10_000),
    )
