"""A control plane of canned answers behind the real server code, for tests of the CLI. It keeps what it was asked."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import grpc
from google.longrunning import operations_pb2 as lro
from google.longrunning import operations_pb2_grpc
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from ostler.client import profile
from ostler.control.v1 import (
    account_pb2,
    account_pb2_grpc,
    backup_pb2,
    backup_pb2_grpc,
    event_pb2,
    event_pb2_grpc,
    host_pb2,
    host_pb2_grpc,
    import_pb2,
    import_pb2_grpc,
    label_pb2,
    label_pb2_grpc,
    offering_pb2,
    offering_pb2_grpc,
    operation_pb2,
    pool_pb2,
    pool_pb2_grpc,
    snapshot_pb2,
    snapshot_pb2_grpc,
    template_pb2,
    template_pb2_grpc,
    userdata_pb2,
    userdata_pb2_grpc,
    vm_pb2,
    vm_pb2_grpc,
    vm_snapshot_pb2,
    vm_snapshot_pb2_grpc,
    volume_pb2,
    volume_pb2_grpc,
    zone_pb2,
    zone_pb2_grpc,
)
from ostler.types.v1 import backup_file_pb2, guest_pb2, job_pb2
from ostler.types.v1 import volume_pb2 as volume_types
from ostler_common import pki, server
from ostler_common.errors import CancelledError, NotFoundError, OstlerError, UnavailableError, to_status
from ostler_common.identity import Identity, Kind
from ostler_common.tls import server_credentials

from tests.fakes.certificates import ThrowawayCa

PAGE_ROWS = 2
HOLD_S = 60.0
Metadata = operation_pb2.OperationMetadata
Phase = tuple[str, int]


def at(seconds: int) -> Timestamp:
    """A time in 2026."""
    return Timestamp(seconds=1_780_000_000 + seconds)


@dataclass
class Control:
    """What the servicers answer with, and what they were asked. Tests change it as they go."""

    issuer: ThrowawayCa
    vms: dict[str, vm_pb2.Vm] = field(default_factory=dict)
    hosts: list[host_pb2.Host] = field(default_factory=list)
    guest: guest_pb2.GuestInfo = field(default_factory=guest_pb2.GuestInfo)
    candidates: list[vm_pb2.FindHostsResponse.Candidate] = field(default_factory=list)
    events: list[event_pb2.Event] = field(default_factory=list)  # the newest first
    end: OstlerError | None = None  # of a stream of events
    verdict: event_pb2.VerifyEventsResponse = field(default_factory=event_pb2.VerifyEventsResponse)
    error: OstlerError | None = None  # what every call of VmService fails with
    phases: list[Phase] = field(default_factory=lambda: [("placing", 10), ("copying template", 60)])
    outcome: OstlerError | None = None  # what operations end with
    forever: bool = False  # operations run until cancelled
    asked: list[Message] = field(default_factory=list)
    uploaded: bytes = b""
    wanted_files: dict[str, int] = field(default_factory=dict)  # of an import: sizes by name
    received: dict[str, bytes] = field(default_factory=dict)
    breaks: int = 0  # how many uploads of imports break
    stored: bytes = b"what is in the volume"
    sent: int | None = None
    holds: bytes | None = None  # reading this path of a backup goes on until the caller leaves
    left: threading.Event = field(default_factory=threading.Event)  # set once that caller has left
    waiting: threading.Event = field(default_factory=threading.Event)  # set once somebody waits for an operation
    cancelled: bool = False
    steps: int = 0
    stores: list[backup_pb2.BackupStore] = field(default_factory=list)

    def ask(self, request: Message) -> None:
        self.asked.append(request)
        if self.error is not None:
            raise self.error

    def vm(self, name: str) -> vm_pb2.Vm:
        if name not in self.vms:
            raise NotFoundError(f"there is no VM {name}", "VM_NOT_FOUND", {"vm": name})
        return self.vms[name]

    def operation(self) -> lro.Operation:
        """The one operation there is, a step further at every call."""
        metadata = Metadata(
            verb="vm.create",
            resource_type="vm",
            resource_name="web-1",
            resource_id="9d1b",
            state=Metadata.RUNNING,
            user="root",
            create_time=at(0),
        )
        operation = lro.Operation(name="op-1")
        outcome = CancelledError("vm.create was cancelled", "CANCELLED") if self.cancelled else self.outcome
        if self.cancelled or (self.steps >= len(self.phases) and not self.forever):
            operation.done = True
            metadata.end_time.CopyFrom(at(12))
            if outcome is None:
                metadata.state = Metadata.SUCCEEDED
                operation.response.Pack(self.vms["web-1"])
            else:
                metadata.state = Metadata.CANCELLED if self.cancelled else Metadata.FAILED
                operation.error.CopyFrom(to_status(outcome))
        elif self.phases:
            phase, percent = self.phases[min(self.steps, len(self.phases) - 1)]
            metadata.progress.CopyFrom(job_pb2.Progress(phase=phase, percent=percent))
        operation.metadata.Pack(metadata)
        self.steps += 1
        return operation


class Events(event_pb2_grpc.EventServiceServicer):
    def __init__(self, control: Control) -> None:
        self.control = control

    def ListEvents(
        self, request: event_pb2.ListEventsRequest, context: grpc.ServicerContext
    ) -> event_pb2.ListEventsResponse:
        self.control.ask(request)
        start = request.start_time.ToNanoseconds()
        found = [event for event in self.control.events if event.time.ToNanoseconds() >= start]
        return event_pb2.ListEventsResponse(events=found)

    def WatchEvents(
        self, request: event_pb2.WatchEventsRequest, context: grpc.ServicerContext
    ) -> Iterator[event_pb2.WatchEventsResponse]:
        """The events that there are; then the stream breaks, or ends with `end`."""
        self.control.ask(request)
        yield event_pb2.WatchEventsResponse(sequence=request.after_sequence)
        start = request.start_time.ToNanoseconds()
        for event in reversed(self.control.events):
            if event.sequence > request.after_sequence and event.time.ToNanoseconds() >= start:
                yield event_pb2.WatchEventsResponse(event=event, sequence=event.sequence)
        raise self.control.end or UnavailableError("the control plane is stopping", "STOPPING")

    def VerifyEvents(
        self, request: event_pb2.VerifyEventsRequest, context: grpc.ServicerContext
    ) -> event_pb2.VerifyEventsResponse:
        self.control.ask(request)
        return self.control.verdict


class Pools(pool_pb2_grpc.PoolServiceServicer):
    def __init__(self, control: Control) -> None:
        self.control = control

    def CreatePool(self, request: pool_pb2.CreatePoolRequest, context: grpc.ServicerContext) -> pool_pb2.Pool:
        self.control.ask(request)
        return pool_pb2.Pool(name=request.name, type=request.type, options=request.options)

    def SetPoolPassword(self, request: pool_pb2.SetPoolPasswordRequest, context: grpc.ServicerContext) -> pool_pb2.Pool:
        self.control.ask(request)
        return pool_pb2.Pool(name=request.pool)


class Offerings(offering_pb2_grpc.OfferingServiceServicer):
    """Service offerings "small" and "both", disk offerings "secret" and "both"; look-ups are not recorded."""

    def GetServiceOffering(
        self, request: offering_pb2.GetServiceOfferingRequest, context: grpc.ServicerContext
    ) -> offering_pb2.ServiceOffering:
        name = request.service_offering
        if name not in ("small", "both"):
            raise NotFoundError(f"there is no offering {name}", "SERVICE_OFFERING_NOT_FOUND")
        return offering_pb2.ServiceOffering(name=name, id=f"service-{name}")

    def GetDiskOffering(
        self, request: offering_pb2.GetDiskOfferingRequest, context: grpc.ServicerContext
    ) -> offering_pb2.DiskOffering:
        name = request.disk_offering
        if name not in ("secret", "both"):
            raise NotFoundError(f"there is no offering {name}", "DISK_OFFERING_NOT_FOUND")
        return offering_pb2.DiskOffering(name=name, id=f"disk-{name}")


class Vms(vm_pb2_grpc.VmServiceServicer):
    def __init__(self, control: Control) -> None:
        self.control = control

    def GetVm(self, request: vm_pb2.GetVmRequest, context: grpc.ServicerContext) -> vm_pb2.Vm:
        self.control.ask(request)
        return self.control.vm(request.vm)

    def ListVms(self, request: vm_pb2.ListVmsRequest, context: grpc.ServicerContext) -> vm_pb2.ListVmsResponse:
        self.control.ask(request)
        begin = int(request.page_token or 0)
        end = begin + min(PAGE_ROWS, request.page_size or PAGE_ROWS)
        rows = [vm for vm in self.control.vms.values() if request.state in (0, vm.state)]
        token = str(end) if end < len(rows) else ""
        return vm_pb2.ListVmsResponse(vms=rows[begin:end], next_page_token=token)

    def CreateVm(self, request: vm_pb2.CreateVmRequest, context: grpc.ServicerContext) -> lro.Operation:
        self.control.ask(request)
        return self.control.operation()

    def StartVm(self, request: vm_pb2.StartVmRequest, context: grpc.ServicerContext) -> lro.Operation:
        self.control.ask(request)
        return self.control.operation()

    def UpdateVm(self, request: vm_pb2.UpdateVmRequest, context: grpc.ServicerContext) -> vm_pb2.Vm:
        self.control.ask(request)
        return self.control.vm(request.vm)

    def ReinstallVm(self, request: vm_pb2.ReinstallVmRequest, context: grpc.ServicerContext) -> lro.Operation:
        self.control.ask(request)
        return self.control.operation()

    def DeleteVm(self, request: vm_pb2.DeleteVmRequest, context: grpc.ServicerContext) -> lro.Operation:
        self.control.ask(request)
        return self.control.operation()

    def AdoptVm(self, request: vm_pb2.AdoptVmRequest, context: grpc.ServicerContext) -> lro.Operation:
        self.control.ask(request)
        return self.control.operation()

    def UnmanageVm(self, request: vm_pb2.UnmanageVmRequest, context: grpc.ServicerContext) -> lro.Operation:
        self.control.ask(request)
        return self.control.operation()

    def FindHosts(self, request: vm_pb2.FindHostsRequest, context: grpc.ServicerContext) -> vm_pb2.FindHostsResponse:
        self.control.ask(request)
        return vm_pb2.FindHostsResponse(candidates=self.control.candidates)

    def Screenshot(self, request: vm_pb2.ScreenshotRequest, context: grpc.ServicerContext) -> vm_pb2.ScreenshotResponse:
        self.control.ask(request)
        return vm_pb2.ScreenshotResponse(png=b"\x89PNG")

    def SendKey(self, request: vm_pb2.SendKeyRequest, context: grpc.ServicerContext) -> vm_pb2.SendKeyResponse:
        self.control.ask(request)
        return vm_pb2.SendKeyResponse()

    def ReadGuestInfo(self, request: vm_pb2.ReadGuestInfoRequest, context: grpc.ServicerContext) -> guest_pb2.GuestInfo:
        self.control.ask(request)
        return self.control.guest

    def SyncGuestTime(
        self, request: vm_pb2.SyncGuestTimeRequest, context: grpc.ServicerContext
    ) -> vm_pb2.SyncGuestTimeResponse:
        self.control.ask(request)
        return vm_pb2.SyncGuestTimeResponse()

    def SetGuestPassword(
        self, request: vm_pb2.SetGuestPasswordRequest, context: grpc.ServicerContext
    ) -> vm_pb2.SetGuestPasswordResponse:
        self.control.ask(request)
        return vm_pb2.SetGuestPasswordResponse()

    def SetGuestSshKeys(
        self, request: vm_pb2.SetGuestSshKeysRequest, context: grpc.ServicerContext
    ) -> vm_pb2.SetGuestSshKeysResponse:
        self.control.ask(request)
        return vm_pb2.SetGuestSshKeysResponse()

    def Screen(
        self, request_iterator: Iterator[vm_pb2.ConsoleInput], context: grpc.ServicerContext
    ) -> Iterator[vm_pb2.ConsoleOutput]:
        """A screen that answers with what it got, and ends at "bye"."""
        self.control.ask(next(request_iterator))
        yield vm_pb2.ConsoleOutput(data=b"RFB 003.008\n")
        for sent in request_iterator:
            yield vm_pb2.ConsoleOutput(data=sent.data)
            if b"bye" in sent.data:
                return

    def ReadConsoleLog(
        self, request: vm_pb2.ReadConsoleLogRequest, context: grpc.ServicerContext
    ) -> Iterator[vm_pb2.ConsoleOutput]:
        """A guest that tries to steer the reader's terminal."""
        self.control.ask(request)
        yield vm_pb2.ConsoleOutput(data=b"\x1b[32mOK\x1b[0m boot\r\n\x1b]0;ti")
        yield vm_pb2.ConsoleOutput(data=b"tle\x07login:\t\x08\xff\r\n")

    def Console(
        self, request_iterator: Iterator[vm_pb2.ConsoleInput], context: grpc.ServicerContext
    ) -> Iterator[vm_pb2.ConsoleOutput]:
        """A guest that answers in capitals and hangs up at "logout"."""
        first = next(request_iterator)
        self.control.ask(first)
        yield vm_pb2.ConsoleOutput(data=b"login: ")
        for typed in request_iterator:
            self.control.asked.append(typed)
            yield vm_pb2.ConsoleOutput(data=typed.data.upper())
            if b"logout" in typed.data:
                return


