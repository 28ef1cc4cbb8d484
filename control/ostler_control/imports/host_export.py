"""The conversion host downloads the disks itself, with ovftool."""

from __future__ import annotations

from ostler.agent.v1 import conversion_pb2 as pb
from ostler_common.errors import FailedPreconditionError

from ostler_control.agents import HostAddress
from ostler_control.imports import ovf
from ostler_control.imports.ovf import Ovf
from ostler_control.imports.record import ImportInputs
from ostler_control.operations import Run
from ostler_control.vmware.connection import Connection
from ostler_control.vmware.export import stream_count
from ostler_control.vmware.inventory import SourceVm
from ostler_control.vmware.trust import shown_sha256

_INSPECT_S = 600.0
_SHARE = (5, 50)

# The OVF's words for what the API calls by its types.
_CONTROLLERS = {
    "virtualscsi": "ParaVirtualSCSIController",
    "lsilogic": "VirtualLsiLogicController",
    "lsilogicsas": "VirtualLsiLogicSASController",
    "buslogic": "VirtualBusLogicController",
    "vmware.sata.ahci": "VirtualAHCIController",
    "vmware.nvme.controller": "VirtualNVMEController",
    "piix4": "VirtualIDEController",
}


def export_by_host(
    run: Run,
    connection: Connection,
    host: HostAddress,
    staging: pb.StagingRef,
    vm: SourceVm,
    ref: str,
    inputs: ImportInputs,
) -> dict[str, str]:
    """Inside a step: has a host export a VM. Returns file names by device key.

    Raises the job's OstlerError; InvalidArgumentError NOT_AN_OVF; FailedPreconditionError OVF_DISKS_DIFFER when the
    files are not the VM's disks.
    """
    request = pb.ExportVmRequest(
        operation=run.ref(),
        staging=staging,
        server=connection.server.name,
        username=connection.server.user,
        password=connection.reveal_password(),
        thumbprint=shown_sha256(connection.ssl_context, connection.server.host, connection.server.port),
        vm_moref=ref,
        parallel_threads=stream_count(inputs.streams, len(vm.disks)),
        timeout_s=inputs.timeout_s,
    )
    run.job(host, lambda agent: agent.conversion.ExportVm, request, _SHARE)
    found = run.agents.call(
        host, lambda agent: agent.conversion.InspectStaging, pb.InspectStagingRequest(staging=staging), _INSPECT_S
    )
    return disk_names(vm, ovf.parse(found.ovf.xml))


def disk_names(vm: SourceVm, descriptor: Ovf) -> dict[str, str]:
    """File names by device key: a disk is known by its controller and unit, never by its position."""
    by_address = {disk.address: disk for disk in vm.disks}
    names: dict[str, str] = {}
    for described in descriptor.disks:
        kind = _CONTROLLERS.get(described.controller, described.controller)
        disk = by_address.pop((kind, described.bus_number, described.unit), None)
        if disk is None:
            raise _differ(vm, f"{described.file_name} is on a controller that no disk of the VM is on")
        names[str(disk.key)] = described.file_name
    if by_address:
        raise _differ(vm, f"{', '.join(disk.label for disk in by_address.values())} is missing")
    return names


def _differ(vm: SourceVm, what: str) -> FailedPreconditionError:
    return FailedPreconditionError(
        f"the exported files are not the disks of VM {vm.name}: {what}; use --force-control-download",
        "OVF_DISKS_DIFFER",
    )
