"""Import sources, their VMs, and what a check of an import found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ostler.control.v1 import import_pb2 as pb

from ostler_control import labels
from ostler_control.api.convert.times import timestamp
from ostler_control.imports import kvm_source, sources
from ostler_control.imports.kvm_source import SshTrust, TlsTrust
from ostler_control.imports.preflight import Finding, Report, Severity
from ostler_control.models import Host, ImportSource, Pool
from ostler_control.vmware.inventory import Power, SourceVm

POWERS = {Power.ON: pb.SourceVm.ON, Power.OFF: pb.SourceVm.OFF, Power.SUSPENDED: pb.SourceVm.SUSPENDED}
_SEVERITIES = {
    Severity.INFO: pb.ImportFinding.INFO,
    Severity.WARNING: pb.ImportFinding.WARNING,
    Severity.ERROR: pb.ImportFinding.ERROR,
}


def import_sources(rows: Sequence[ImportSource]) -> list[pb.ImportSource]:
    """Without their passwords, of course."""
    own = labels.of_objects(ImportSource, [row.id for row in rows])
    return [_source(row, own.get(row.id, {})) for row in rows]


def source(row: ImportSource) -> pb.ImportSource:
    return import_sources([row])[0]


def _source(row: ImportSource, own_labels: Mapping[str, str]) -> pb.ImportSource:
    found = pb.ImportSource(
        id=row.id,
        name=row.name,
        type=row.type,
        address=row.address,
        username=row.username,
        thumbprint=row.thumbprint,
        ca_pem=row.ca_pem,
        create_time=timestamp(row.create_time),
        labels=own_labels,
    )
    if row.type == kvm_source.TYPE:
        _put_trust(found, kvm_source.trust_of(row))
    return found


def _put_trust(found: pb.ImportSource, trust: SshTrust | TlsTrust) -> None:
    if isinstance(trust, SshTrust):
        found.username, found.known_hosts = trust.username, trust.known_hosts
    else:
        found.ca_pem, found.client_certificate = trust.ca_pem, trust.client_certificate


def draft(new: sources.NewSource) -> pb.ImportSource:
    """One that was only checked."""
    return pb.ImportSource(
        name=new.name,
        type=sources.TYPE,
        address=new.address,
        username=new.username,
        thumbprint=new.trust.sha256,
        ca_pem=new.trust.ca_pem,
    )


def kvm_draft(new: kvm_source.NewKvmSource) -> pb.ImportSource:
    """A KVM host that was only checked."""
    found = pb.ImportSource(name=new.name, type=kvm_source.TYPE, address=new.address)
    _put_trust(found, new.trust)
    return found


def source_vm(vm: SourceVm) -> pb.SourceVm:
    """A VM of a source."""
    return pb.SourceVm(
        ref=vm.ref,
        name=vm.name,
        power=POWERS[vm.power],
        guest_id=vm.guest_id,
        guest_name=vm.guest_name,
        firmware=vm.firmware,
        secure_boot=vm.secure_boot,
        cpus=vm.cpus,
        memory_bytes=vm.memory_bytes,
        disks=[
            pb.SourceDisk(
                key=disk.key,
                label=disk.label,
                capacity_bytes=disk.capacity_bytes,
                kind=disk.kind,
                datastore=disk.datastore,
            )
            for disk in vm.disks
        ],
        nics=[pb.SourceNic(label=nic.label, model=nic.model, mac=nic.mac, network=nic.network) for nic in vm.nics],
        snapshots=vm.snapshots,
        tools=vm.tools,
        host=vm.host,
        cluster=vm.cluster,
        used_bytes=vm.used_bytes,
    )


def finding(found: Finding) -> pb.ImportFinding:
    """Something that a check found."""
    return pb.ImportFinding(
        code=found.code, severity=_SEVERITIES[found.severity], message=found.message, remedy=found.remedy
    )


def report(found: Report, by_host: bool) -> pb.CheckImportResponse:
    """What a preflight found. Within a session."""
    host = Host.get_or_none(Host.id == found.host_id)
    pool = Pool.get_or_none(Pool.id == found.pool_id)
    return pb.CheckImportResponse(
        go=found.is_go,
        findings=map(finding, found.findings),
        conversion_host_id=found.host_id,
        conversion_host_name=host.name if host else "",
        staging_pool_id=found.pool_id,
        staging_pool_name=pool.name if pool else "",
        estimated_s=found.estimated_s,
        download_by="host" if by_host else "control",
    )