class Hosts(host_pb2_grpc.HostServiceServicer):
    def __init__(self, control: Control) -> None:
        self.control = control

    def GetHost(self, request: host_pb2.GetHostRequest, context: grpc.ServicerContext) -> host_pb2.Host:
        return next(host for host in self.control.hosts if host.name == request.host)

    def ListHosts(
        self, request: host_pb2.ListHostsRequest, context: grpc.ServicerContext
    ) -> host_pb2.ListHostsResponse:
        return host_pb2.ListHostsResponse(hosts=self.control.hosts)

    def CreateJoinToken(
        self, request: host_pb2.CreateJoinTokenRequest, context: grpc.ServicerContext
    ) -> host_pb2.CreateJoinTokenResponse:
        self.control.asked.append(request)
        command = "ostler-agent join 10.0.0.1:8441 --token t-1"
        return host_pb2.CreateJoinTokenResponse(token="t-1", command=command, expire_time=at(0))


class Zones(zone_pb2_grpc.ZoneServiceServicer):
    def __init__(self, control: Control) -> None:
        self.control = control

    def CreateZone(self, request: zone_pb2.CreateZoneRequest, context: grpc.ServicerContext) -> zone_pb2.Zone:
        self.control.asked.append(request)
        return zone_pb2.Zone(id="2f0c", name=request.name, create_time=at(0))

    def ListZones(
        self, request: zone_pb2.ListZonesRequest, context: grpc.ServicerContext
    ) -> zone_pb2.ListZonesResponse:
        return zone_pb2.ListZonesResponse()

    def DeleteZone(
        self, request: zone_pb2.DeleteZoneRequest, context: grpc.ServicerContext
    ) -> zone_pb2.DeleteZoneResponse:
        self.control.asked.append(request)
        return zone_pb2.DeleteZoneResponse()


