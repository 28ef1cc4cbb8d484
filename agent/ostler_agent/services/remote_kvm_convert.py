"""VMs of other hosts to and from protobuf; bad input is refused here, by field."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ostler.agent.v1 import remote_kvm_pb2 as pb
from ostler.types.v1 import job_pb2, vm_pb2
from ostler_common.errors import bad_field
from ostler_common.secret import Secret

from ostler_agent.conversion.remote_copies import RemoteDiskCopy, RemoteVmCopy
from ostler_agent.conversion.remote_vms import InspectedVm, RemoteServer
from ostler_agent.conversion.volume_set import ConversionReport
from ostler_agent.services import convert
from ostler_agent.tools.remote_disk import Layer
from ostler_agent.tools.ssh import SshServer
from ostler_agent.tools.tls import TlsServer

MAX_NAME = 255
MAX_PASSPHRASE_BYTES = 1024
_MAX_PROBLEMS = 200


class _Request(Protocol):
    """A request that names a host."""

    @property
    def server(self) -> pb.SshServer: ...

    @property
    def tls(self) -> pb.TlsServer: ...


def server(request: _Request) -> RemoteServer:
    """The host of a request, and the way to it. Raises InvalidArgumentError."""
    if request.tls.host:
        return TlsServer(
            host=request.tls.host,
            port=request.tls.port,
            ca_pem=request.tls.ca_pem,
            certificate=request.tls.client_certificate,
            private_key=Secret(request.tls.private_key),
        )
    return SshServer(
        host=request.server.host,
        port=request.server.port,
        username=request.server.username,
        private_key=Secret(request.server.private_key),
        known_hosts=request.server.known_hosts,
    )


def vm(value: InspectedVm) -> pb.RemoteVm:
    definition = value.vm.definition
    response = pb.RemoteVm(
        vm_id=value.vm.vm_id,
        name=value.vm.name,
        power_state=convert.POWER_STATES[value.vm.power_state],
        problems=[
            pb.RemoteVm.Problem(code=problem.code, text=problem.text, refuses=problem.refuses)
            for problem in value.problems[:_MAX_PROBLEMS]
        ],
    )
    if definition is None:
        return response
    response.cpus, response.memory_bytes = definition.cpus, definition.memory_bytes
    response.firmware = vm_pb2.FIRMWARE_UEFI if definition.uefi else vm_pb2.FIRMWARE_BIOS
    response.secure_boot, response.os_id = definition.secure_boot, definition.os_id
    for disk in definition.disks:
        images = [
            pb.RemoteImage(
                path=image.path,
                format=convert.to_format(image.format),
                # A raw image does not tell: its guest may have written what looks like a LUKS header.
                encrypted=image.encrypted or (disk.luks and number == 0),
            )
            for number, image in enumerate(value.chains.get(disk.target, ()))
        ]
        response.disks.add(
            target=disk.target,
            capacity_bytes=value.vm.capacities.get(disk.target, 0),
            encrypted=disk.luks or any(image.encrypted for image in images),
            images=images,
        )
    for nic in definition.nics:
        response.nics.add(mac=nic.mac, network=nic.network, model=nic.model)
    return response


def copy(message: pb.CopyRemoteDisksRequest) -> RemoteVmCopy:
    """Raises InvalidArgumentError."""
    return RemoteVmCopy(
        vm_id=convert.uuid_field(message.vm_id, "vm_id"),
        copy_id=convert.uuid_field(message.copy_id, "copy_id"),
        running=message.running,
        disks=tuple(_disk(disk, f"disks[{number}]") for number, disk in enumerate(message.disks)),
    )


def report(disks: Sequence[RemoteDiskCopy], value: ConversionReport) -> job_pb2.ConversionReport:
    return job_pb2.ConversionReport(
        disks=[
            job_pb2.ConvertedDisk(key=disk.target, volume=convert.volume_info(volume))
            for disk, volume in zip(disks, value.volumes, strict=True)
        ],
        elapsed_ms=value.elapsed_ms,
        warnings=value.warnings,
    )


def _disk(message: pb.RemoteDiskCopy, path: str) -> RemoteDiskCopy:
    return RemoteDiskCopy(
        target=message.target,
        layers=tuple(
            Layer(
                image.path,
                convert.disk_format(image.format, f"{path}.images[{number}].format"),
                _passphrase(message.passphrase, f"{path}.passphrase") if image.encrypted else None,
            )
            for number, image in enumerate(message.images)
        ),
        volume=convert.volume_ref(message.volume, f"{path}.volume"),
        size_bytes=convert.size_field(message.size_bytes, f"{path}.size_bytes"),
        provisioning=convert.provisioning(message.provisioning, f"{path}.provisioning"),
    )


def _passphrase(value: bytes, path: str) -> Secret | None:
    """None for none, which a recorded request has; an encrypted image is refused without it when it is opened."""
    try:
        value.decode()
    except UnicodeDecodeError:
        raise bad_field(path, "must be UTF-8 text") from None
    if len(value) > MAX_PASSPHRASE_BYTES:
        raise bad_field(path, f"must be at most {MAX_PASSPHRASE_BYTES} bytes")
    return Secret(value) if value else None
