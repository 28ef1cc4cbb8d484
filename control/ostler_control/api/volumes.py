"""ostler.control.v1.VolumeService."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import grpc
from google.longrunning.operations_pb2 import Operation as LongRunning
from ostler.control.v1 import volume_pb2 as pb
from ostler.control.v1 import volume_pb2_grpc
from ostler.types.v1 import volume_pb2 as types_pb2
from ostler_common import io_limits

from ostler_control import volumes
from ostler_control.agents import Agents
from ostler_control.api.caller import caller_of
from ostler_control.api.convert import volumes as convert_volumes
from ostler_control.api.convert.enums import from_enum
from ostler_control.api.export_encryption import export_encryption
from ostler_control.api.labels import select
from ostler_control.api.paging import page
from ostler_control.api.pieces import data_of, first_header
from ostler_control.api.redact import redact_errors_for
from ostler_control.api.resolve import optional, resolve, visible
from ostler_control.api.session import lasting, with_sessions
from ostler_control.api.start_operation import account_for, admins_only, start_operation
from ostler_control.caller import Caller
from ostler_control.database import session, transaction
from ostler_control.keys import Keyring
from ostler_control.models import Account, DiskOffering, Pool, Snapshot, Vm, Volume, Zone
from ostler_control.operations import launch
from ostler_control.templates import store as template_store
from ostler_control.templates.received import Announced
from ostler_control.volumes.download import relay, transfer
from ostler_control.volumes.export_encryption import check_known_passphrase
from ostler_control.volumes.read import read_file
from ostler_control.volumes.sources import one_of


@with_sessions
class VolumeService(volume_pb2_grpc.VolumeServiceServicer):
    def __init__(self, agents: Agents, keys: Keyring, templates: Path) -> None:
        """templates: directory of the templates' files, and of uploads."""
        self._agents = agents
        self._keys = keys
        self._templates = templates

    def CreateVolume(self, request: pb.CreateVolumeRequest, context: grpc.ServicerContext) -> LongRunning:
        caller = caller_of(context)
        admins_only(caller, pool=request.pool)
        if request.snapshot:
            copied = volumes.NewCopy(
                name=request.name,
                account=account_for(caller, request.account),
                source=resolve(Snapshot, request.snapshot, "snapshot", caller=caller),
                offering=optional(DiskOffering, request.disk_offering, "disk_offering"),
                size_bytes=request.size_bytes,
                pool=optional(Pool, request.pool, "pool"),
                zone=optional(Zone, request.zone, "zone"),
            )
            return start_operation(caller, request, lambda: volumes.copy(copied, caller.actor, self._keys))
        wanted = volumes.NewVolume(
            name=request.name,
            account=account_for(caller, request.account),
            offering=resolve(DiskOffering, request.disk_offering, "disk_offering"),
            size_bytes=request.size_bytes,
            pool=optional(Pool, request.pool, "pool"),
            zone=optional(Zone, request.zone, "zone"),
        )
        return start_operation(caller, request, lambda: volumes.create(wanted, caller.actor, self._keys))

    def GetVolume(self, request: pb.GetVolumeRequest, context: grpc.ServicerContext) -> pb.Volume:
        caller = caller_of(context)
        row = resolve(Volume, request.volume, "volume", caller=caller)
        message = convert_volumes.volume(row, caller)
        if request.read_file:
            with redact_errors_for(caller, request):
                message.file.CopyFrom(read_file(row, self._agents))
        return message

    def ListVolumes(self, request: pb.ListVolumesRequest, context: grpc.ServicerContext) -> pb.ListVolumesResponse:
        caller = caller_of(context)
        admins_only(caller, pool=request.pool)
        query = visible(Volume, caller)
        if request.account:
            query = query.where(Volume.account == resolve(Account, request.account, "account", caller=caller))
        if request.vm:
            query = query.where(Volume.vm_id == resolve(Vm, request.vm, "vm", caller=caller).id)
        if request.pool:
            query = query.where(Volume.pool == resolve(Pool, request.pool, "pool"))
        if request.HasField("encrypted"):
            query = query.where(Volume.passphrase.is_null(not request.encrypted))
        query = select(query, Volume, request.selector)
        found = page(query, Volume, request, scope=caller.actor)
        return pb.ListVolumesResponse(
            volumes=convert_volumes.volumes(found.rows, caller), next_page_token=found.next_page_token
        )

    def GrowVolume(self, request: pb.GrowVolumeRequest, context: grpc.ServicerContext) -> LongRunning:
        caller = caller_of(context)
        row = resolve(Volume, request.volume, "volume", caller=caller)
        return start_operation(caller, request, lambda: volumes.grow(row, request.size_bytes, caller.actor))

    def AttachVolume(self, request: pb.AttachVolumeRequest, context: grpc.ServicerContext) -> LongRunning:
        caller = caller_of(context)
        row = resolve(Volume, request.volume, "volume", caller=caller)
        vm = resolve(Vm, request.vm, "vm", caller=caller)
        return start_operation(caller, request, lambda: volumes.attach(row, vm, caller.actor))

    def DetachVolume(self, request: pb.DetachVolumeRequest, context: grpc.ServicerContext) -> LongRunning:
        caller = caller_of(context)
        row = resolve(Volume, request.volume, "volume", caller=caller)
        return start_operation(caller, request, lambda: volumes.detach(row, caller.actor))

    def DeleteVolume(self, request: pb.DeleteVolumeRequest, context: grpc.ServicerContext) -> LongRunning:
        caller = caller_of(context)
        row = resolve(Volume, request.volume, "volume", caller=caller)
        return start_operation(caller, request, lambda: volumes.delete(row, caller.actor))

    def ForgetVolume(self, request: pb.ForgetVolumeRequest, context: grpc.ServicerContext) -> pb.ForgetVolumeResponse:
        caller = caller_of(context)
        row = resolve(Volume, request.volume, "volume", caller=caller)
        answer = pb.ForgetVolumeResponse(volume=convert_volumes.volume(row, caller))
        with transaction():
            lost = volumes.forget(row, caller.actor, validate_only=request.validate_only)
        answer.lost_snapshots.extend(snapshot.name for snapshot in lost)
        return answer

    def RekeyVolume(self, request: pb.RekeyVolumeRequest, context: grpc.ServicerContext) -> LongRunning:
        caller = caller_of(context)
        row = resolve(Volume, request.volume, "volume", caller=caller)
        return start_operation(caller, request, lambda: volumes.rekey(row, caller.actor, self._keys, request.deep))

    def EncryptVolume(self, request: pb.EncryptVolumeRequest, context: grpc.ServicerContext) -> LongRunning:
        caller = caller_of(context)
        row = resolve(Volume, request.volume, "volume", caller=caller)
        return start_operation(caller, request, lambda: volumes.encrypt(row, caller.actor, self._keys))

    def MigrateVolume(self, request: pb.MigrateVolumeRequest, context: grpc.ServicerContext) -> LongRunning:
        caller = caller_of(context)
        row, pool = resolve(Volume, request.volume, "volume", caller=caller), resolve(Pool, request.pool, "pool")
        return start_operation(
            caller, request, lambda: volumes.migrate(row, pool, caller.actor, self._keys, request.keep_key)
        )

    def ChangeVolumeOffering(self, request: pb.ChangeVolumeOfferingRequest, context: grpc.ServicerContext) -> pb.Volume:
        caller = caller_of(context)
        row = resolve(Volume, request.volume, "volume", caller=caller)
        offering = resolve(DiskOffering, request.disk_offering, "disk_offering")
        with transaction():
            changed = volumes.change_offering(row, offering, caller.actor, validate_only=request.validate_only)
        return convert_volumes.volume(changed, caller)

    def LimitVolume(self, request: pb.LimitVolumeRequest, context: grpc.ServicerContext) -> LongRunning:
        caller = caller_of(context)
        row = resolve(Volume, request.volume, "volume", caller=caller)
        limits = io_limits.from_message(request.limits) if request.HasField("limits") else None
        return start_operation(caller, request, lambda: volumes.limit(row, limits, caller.actor))

    def CopyVolume(self, request: pb.CopyVolumeRequest, context: grpc.ServicerContext) -> LongRunning:
        caller = caller_of(context)
        admins_only(caller, pool=request.pool)
        source = resolve(Volume, request.volume, "volume", caller=caller)
        pool = optional(Pool, request.pool, "pool") or source.pool
        wanted = volumes.NewCopy(name=request.name, account=source.account, source=source, pool=pool)
        return start_operation(caller, request, lambda: volumes.copy(wanted, caller.actor, self._keys))

    def DownloadVolume(
        self, request: pb.DownloadVolumeRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.DownloadVolumeResponse]:
        caller = caller_of(context)
        how = export_encryption(request.encryption)
        layout = from_enum(types_pb2.DiskFormat, "DISK_FORMAT_", request.format, "format", default="qcow2")
        with redact_errors_for(caller, request), transfer(how.passphrase) as at_work:
            with session():
                volume = optional(Volume, request.volume, "volume", caller=caller)
                snapshot = optional(Snapshot, request.snapshot, "snapshot", caller=caller)
                source = one_of(volume, snapshot)
                with transaction():
                    operation = volumes.download(source, layout, how, caller.actor, at_work.operation_id)
                launch(operation)
            for piece in relay(at_work, self._agents, context.is_active):
                yield pb.DownloadVolumeResponse(**asdict(piece))

    @lasting
    def UploadVolume(
        self, request_iterator: Iterator[pb.UploadVolumeRequest], context: grpc.ServicerContext
    ) -> LongRunning:
        caller = caller_of(context)
        header = first_header(request_iterator)
        with redact_errors_for(caller, header):
            with session():
                wanted = _uploaded(header, caller)
                volumes.check_upload(wanted, repeated=bool(header.request_id))
            pieces = data_of(request_iterator)
            received = template_store.received_file(wanted.announced, pieces, self._templates, wanted.account.id)
            with received as file, session():
                return start_operation(caller, header, lambda: volumes.upload(wanted, file, caller.actor, self._keys))


def _uploaded(header: pb.UploadVolumeRequest.Header, caller: Caller) -> volumes.NewUpload:
    admins_only(caller, pool=header.pool)
    passphrase = check_known_passphrase("header.passphrase", header.passphrase)
    return volumes.NewUpload(
        name=header.name,
        account=account_for(caller, header.account),
        offering=resolve(DiskOffering, header.disk_offering, "header.disk_offering"),
        pool=optional(Pool, header.pool, "header.pool"),
        announced=Announced(
            format=from_enum(types_pb2.DiskFormat, "DISK_FORMAT_", header.format, "header.format"),
            file_size_bytes=header.file_size_bytes,
            sha256=header.sha256,
            encrypted=passphrase is not None,
        ),
        passphrase=passphrase,
    )