class Users(account_pb2_grpc.UserServiceServicer):
    """Signs what it is asked to, with the one CA of the tests; every caller is whom the certificate says."""

    def __init__(self, control: Control) -> None:
        self.control = control

    def CreateUser(
        self, request: account_pb2.CreateUserRequest, context: grpc.ServicerContext
    ) -> account_pb2.CreateUserResponse:
        self.control.asked.append(request)
        if self.control.error is not None:
            raise self.control.error
        return self._issue(request.name, request.csr_pem)

    def IssueUserCertificate(
        self, request: account_pb2.IssueUserCertificateRequest, context: grpc.ServicerContext
    ) -> account_pb2.CreateUserResponse:
        self.control.asked.append(request)
        return self._issue(request.user, request.csr_pem)

    def WhoAmI(self, request: account_pb2.WhoAmIRequest, context: grpc.ServicerContext) -> account_pb2.User:
        name = server.caller(context).name
        return account_pb2.User(id=name, name=name, role=account_pb2.User.ADMIN)

    def _issue(self, name: str, csr_pem: bytes) -> account_pb2.CreateUserResponse:
        ca = self.control.issuer.ca
        certificate = ca.sign(csr_pem, Identity(Kind.USER, name), timedelta(days=1))
        user = account_pb2.User(id=name, name=name, role=account_pb2.User.MEMBER, account_name="research")
        return account_pb2.CreateUserResponse(user=user, certificate_pem=certificate, ca_pem=ca.certificate_pem)


