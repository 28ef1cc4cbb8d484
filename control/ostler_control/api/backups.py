"""ostler.control.v1.BackupService."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import grpc
from google.longrunning.operations_pb2 import Operation as LongRunning
from ostler.control.v1 import backup_pb2 as pb
from ostler.control.v1 import backup_pb2_grpc
from ostler_common.errors import bad_field
from ostler_common.secret import Secret

from ostler_control import vm_backups
from ostler_control.agents import Agents
from ostler_control.api.caller import caller_of
from ostler_control.api.convert import backups as convert
from ostler_control.api.convert.enums import from_enum
from ostler_control.api.labels import select
from ostler_control.api.paging import page
from ostler_control.api.redact import redact_errors_for
from ostler_control.api.requests import once
from ostler_control.api.resolve import optional, resolve, visible
from ostler_control.api.start_operation import admins_only, start_operation
from ostler_control.caller import Caller
from ostler_control.catalog.names import is_id
from ostler_control.database import session, transaction
from ostler_control.keys import Keyring
from ostler_control.models import (
    Account,
    Backup,
    BackupSchedule,
    BackupStore,
    Cluster,
    Pool,
    ServiceOffering,
    Vm,
    Zone,
    new_id,
)
from ostler_control.objects import stores
from ostler_control.objects.bucket import Bucket
from ostler_control.operations import launch
from ostler_control.pools import manage
from ostler_control.pools.access_key import set_access_key
from ostler_control.volumes.download import transfer

_SCOPES: dict[str, type[Cluster | Zone]] = {"cluster": Cluster, "zone": Zone}


class BackupService(backup_pb2_grpc.BackupServiceServicer):
    """What is done with stores waits for hosts or buckets, so these calls hold no connection meanwhile."""

    def __init__(self, agents: Agents, keys: Keyring) -> None:
        self._agents = agents
        self._keys = keys

    def CreateBackupStore(self, request: pb.CreateBackupStoreRequest, context: grpc.ServicerContext) -> pb.BackupStore:
        caller = caller_of(context)
        pool = _new_store(request, caller)
        if pool.bucket is not None:
            pool.bucket.probe()
        verified = manage.verify(self._agents, pool)
        if request.validate_only:
            manage.remove_from_hosts(self._agents, pool.id, pool.scope, pool.scope_id)
            return pb.BackupStore(
                name=pool.name,
                type=pool.type,
                path=pool.path,
                source=pool.source,
                scope_name=pool.scope_name,
                capacity_bytes=verified.capacity_bytes,
                available_bytes=verified.available_bytes,
            )
        with session():
            row = once(
                Pool, caller, request, lambda: manage.create(pool, verified, caller.actor, self._keys, store=True)
            )
            return convert.stores([row])[0]

    def ListBackupStores(
        self, request: pb.ListBackupStoresRequest, context: grpc.ServicerContext
    ) -> pb.ListBackupStoresResponse:
        with session():
            query = visible(Pool, None).where(Pool.id.in_(BackupStore.select(BackupStore.pool)))
            found = page(select(query, Pool, request.selector), Pool, request)
            return pb.ListBackupStoresResponse(stores=convert.stores(found.rows), next_page_token=found.next_page_token)

    def SetBackupStoreKey(self, request: pb.SetBackupStoreKeyRequest, context: grpc.ServicerContext) -> pb.BackupStore:
        with session():
            pool = resolve(Pool, request.store, "store")
            vm_backups.check_store(pool)
        secret_key = Secret(request.secret_key)
        set_access_key(pool, request.access_key, secret_key, caller_of(context).actor, self._keys)
        with session():
            return convert.stores([pool])[0]

    def DeleteBackupStore(
        self, request: pb.DeleteBackupStoreRequest, context: grpc.ServicerContext
    ) -> pb.DeleteBackupStoreResponse:
        with session():
            pool = resolve(Pool, request.store, "store")
            vm_backups.check_store(pool)
        manage.delete(self._agents, pool, caller_of(context).actor)
        return pb.DeleteBackupStoreResponse()

    def CreateBackup(self, request: pb.CreateBackupRequest, context: grpc.ServicerContext) -> LongRunning:
        caller = caller_of(context)
        admins_only(caller, store=request.store)
        with session():
            vm = resolve(Vm, request.vm, "vm", caller=caller)
            wanted = vm_backups.NewBackup(vm, request.name, optional(Pool, request.store, "store"), request.full)
            return start_operation(caller, request, lambda: vm_backups.create(wanted, caller.actor, self._keys))

    def GetBackup(self, request: pb.GetBackupRequest, context: grpc.ServicerContext) -> pb.Backup:
        caller = caller_of(context)
        with session():
            return convert.backup(resolve(Backup, request.backup, "backup", caller=caller), caller)

    def ListBackups(self, request: pb.ListBackupsRequest, context: grpc.ServicerContext) -> pb.ListBackupsResponse:
        caller = caller_of(context)
        with session():
            query = visible(Backup, caller)
            if request.account:
                query = query.where(Backup.account == resolve(Account, request.account, "account", caller=caller))
            if request.vm:
                query = query.where(Backup.vm_id == _vm_id(request.vm, caller))
            query = select(query, Backup, request.selector)
            found = page(query, Backup, request, scope=caller.actor, newest_first=True)
            rows = convert.backups(found.rows, caller)
            return pb.ListBackupsResponse(backups=rows, next_page_token=found.next_page_token)

    def VerifyBackup(self, request: pb.VerifyBackupRequest, context: grpc.ServicerContext) -> LongRunning:
        caller = caller_of(context)
        with session():
            row = resolve(Backup, request.backup, "backup", caller=caller)
            if request.boot:
                timeout_s, text = request.boot_timeout_s, request.console_text
                return start_operation(caller, request, lambda: vm_backups.boot(row, caller.actor, timeout_s, text))
            return start_operation(caller, request, lambda: vm_backups.verify(row, caller.actor))

    def DeleteBackup(self, request: pb.DeleteBackupRequest, context: grpc.ServicerContext) -> LongRunning:
        caller = caller_of(context)
        with session():
            row = resolve(Backup, request.backup, "backup", caller=caller)
            return start_operation(caller, request, lambda: vm_backups.delete(row, caller.actor))

    def RestoreVm(self, request: pb.RestoreVmRequest, context: grpc.ServicerContext) -> LongRunning:
        caller = caller_of(context)
        admins_only(caller, pool=request.pool)
        with session():
            wanted = vm_backups.NewVmRestore(
                backup=resolve(Backup, request.backup, "backup", caller=caller),
                name=request.name,
                offering=optional(ServiceOffering, request.service_offering, "service_offering"),
                pool=optional(Pool, request.pool, "pool"),
                keep_macs=request.keep_macs,
                without_nics=request.without_nics,
            )
            return start_operation(caller, request, lambda: vm_backups.restore_vm(wanted, caller.actor, self._keys))

    def RestoreVmOver(self, request: pb.RestoreVmOverRequest, context: grpc.ServicerContext) -> LongRunning:
        caller = caller_of(context)
        with session():
            row = resolve(Backup, request.backup, "backup", caller=caller)
            return start_operation(caller, request, lambda: vm_backups.restore_over(row, caller.actor, self._keys))

    def RestoreVolume(self, request: pb.RestoreVolumeRequest, context: grpc.ServicerContext) -> LongRunning:
        caller = caller_of(context)
        admins_only(caller, pool=request.pool)
        with session():
            wanted = vm_backups.NewDiskRestore(
                backup=resolve(Backup, request.backup, "backup", caller=caller),
                slot=request.slot,
                name=request.name,
                pool=optional(Pool, request.pool, "pool"),
            )
            return start_operation(caller, request, lambda: vm_backups.restore_disk(wanted, caller.actor, self._keys))

    def ReadBackupFiles(
        self, request: pb.ReadBackupFilesRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.ReadBackupFilesResponse]:
        caller = caller_of(context)
        wanted = vm_backups.WantedFiles(request.path, request.file_system, request.content)
        with redact_errors_for(caller, request), transfer(None) as at_work:
            with session():
                row = resolve(Backup, request.backup, "backup", caller=caller)
                with transaction():
                    operation = vm_backups.read_files(row, wanted, caller.actor, at_work.operation_id)
                launch(operation)
            parts = vm_backups.relay_files(at_work, row.id, wanted, self._agents, self._keys, context.is_active)
            yield from map(convert.files, parts)

    def CreateBackupSchedule(
        self, request: pb.CreateBackupScheduleRequest, context: grpc.ServicerContext
    ) -> pb.BackupSchedule:
        caller, keep = caller_of(context), request.keep
        with session():
            wanted = vm_backups.NewSchedule(
                vm=resolve(Vm, request.vm, "vm", caller=caller),
                interval=from_enum(pb.BackupSchedule.Interval, "", request.interval, "interval"),
                minute=request.minute,
                hour=request.hour,
                day=request.day,
                keep=vm_backups.Retention(keep.last, keep.daily, keep.weekly, keep.monthly),
            )
            row = once(BackupSchedule, caller, request, lambda: vm_backups.create_schedule(wanted, caller.actor))
            return convert.schedules([row], caller)[0]

    def ListBackupSchedules(
        self, request: pb.ListBackupSchedulesRequest, context: grpc.ServicerContext
    ) -> pb.ListBackupSchedulesResponse:
        caller = caller_of(context)
        with session():
            query = visible(BackupSchedule, caller)
            if request.vm:
                query = query.where(BackupSchedule.vm == resolve(Vm, request.vm, "vm", caller=caller))
            query = select(query, BackupSchedule, request.selector)
            found = page(query, BackupSchedule, request, scope=caller.actor)
            rows = convert.schedules(found.rows, caller)
            return pb.ListBackupSchedulesResponse(schedules=rows, next_page_token=found.next_page_token)

    def DeleteBackupSchedule(
        self, request: pb.DeleteBackupScheduleRequest, context: grpc.ServicerContext
    ) -> pb.DeleteBackupScheduleResponse:
        caller = caller_of(context)
        with session():
            row = resolve(BackupSchedule, request.schedule, "schedule", caller=caller)
            vm_backups.delete_schedule(row, caller.actor)
        return pb.DeleteBackupScheduleResponse()


def _vm_id(ref: str, caller: Caller) -> str:
    """The id of a VM; one that is gone is known by its id only."""
    return ref.lower() if is_id(ref) else resolve(Vm, ref, "vm", caller=caller).id


def _new_store(request: pb.CreateBackupStoreRequest, caller: Caller) -> manage.NewPool:
    scope = request.WhichOneof("scope")
    if scope is None:
        raise bad_field("scope", "is required: a cluster or a zone", reason="REQUIRED")
    bucket = _bucket(request)
    if bucket is None and not request.path and not request.source:
        raise bad_field("path", "is required: a directory on the hosts, or an NFS export (source)", reason="REQUIRED")
    with session():
        place = resolve(_SCOPES[scope], getattr(request, scope), scope)
    # A repeat of the request speaks to the hosts of the same store, and so leaves nothing behind there.
    repeatable = request.request_id and not request.validate_only
    return manage.NewPool(
        id=str(uuid.uuid5(uuid.NAMESPACE_OID, f"{caller.id}/{request.request_id}")) if repeatable else new_id(),
        name=request.name,
        type=stores.TYPE if bucket else "nfs" if request.source else "shared-mount-point",
        scope=scope,
        scope_id=place.id,
        scope_name=place.name,
        path=request.path,
        source=bucket.url if bucket else request.source,
        options={},
        bucket=bucket,
    )


def _bucket(request: pb.CreateBackupStoreRequest) -> Bucket | None:
    if not request.HasField("s3"):
        return None
    if request.source:
        raise bad_field("source", "must be empty: a store is a bucket or an NFS export")
    try:
        ca_pem = request.s3.ca_pem.decode("ascii")
    except UnicodeDecodeError:
        raise bad_field("s3.ca_pem", "contains no PEM certificate", "INVALID_CERTIFICATE") from None
    bucket = Bucket(
        endpoint=request.s3.endpoint.rstrip("/"),
        name=request.s3.bucket,
        prefix=request.s3.prefix.strip("/"),
        region=request.s3.region or stores.DEFAULT_REGION,
        access_key=request.s3.access_key,
        secret_key=Secret(request.s3.secret_key),
        ca_pem=ca_pem,
    )
    stores.check(bucket)
    return bucket
