"""ostler.control.v1.ImportService."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import grpc
from google.longrunning.operations_pb2 import Operation as LongRunning
from ostler.control.v1 import import_pb2 as pb
from ostler.control.v1 import import_pb2_grpc
from ostler_common.errors import bad_field
from ostler_common.secret import Secret

from ostler_control import volumes
from ostler_control.agents import Agents
from ostler_control.api import import_files, import_kvm_sources
from ostler_control.api.caller import caller_of
from ostler_control.api.convert import imports as convert
from ostler_control.api.labels import select
from ostler_control.api.networks import resolve_networks
from ostler_control.api.paging import list_page, page
from ostler_control.api.requests import once
from ostler_control.api.resolve import optional, resolve, visible
from ostler_control.api.start_operation import account_for, start_operation, started_earlier
from ostler_control.caller import Caller
from ostler_control.database import session, transaction
from ostler_control.imports import kvm_source, sources
from ostler_control.imports.facts import preflight
from ostler_control.imports.read_source import read_source_vm
from ostler_control.imports.record import is_by_host, record_import
from ostler_control.imports.wanted import DiskChoice, Wanted
from ostler_control.imports.warm import request_cut_over
from ostler_control.keys import Keyring
from ostler_control.models import (
    Cluster,
    DiskOffering,
    Host,
    ImportSource,
    Pool,
    ServiceOffering,
    Vm,
    Zone,
    new_id,
)
from ostler_control.vmware.inventory import SourceVm
from ostler_control.vmware.read_inventory import list_vms
from ostler_control.vmware.trust import Trust, trust_ca, trust_thumbprint
from ostler_control.volumes.export_encryption import check_known_passphrase

_MAX_NETWORKS, _MAX_DISKS = 64, 64
_MAX_TEXT = 255


class ImportService(import_pb2_grpc.ImportServiceServicer):
    """Handlers that ask a source hold no database connection meanwhile."""

    def __init__(self, keys: Keyring, agents: Agents) -> None:
        self._keys = keys
        self._agents = agents

    def CreateImportSource(
        self, request: pb.CreateImportSourceRequest, context: grpc.ServicerContext
    ) -> pb.ImportSource:
        caller = caller_of(context)
        if request.type == kvm_source.TYPE:
            return import_kvm_sources.create(request, caller, self._keys, self._agents)
        new = _new_source(request, caller)
        sources.prove(new)
        if request.validate_only:
            return convert.draft(new)
        with session():
            row = once(ImportSource, caller, request, lambda: sources.create(new, caller.actor, self._keys))
            return convert.source(row)

    def GetImportSource(self, request: pb.GetImportSourceRequest, context: grpc.ServicerContext) -> pb.ImportSource:
        with session():
            return convert.source(resolve(ImportSource, request.source, "source"))

    def ListImportSources(
        self, request: pb.ListImportSourcesRequest, context: grpc.ServicerContext
    ) -> pb.ListImportSourcesResponse:
        with session():
            query = select(visible(ImportSource, None), ImportSource, request.selector)
            found = page(query, ImportSource, request)
            rows = convert.import_sources(found.rows)
            return pb.ListImportSourcesResponse(sources=rows, next_page_token=found.next_page_token)

    def UpdateImportSource(
        self, request: pb.UpdateImportSourceRequest, context: grpc.ServicerContext
    ) -> pb.ImportSource:
        with session():
            row = resolve(ImportSource, request.source, "source")
        if row.type == kvm_source.TYPE:
            return import_kvm_sources.update(request, row, caller_of(context), self._keys, self._agents)
        import_kvm_sources.refuse_fields(request)
        password = Secret(request.password) if request.password else None
        new = sources.changed(row, request.username, password, _trust(request), self._keys)
        sources.prove(new)
        with session():
            return convert.source(sources.update(row, new, caller_of(context).actor, self._keys))

    def DeleteImportSource(
        self, request: pb.DeleteImportSourceRequest, context: grpc.ServicerContext
    ) -> pb.DeleteImportSourceResponse:
        with session():
            sources.delete(resolve(ImportSource, request.source, "source"), caller_of(context).actor)
        return pb.DeleteImportSourceResponse()

    def ListSourceVms(
        self, request: pb.ListSourceVmsRequest, context: grpc.ServicerContext
    ) -> pb.ListSourceVmsResponse:
        with session():
            row = resolve(ImportSource, request.source, "source")
        vms = sorted(self._list(row), key=lambda vm: (vm.name, vm.ref))
        found = list_page([vm for vm in vms if _matches(request, vm)], request)
        return pb.ListSourceVmsResponse(vms=map(convert.source_vm, found.rows), next_page_token=found.next_page_token)

    def CheckImport(self, request: pb.CheckImportRequest, context: grpc.ServicerContext) -> pb.CheckImportResponse:
        wanted = _wanted(request.spec, caller_of(context), _source(request.spec))
        vm, is_vcenter = self._read(wanted)
        with session():
            found = preflight(wanted, vm, is_vcenter)
            return convert.report(found.report, is_by_host(wanted, found.report))

    def ImportVm(self, request: pb.ImportVmRequest, context: grpc.ServicerContext) -> LongRunning:
        caller = caller_of(context)
        wanted = _wanted(request.spec, caller, _source(request.spec))
        vm, is_vcenter = self._read(wanted)
        with session():
            return start_operation(
                caller, request, lambda: record_import(wanted, vm, is_vcenter, caller.actor, self._keys)
            )

    def CutOverImport(
        self, request: pb.CutOverImportRequest, context: grpc.ServicerContext
    ) -> pb.CutOverImportResponse:
        caller = caller_of(context)
        with transaction():
            request_cut_over(resolve(Vm, request.vm, "vm", caller=caller), caller.actor)
        return pb.CutOverImportResponse()

    def ImportFiles(self, request: pb.ImportFilesRequest, context: grpc.ServicerContext) -> LongRunning:
        caller = caller_of(context)
        vm, wanted = import_files.prepare(request, _wanted(request.spec, caller, None), self._agents)
        with session():
            return start_operation(caller, request, lambda: record_import(wanted, vm, False, caller.actor, self._keys))

    def GetImportFiles(
        self, request: pb.GetImportFilesRequest, context: grpc.ServicerContext
    ) -> pb.GetImportFilesResponse:
        return import_files.states(request, self._agents)

    def UploadImportFile(
        self, request_iterator: Iterator[pb.UploadImportFileRequest], context: grpc.ServicerContext
    ) -> pb.UploadImportFileResponse:
        return import_files.upload(request_iterator, self._agents)

    def ImportVolume(self, request: pb.ImportVolumeRequest, context: grpc.ServicerContext) -> LongRunning:
        caller = caller_of(context)
        with session():
            earlier = started_earlier(caller, request)
            if earlier is not None:  # the file may have its volume's name by now
                return earlier
            wanted = _adopted(request, caller)
        found = volumes.inspect_file(wanted, self._agents)
        with session():
            return start_operation(caller, request, lambda: volumes.adopt(wanted, found, caller.actor, self._keys))

    def _read(self, wanted: Wanted) -> tuple[SourceVm, bool]:
        """The VM as it is now, and whether its source is a vCenter."""
        assert wanted.source is not None
        return read_source_vm(wanted.source, self._keys, self._agents, wanted.source_vm, wanted.conversion_host)

    def _list(self, source: ImportSource) -> list[SourceVm]:
        if source.type == kvm_source.TYPE:
            return kvm_source.list_vms(source, self._keys, self._agents)
        with sources.connect(source, self._keys) as connection:
            return list(list_vms(connection))


def _new_source(request: pb.CreateImportSourceRequest, caller: Caller) -> sources.NewSource:
    if request.type != sources.TYPE:
        raise bad_field("type", f'must be "{sources.TYPE}" or "{kvm_source.TYPE}"', "INVALID_SOURCE_TYPE")
    import_kvm_sources.refuse_fields(request)
    trust = _trust(request)
    if trust is None:
        raise bad_field("trust", "is required: a CA or the certificate's thumbprint", "REQUIRED")
    # A repeat of the request makes the same row, so that its password stays sealed for that.
    source_id = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{caller.id}/{request.request_id}"))
    return sources.NewSource(
        id=source_id if request.request_id else new_id(),
        name=request.name,
        address=request.address,
        username=request.username,
        password=Secret(request.password),
        trust=trust,
    )


def _trust(request: pb.CreateImportSourceRequest | pb.UpdateImportSourceRequest) -> Trust | None:
    kind = request.WhichOneof("trust")
    if kind == "ca_pem":
        return trust_ca(request.ca_pem)
    if kind == "thumbprint":
        return trust_thumbprint(request.thumbprint)
    return None


def _matches(request: pb.ListSourceVmsRequest, vm: SourceVm) -> bool:
    return (
        request.name_contains.lower() in vm.name.lower()
        and request.power in (pb.SourceVm.POWER_UNSPECIFIED, convert.POWERS[vm.power])
        and request.place in ("", vm.host, vm.cluster)
    )


def _adopted(request: pb.ImportVolumeRequest, caller: Caller) -> volumes.NewAdoption:
    return volumes.NewAdoption(
        name=request.name,
        account=account_for(caller, request.account),
        pool=resolve(Pool, request.pool, "pool"),
        file_name=request.file_name,
        format=request.format,
        offering=optional(DiskOffering, request.disk_offering, "disk_offering"),
        passphrase=check_known_passphrase("passphrase", request.passphrase),
    )


def _source(spec: pb.ImportSpec) -> ImportSource:
    with session():
        return resolve(ImportSource, spec.source, "spec.source")


def _wanted(spec: pb.ImportSpec, caller: Caller, source: ImportSource | None) -> Wanted:
    places = [name for name in (spec.zone, spec.cluster, spec.host) if name]
    if len(places) > 1:
        raise bad_field("spec.zone", "at most one of zone, cluster and host", "CONFLICTING_FIELDS")
    if len(spec.networks) > _MAX_NETWORKS or any(
        len(text) > _MAX_TEXT for pair in spec.networks.items() for text in pair
    ):
        raise bad_field(
            "spec.networks", f"must be at most {_MAX_NETWORKS}, of {_MAX_TEXT} characters", "TOO_MANY_NETWORKS"
        )
    if spec.stopped and spec.test_boot:
        raise bad_field("spec.test_boot", "excludes stopped: the VM is left off in both cases", "CONFLICTING_FIELDS")
    if spec.cut_over not in pb.CutOver.values():
        raise bad_field("spec.cut_over", "must be MANUAL or AUTO", "INVALID_FIELD")
    if spec.cut_over and not spec.warm:
        raise bad_field("spec.cut_over", "is of no use without warm", "CONFLICTING_FIELDS")
    if spec.warm and (source is None or spec.shutdown or spec.staging_pool or spec.force_control_download):
        raise bad_field(
            "spec.warm",
            "is for VMs of a source, and excludes shutdown, staging_pool and force_control_download: the guest is shut"
            " down at the cut-over, and nothing is staged",
            "CONFLICTING_FIELDS",
        )
    is_kvm = source is not None and source.type == kvm_source.TYPE
    if is_kvm and (spec.warm or spec.shutdown or spec.staging_pool or spec.force_control_download):
        raise bad_field(
            "spec.source",
            "is a KVM host, which excludes warm, shutdown, staging_pool and force_control_download: the source's VM is"
            " left alone, and nothing is staged",
            "CONFLICTING_FIELDS",
        )
    if not is_kvm and any(disk.passphrase for disk in spec.disks):
        raise bad_field("spec.disks", "have passphrases on a KVM host only", "CONFLICTING_FIELDS")
    if len(spec.disks) > _MAX_DISKS or len({disk.key for disk in spec.disks}) < len(spec.disks):
        raise bad_field("spec.disks", f"must name at most {_MAX_DISKS} disks, each once", "INVALID_DISK")
    with session():
        account = account_for(caller, spec.account)
        return Wanted(
            source=source,
            source_vm=spec.source_vm[:_MAX_TEXT],
            account=account,
            offering=resolve(ServiceOffering, spec.service_offering, "spec.service_offering"),
            name=spec.name,
            disk_offering=optional(DiskOffering, spec.disk_offering, "spec.disk_offering"),
            zone=optional(Zone, spec.zone, "spec.zone"),
            cluster=optional(Cluster, spec.cluster, "spec.cluster"),
            host=optional(Host, spec.host, "spec.host"),
            pool=optional(Pool, spec.pool, "spec.pool"),
            disks={
                disk.key: DiskChoice(
                    offering=optional(DiskOffering, disk.disk_offering, f"spec.disks[{number}].disk_offering"),
                    pool=optional(Pool, disk.pool, f"spec.disks[{number}].pool"),
                    passphrase=check_known_passphrase(f"spec.disks[{number}].passphrase", disk.passphrase),
                )
                for number, disk in enumerate(spec.disks)
            },
            networks=resolve_networks(spec.networks, "spec.networks", account),
            conversion_host=optional(Host, spec.conversion_host, "spec.conversion_host"),
            staging_pool=optional(Pool, spec.staging_pool, "spec.staging_pool"),
            shutdown=spec.shutdown,
            stopped=spec.stopped,
            test_boot=spec.test_boot,
            force_control_download=spec.force_control_download,
            warm=spec.warm,
            auto_cut_over=spec.cut_over == pb.AUTO,
            tpm=spec.tpm,
        )