class Templates(template_pb2_grpc.TemplateServiceServicer):
    def __init__(self, control: Control) -> None:
        self.control = control

    def UploadTemplate(
        self, request_iterator: Iterator[template_pb2.UploadTemplateRequest], context: grpc.ServicerContext
    ) -> template_pb2.Template:
        header = next(request_iterator).header
        self.control.asked.append(header)
        self.control.uploaded = b"".join(part.data for part in request_iterator)
        digest = hashlib.sha256(self.control.uploaded).hexdigest()
        return template_pb2.Template(name=header.name, sha256=digest, format=header.format, firmware=header.firmware)

    def UpdateTemplate(
        self, request: template_pb2.UpdateTemplateRequest, context: grpc.ServicerContext
    ) -> template_pb2.Template:
        self.control.asked.append(request)
        return template_pb2.Template(
            name=request.template, user_data_name=request.user_data, user_data_policy=request.user_data_policy
        )


class UserData(userdata_pb2_grpc.UserDataServiceServicer):
    def __init__(self, control: Control) -> None:
        self.control = control
        self.document = userdata_pb2.UserData(id="ud-1", name="web", format="cloud-config", size_bytes=14)

    def RegisterUserData(
        self, request: userdata_pb2.RegisterUserDataRequest, context: grpc.ServicerContext
    ) -> userdata_pb2.UserData:
        self.control.asked.append(request)
        return self.document

    def GetUserData(
        self, request: userdata_pb2.GetUserDataRequest, context: grpc.ServicerContext
    ) -> userdata_pb2.UserData:
        self.control.asked.append(request)
        shown = userdata_pb2.UserData(data=b"#cloud-config\n")
        shown.MergeFrom(self.document)
        return shown

    def ListUserData(
        self, request: userdata_pb2.ListUserDataRequest, context: grpc.ServicerContext
    ) -> userdata_pb2.ListUserDataResponse:
        self.control.asked.append(request)
        return userdata_pb2.ListUserDataResponse(user_data=[self.document])

    def DeleteUserData(
        self, request: userdata_pb2.DeleteUserDataRequest, context: grpc.ServicerContext
    ) -> userdata_pb2.DeleteUserDataResponse:
        self.control.asked.append(request)
        return userdata_pb2.DeleteUserDataResponse()

    def RenderUserData(
        self, request: userdata_pb2.RenderUserDataRequest, context: grpc.ServicerContext
    ) -> userdata_pb2.RenderUserDataResponse:
        self.control.asked.append(request)
        files = {"meta-data": b"instance-id: a\n", "user-data": b"\x1f\x8b\xff"}
        kind = userdata_pb2.RenderUserDataResponse.File
        return userdata_pb2.RenderUserDataResponse(files=[kind(name=name, content=c) for name, c in files.items()])


class Volumes(volume_pb2_grpc.VolumeServiceServicer):
    """One volume, "data-1"; `stored` is its content, `sent` how much of it a download brings."""

    def __init__(self, control: Control) -> None:
        self.control = control

    def GetVolume(self, request: volume_pb2.GetVolumeRequest, context: grpc.ServicerContext) -> volume_pb2.Volume:
        if request.read_file and self.control.error:
            raise self.control.error
        volume = volume_pb2.Volume(name=request.volume, encrypt_format=volume_types.ENCRYPT_FORMAT_LUKS)
        if request.read_file:
            volume.file.encrypt_format = volume_types.ENCRYPT_FORMAT_LUKS
        return volume

    def CreateVolume(self, request: volume_pb2.CreateVolumeRequest, context: grpc.ServicerContext) -> lro.Operation:
        self.control.ask(request)
        return self.control.operation()

    def CopyVolume(self, request: volume_pb2.CopyVolumeRequest, context: grpc.ServicerContext) -> lro.Operation:
        self.control.ask(request)
        return self.control.operation()

    def DownloadVolume(
        self, request: volume_pb2.DownloadVolumeRequest, context: grpc.ServicerContext
    ) -> Iterator[volume_pb2.DownloadVolumeResponse]:
        self.control.ask(request)
        stored = self.control.stored
        sent = stored[: self.control.sent]
        yield volume_pb2.DownloadVolumeResponse(percent=50)
        yield volume_pb2.DownloadVolumeResponse(data=sent[:3], file_size_bytes=len(stored))
        yield volume_pb2.DownloadVolumeResponse(data=sent[3:])
        yield volume_pb2.DownloadVolumeResponse(sha256=hashlib.sha256(stored).hexdigest())

    def UploadVolume(
        self, request_iterator: Iterator[volume_pb2.UploadVolumeRequest], context: grpc.ServicerContext
    ) -> lro.Operation:
        self.control.ask(next(request_iterator).header)
        self.control.uploaded = b"".join(part.data for part in request_iterator)
        return self.control.operation()


class Imports(import_pb2_grpc.ImportServiceServicer):
    """One source, "vc1", with one VM. A check says no unless some network is mapped."""

    def __init__(self, control: Control) -> None:
        self.control = control

    def CreateImportSource(
        self, request: import_pb2.CreateImportSourceRequest, context: grpc.ServicerContext
    ) -> import_pb2.ImportSource:
        self.control.ask(request)
        return import_pb2.ImportSource(name=request.name, type=request.type, thumbprint=request.thumbprint)

    def UpdateImportSource(
        self, request: import_pb2.UpdateImportSourceRequest, context: grpc.ServicerContext
    ) -> import_pb2.ImportSource:
        self.control.ask(request)
        return import_pb2.ImportSource(name=request.source, thumbprint=request.thumbprint)

    def ListSourceVms(
        self, request: import_pb2.ListSourceVmsRequest, context: grpc.ServicerContext
    ) -> import_pb2.ListSourceVmsResponse:
        self.control.ask(request)
        disk = import_pb2.SourceDisk(key=2000, label="Hard disk 1", capacity_bytes=8 << 30, kind="file")
        nic = import_pb2.SourceNic(label="Network adapter 1", model="vmxnet3", network="VM Network")
        vm = import_pb2.SourceVm(ref="vm-7", name="web 1", power=import_pb2.SourceVm.OFF, disks=[disk], nics=[nic])
        return import_pb2.ListSourceVmsResponse(vms=[vm])

    def CheckImport(
        self, request: import_pb2.CheckImportRequest, context: grpc.ServicerContext
    ) -> import_pb2.CheckImportResponse:
        self.control.ask(request)
        go = bool(request.spec.networks)
        warning = import_pb2.ImportFinding(
            code="SNAPSHOTS", severity=import_pb2.ImportFinding.WARNING, message="it has snapshots"
        )
        error = import_pb2.ImportFinding(
            code="NIC_NOT_MAPPED",
            severity=import_pb2.ImportFinding.ERROR,
            message="Network adapter 1 is mapped to no network",
            remedy="Add --network.",
        )
        return import_pb2.CheckImportResponse(
            go=go,
            findings=[warning] if go else [warning, error],
            conversion_host_name="h1",
            staging_pool_name="nfs1",
            estimated_s=600,
            download_by="control",
        )

    def ImportVm(self, request: import_pb2.ImportVmRequest, context: grpc.ServicerContext) -> lro.Operation:
        self.control.ask(request)
        return self.control.operation()

    def CutOverImport(
        self, request: import_pb2.CutOverImportRequest, context: grpc.ServicerContext
    ) -> import_pb2.CutOverImportResponse:
        self.control.ask(request)
        return import_pb2.CutOverImportResponse()

    def ImportFiles(self, request: import_pb2.ImportFilesRequest, context: grpc.ServicerContext) -> lro.Operation:
        self.control.ask(request)
        self.control.wanted_files = {file.name: file.size_bytes for file in request.files if file.name.endswith("k")}
        return self.control.operation()

    def ImportVolume(self, request: import_pb2.ImportVolumeRequest, context: grpc.ServicerContext) -> lro.Operation:
        self.control.ask(request)
        return self.control.operation()

    def GetImportFiles(
        self, request: import_pb2.GetImportFilesRequest, context: grpc.ServicerContext
    ) -> import_pb2.GetImportFilesResponse:
        """It waits for the files with names like "x.vmdk", and has 5 bytes of each; not ready at the first call."""
        first = request not in self.control.asked
        self.control.ask(request)
        if first:
            raise NotFoundError("there is no staging directory", "STAGING_NOT_FOUND")
        files = [
            import_pb2.GetImportFilesResponse.File(name=name, size_bytes=size_bytes, received_bytes=5)
            for name, size_bytes in self.control.wanted_files.items()
        ]
        return import_pb2.GetImportFilesResponse(files=files)

    def UploadImportFile(
        self, request_iterator: Iterator[import_pb2.UploadImportFileRequest], context: grpc.ServicerContext
    ) -> import_pb2.UploadImportFileResponse:
        header = next(request_iterator).header
        self.control.ask(header)
        if self.control.breaks:
            self.control.breaks -= 1
            raise UnavailableError("the host is gone for a moment", "HOST_UNREACHABLE")
        received, complete = bytearray(), False
        for piece in request_iterator:
            received += piece.data
            complete = piece.HasField("end")
        self.control.received[header.name] = bytes(received)
        return import_pb2.UploadImportFileResponse(received_bytes=header.offset + len(received), complete=complete)


class Snapshots(snapshot_pb2_grpc.SnapshotServiceServicer):
    """One snapshot, "before", and one schedule."""

    def __init__(self, control: Control) -> None:
        self.control = control
        self.snapshot = snapshot_pb2.Snapshot(
            id="77",
            name="before",
            state=snapshot_pb2.Snapshot.READY,
            volume_name="data-1",
            size_bytes=4 << 30,
            encrypt_format=volume_types.ENCRYPT_FORMAT_LUKS,
            online=True,
        )

    def CreateSnapshot(
        self, request: snapshot_pb2.CreateSnapshotRequest, context: grpc.ServicerContext
    ) -> lro.Operation:
        self.control.ask(request)
        return self.control.operation()

    def RevertVolume(self, request: snapshot_pb2.RevertVolumeRequest, context: grpc.ServicerContext) -> lro.Operation:
        self.control.ask(request)
        return self.control.operation()

    def GetSnapshot(
        self, request: snapshot_pb2.GetSnapshotRequest, context: grpc.ServicerContext
    ) -> snapshot_pb2.Snapshot:
        return self.snapshot

    def ListSnapshots(
        self, request: snapshot_pb2.ListSnapshotsRequest, context: grpc.ServicerContext
    ) -> snapshot_pb2.ListSnapshotsResponse:
        self.control.ask(request)
        return snapshot_pb2.ListSnapshotsResponse(snapshots=[self.snapshot])

    def CreateSnapshotSchedule(
        self, request: snapshot_pb2.CreateSnapshotScheduleRequest, context: grpc.ServicerContext
    ) -> snapshot_pb2.SnapshotSchedule:
        self.control.ask(request)
        return snapshot_pb2.SnapshotSchedule(
            id="88",
            volume_name=request.volume,
            interval=request.interval,
            minute=request.minute,
            hour=request.hour,
            day=request.day,
            keep=request.keep,
            next_time=at(0),
        )


class VmSnapshots(vm_snapshot_pb2_grpc.VmSnapshotServiceServicer):
    """One snapshot, "whole", of web-1."""

    def __init__(self, control: Control) -> None:
        self.control = control
        disk = vm_snapshot_pb2.VmSnapshotDisk(
            volume_name="web-1-root",
            root=True,
            snapshot_name="whole-root",
            size_bytes=4 << 30,
            encrypt_format=volume_types.ENCRYPT_FORMAT_LUKS,
            pool_name="nfs-1",
        )
        self.snapshot = vm_snapshot_pb2.VmSnapshot(
            id="97", name="whole", state=vm_snapshot_pb2.VmSnapshot.READY, vm_name="web-1", online=True, disks=[disk]
        )

    def CreateVmSnapshot(
        self, request: vm_snapshot_pb2.CreateVmSnapshotRequest, context: grpc.ServicerContext
    ) -> lro.Operation:
        self.control.ask(request)
        return self.control.operation()

    def DeleteVmSnapshot(
        self, request: vm_snapshot_pb2.DeleteVmSnapshotRequest, context: grpc.ServicerContext
    ) -> lro.Operation:
        self.control.ask(request)
        return self.control.operation()

    def RevertVm(self, request: vm_snapshot_pb2.RevertVmRequest, context: grpc.ServicerContext) -> lro.Operation:
        self.control.ask(request)
        return self.control.operation()

    def CreateVmSnapshotSchedule(
        self, request: vm_snapshot_pb2.CreateVmSnapshotScheduleRequest, context: grpc.ServicerContext
    ) -> vm_snapshot_pb2.VmSnapshotSchedule:
        self.control.ask(request)
        return vm_snapshot_pb2.VmSnapshotSchedule(
            id="96",
            vm_name=request.vm,
            interval=request.interval,
            minute=request.minute,
            hour=request.hour,
            day=request.day,
            keep=request.keep,
            next_time=at(0),
        )

    def GetVmSnapshot(
        self, request: vm_snapshot_pb2.GetVmSnapshotRequest, context: grpc.ServicerContext
    ) -> vm_snapshot_pb2.VmSnapshot:
        return self.snapshot

    def ListVmSnapshots(
        self, request: vm_snapshot_pb2.ListVmSnapshotsRequest, context: grpc.ServicerContext
    ) -> vm_snapshot_pb2.ListVmSnapshotsResponse:
        self.control.ask(request)
        return vm_snapshot_pb2.ListVmSnapshotsResponse(vm_snapshots=[self.snapshot])


class Labels(label_pb2_grpc.LabelServiceServicer):
    def __init__(self, control: Control) -> None:
        self.control = control

    def UpdateLabels(
        self, request: label_pb2.UpdateLabelsRequest, context: grpc.ServicerContext
    ) -> label_pb2.UpdateLabelsResponse:
        self.control.ask(request)
        return label_pb2.UpdateLabelsResponse(labels=request.set)


class Backups(backup_pb2_grpc.BackupServiceServicer):
    """One backup, "nightly", of web-1."""

    def __init__(self, control: Control) -> None:
        self.control = control
        disk = backup_pb2.BackupDisk(volume_name="web-1-root", root=True, size_bytes=4 << 30, encrypted=True)
        self.backup = backup_pb2.Backup(
            id="99",
            name="nightly",
            state=backup_pb2.Backup.READY,
            vm_name="web-1",
            store_name="vault",
            stored_bytes=1 << 30,
            online=True,
            disks=[disk],
        )

    def CreateBackupStore(
        self, request: backup_pb2.CreateBackupStoreRequest, context: grpc.ServicerContext
    ) -> backup_pb2.BackupStore:
        self.control.ask(request)
        return backup_pb2.BackupStore(id="98", name=request.name, source=request.source)

    def ListBackupStores(
        self, request: backup_pb2.ListBackupStoresRequest, context: grpc.ServicerContext
    ) -> backup_pb2.ListBackupStoresResponse:
        return backup_pb2.ListBackupStoresResponse(stores=self.control.stores)

    def SetBackupStoreKey(
        self, request: backup_pb2.SetBackupStoreKeyRequest, context: grpc.ServicerContext
    ) -> backup_pb2.BackupStore:
        self.control.ask(request)
        return backup_pb2.BackupStore(id="98", name=request.store)

    def CreateBackup(self, request: backup_pb2.CreateBackupRequest, context: grpc.ServicerContext) -> lro.Operation:
        self.control.ask(request)
        return self.control.operation()

    def ReadBackupFiles(
        self, request: backup_pb2.ReadBackupFilesRequest, context: grpc.ServicerContext
    ) -> Iterator[backup_pb2.ReadBackupFilesResponse]:
        self.control.ask(request)
        yield backup_pb2.ReadBackupFilesResponse(phase="starting the appliance")
        if request.path == self.control.holds:
            context.add_callback(self.control.left.set)
            if request.content:
                yield backup_pb2.ReadBackupFilesResponse(data=self.control.stored)
            self.control.left.wait(HOLD_S)
        elif not request.path:
            found = backup_file_pb2.BackupFileSystem(name="/dev/sda1", type="ext4", label="\x1b[31mroot")
            yield backup_pb2.ReadBackupFilesResponse(file_systems=[found])
        elif request.content:
            stored = self.control.stored
            yield backup_pb2.ReadBackupFilesResponse(archive=request.path.endswith(b"/"))
            yield backup_pb2.ReadBackupFilesResponse(data=stored[:3])
            yield backup_pb2.ReadBackupFilesResponse(data=stored[3 : self.control.sent])
        else:
            kinds = backup_file_pb2.BackupFile
            hostile = kinds(name=b"\x1b[2J\xff\n", kind=kinds.FILE, size_bytes=7, permissions=0o640)
            directory = kinds(name=b"log", kind=kinds.DIRECTORY, permissions=0o755)
            yield backup_pb2.ReadBackupFilesResponse(files=[hostile])
            link = kinds(name=b"now", kind=kinds.LINK, permissions=0o777)
            yield backup_pb2.ReadBackupFilesResponse(files=[directory, link], more=True)
        sha256 = hashlib.sha256(self.control.stored).hexdigest()
        yield backup_pb2.ReadBackupFilesResponse(complete=True, sha256=sha256 if request.content else "")

    def VerifyBackup(self, request: backup_pb2.VerifyBackupRequest, context: grpc.ServicerContext) -> lro.Operation:
        self.control.ask(request)
        return self.control.operation()

    def RestoreVm(self, request: backup_pb2.RestoreVmRequest, context: grpc.ServicerContext) -> lro.Operation:
        self.control.ask(request)
        return self.control.operation()

    def RestoreVmOver(self, request: backup_pb2.RestoreVmOverRequest, context: grpc.ServicerContext) -> lro.Operation:
        self.control.ask(request)
        return self.control.operation()

    def RestoreVolume(self, request: backup_pb2.RestoreVolumeRequest, context: grpc.ServicerContext) -> lro.Operation:
        self.control.ask(request)
        return self.control.operation()

    def GetBackup(self, request: backup_pb2.GetBackupRequest, context: grpc.ServicerContext) -> backup_pb2.Backup:
        return self.backup

    def ListBackups(
        self, request: backup_pb2.ListBackupsRequest, context: grpc.ServicerContext
    ) -> backup_pb2.ListBackupsResponse:
        self.control.ask(request)
        return backup_pb2.ListBackupsResponse(backups=[self.backup])

    def CreateBackupSchedule(
        self, request: backup_pb2.CreateBackupScheduleRequest, context: grpc.ServicerContext
    ) -> backup_pb2.BackupSchedule:
        self.control.ask(request)
        return backup_pb2.BackupSchedule(
            id="97",
            vm_name=request.vm,
            interval=request.interval,
            minute=request.minute,
            hour=request.hour,
            day=request.day,
            keep=request.keep,
            next_time=at(0),
        )


class Operations(operations_pb2_grpc.OperationsServicer):  # type: ignore[misc]  # untyped
    def __init__(self, control: Control) -> None:
        self.control = control

    def GetOperation(self, request: lro.GetOperationRequest, context: grpc.ServicerContext) -> lro.Operation:
        return self.control.operation()

    def WaitOperation(self, request: lro.WaitOperationRequest, context: grpc.ServicerContext) -> lro.Operation:
        self.control.waiting.set()
        return self.control.operation()

    def ListOperations(
        self, request: lro.ListOperationsRequest, context: grpc.ServicerContext
    ) -> lro.ListOperationsResponse:
        self.control.asked.append(request)
        return lro.ListOperationsResponse(operations=[self.control.operation()])

    def CancelOperation(self, request: lro.CancelOperationRequest, context: grpc.ServicerContext) -> Empty:
        self.control.asked.append(request)
        self.control.cancelled = True
        return Empty()


@contextmanager
def serving(directory: Path) -> Iterator[tuple[Control, Path]]:
    """Such a control plane on loopback, and the path of a profile for it."""
    issuer = ThrowawayCa(directory)
    control = Control(issuer)
    # The typed stubs want every method; those that no test calls answer UNIMPLEMENTED.
    vms = Vms(control)  # type: ignore[abstract]
    hosts = Hosts(control)  # type: ignore[abstract]
    zones = Zones(control)  # type: ignore[abstract]
    users = Users(control)  # type: ignore[abstract]
    templates = Templates(control)  # type: ignore[abstract]
    volumes = Volumes(control)  # type: ignore[abstract]
    imports = Imports(control)  # type: ignore[abstract]
    snapshots = Snapshots(control)  # type: ignore[abstract]
    pools = Pools(control)  # type: ignore[abstract]
    offerings = Offerings()  # type: ignore[abstract]
    backups = Backups(control)  # type: ignore[abstract]
    vm_snapshots = VmSnapshots(control)  # type: ignore[abstract]
    services: dict[str, server.Registration] = {
        "ostler.control.v1.BackupService": lambda s: backup_pb2_grpc.add_BackupServiceServicer_to_server(backups, s),
        "ostler.control.v1.SnapshotService": lambda s: snapshot_pb2_grpc.add_SnapshotServiceServicer_to_server(
            snapshots, s
        ),
        "ostler.control.v1.ImportService": lambda s: import_pb2_grpc.add_ImportServiceServicer_to_server(imports, s),
        "ostler.control.v1.EventService": lambda s: event_pb2_grpc.add_EventServiceServicer_to_server(
            Events(control), s
        ),
        "ostler.control.v1.LabelService": lambda s: label_pb2_grpc.add_LabelServiceServicer_to_server(
            Labels(control), s
        ),
        "ostler.control.v1.VmSnapshotService": lambda s: vm_snapshot_pb2_grpc.add_VmSnapshotServiceServicer_to_server(
            vm_snapshots, s
        ),
        "ostler.control.v1.VmService": lambda s: vm_pb2_grpc.add_VmServiceServicer_to_server(vms, s),
        "ostler.control.v1.HostService": lambda s: host_pb2_grpc.add_HostServiceServicer_to_server(hosts, s),
        "ostler.control.v1.ZoneService": lambda s: zone_pb2_grpc.add_ZoneServiceServicer_to_server(zones, s),
        "ostler.control.v1.UserService": lambda s: account_pb2_grpc.add_UserServiceServicer_to_server(users, s),
        "ostler.control.v1.TemplateService": lambda s: template_pb2_grpc.add_TemplateServiceServicer_to_server(
            templates, s
        ),
        "ostler.control.v1.UserDataService": lambda s: userdata_pb2_grpc.add_UserDataServiceServicer_to_server(
            UserData(control), s
        ),
        "ostler.control.v1.VolumeService": lambda s: volume_pb2_grpc.add_VolumeServiceServicer_to_server(volumes, s),
        "ostler.control.v1.OfferingService": lambda s: offering_pb2_grpc.add_OfferingServiceServicer_to_server(
            offerings, s
        ),
        "ostler.control.v1.PoolService": lambda s: pool_pb2_grpc.add_PoolServiceServicer_to_server(pools, s),
        "google.longrunning.Operations": lambda s: operations_pb2_grpc.add_OperationsServicer_to_server(
            Operations(control), s
        ),
    }
    running = server.serve(
        "127.0.0.1:0",
        credentials=server_credentials(issuer.issue(Identity(Kind.CONTROL, "c1"))),
        services=services,
        authorize=lambda peer, method: peer.identity,
        workers=8,
    )
    user = issuer.issue(Identity(Kind.USER, "root"))
    path = directory / "profile.toml"
    text = profile.text(f"127.0.0.1:{running.port}", user.trust.name, user.certificate.name, user.key.name)
    pki.write_private(path, text.encode())
    try:
        yield control, path
    finally:
        running.stop(0).wait()
