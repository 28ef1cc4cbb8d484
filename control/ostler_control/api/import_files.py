"""Imports from files: what a caller wants, and the files on their way."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Iterator, Mapping, Sequence

from ostler.agent.v1 import conversion_pb2
from ostler.control.v1 import import_pb2 as pb
from ostler_common.errors import FailedPreconditionError, bad_field

from ostler_control.agents import Agents
from ostler_control.api.networks import resolve_networks
from ostler_control.database import session
from ostler_control.imports import files, receive
from ostler_control.imports import ovf as descriptors
from ostler_control.imports.archive import find_descriptor
from ostler_control.imports.wanted import FileSource, SourceFile, Wanted
from ostler_control.templates.direct import inspect_url
from ostler_control.vmware.inventory import SourceVm

_FIRMWARES = ("bios", "uefi")


def prepare(request: pb.ImportFilesRequest, wanted: Wanted, agents: Agents) -> tuple[SourceVm, Wanted]:
    """The VM that the files describe, and what is wanted of it. With a URL, a host reads the archive's beginning.

    Raises InvalidArgumentError, FailedPreconditionError, and what `files` and `templates.direct.inspect_url` raise.
    """
    announced = [
        files.Announced(file.name, file.size_bytes, file.sha256, file.capacity_bytes) for file in request.files
    ]
    files.check_announced(announced)
    kind = request.WhichOneof("machine")
    if kind is None:
        raise bad_field("machine", "is required: a descriptor, images, or a URL", "REQUIRED")
    if request.ca_pem and kind != "url":
        raise bad_field("ca_pem", "is for a URL", "CONFLICTING_FIELDS")
    source = FileSource({}, convert=not request.no_conversion)
    if kind == "images":
        vm, used = _of_images(request.images, announced, wanted)
        with session():
            networks = resolve_networks(
                {name: name for name in request.images.networks}, "images.networks", wanted.account
            )
        return vm, dataclasses.replace(wanted, networks=networks, files=dataclasses.replace(source, files=used))
    xml = request.ovf
    if kind == "url":
        if announced:
            raise bad_field("files", "must be empty with a URL", "CONFLICTING_FIELDS")
        found = inspect_url(request.url, request.ca_pem, agents)
        xml, announced = find_descriptor(found.head), []
        source = dataclasses.replace(
            source, url=request.url, ca_pem=request.ca_pem, archive_bytes=found.file_size_bytes
        )
    described = descriptors.parse(xml)
    if kind == "url":
        announced = _in_archive(described, source.archive_bytes)
    vm, used = files.of_descriptor(described, announced, _new_mac, new_macs=request.new_macs)
    return vm, dataclasses.replace(wanted, files=dataclasses.replace(source, files=used))


def _of_images(
    machine: pb.ImageMachine, announced: Sequence[files.Announced], wanted: Wanted
) -> tuple[SourceVm, Mapping[int, SourceFile]]:
    if machine.firmware not in _FIRMWARES:
        raise bad_field("images.firmware", f"must be {' or '.join(_FIRMWARES)}", "INVALID_FIRMWARE")
    described = files.Machine(
        name=machine.name,
        firmware="efi" if machine.firmware == "uefi" else "bios",
        cpus=wanted.offering.cpus,
        memory_bytes=wanted.offering.memory_bytes,
        guest_id=machine.guest_id or "linux",
        networks=tuple(machine.networks),
    )
    return files.of_images(described, announced, _new_mac)


def _in_archive(described: descriptors.Ovf, archive_bytes: int) -> list[files.Announced]:
    """The files that an archive must have: of sizes that the descriptor claims, and together no larger than it is."""
    found = []
    for disk in described.disks:
        if disk.file_name and not disk.file_bytes:
            raise FailedPreconditionError(
                f"the descriptor does not say how large {disk.file_name} is; download the archive and import the file",
                "OVF_NO_SIZE",
                {"file": disk.file_name},
            )
        found.append(files.Announced(disk.file_name, disk.file_bytes))
    if sum(file.size_bytes for file in found) > archive_bytes:
        raise FailedPreconditionError("the descriptor claims larger files than the archive is", "ARCHIVE_INCOMPLETE")
    return found


def states(request: pb.GetImportFilesRequest, agents: Agents) -> pb.GetImportFilesResponse:
    """How far the files of an import have come."""
    with session():
        inputs, imported = receive.waiting_inputs(request.operation)
    return pb.GetImportFilesResponse(
        files=[
            pb.GetImportFilesResponse.File(
                name=state.file.name,
                size_bytes=state.file.size_bytes,
                received_bytes=state.received_bytes,
                complete=state.complete,
            )
            for state in receive.file_states(agents, request.operation, inputs, imported)
        ]
    )


def upload(requests: Iterator[pb.UploadImportFileRequest], agents: Agents) -> pb.UploadImportFileResponse:
    """Passes a file on to the host. Raises InvalidArgumentError, and what `receive.relay` raises."""
    first = next(requests, None)
    if first is None or not first.HasField("header"):
        raise bad_field("header", "must be in the first message", "REQUIRED")
    header = first.header
    if header.offset < 0:
        raise bad_field("header.offset", "must not be negative", "INVALID_OFFSET")
    staged = receive.relay(agents, header.operation, header.name, header.offset, _pieces(requests, header.offset))
    return pb.UploadImportFileResponse(received_bytes=staged.size_bytes, complete=staged.complete)


def _pieces(
    requests: Iterator[pb.UploadImportFileRequest], size_bytes: int
) -> Iterator[conversion_pb2.UploadFileRequest]:
    """What the agent is sent; the end tells it the size that came."""
    for request in requests:
        if request.HasField("data"):
            size_bytes += len(request.data)
            yield conversion_pb2.UploadFileRequest(data=request.data)
        elif request.HasField("end"):
            end = conversion_pb2.UploadFileRequest.End(size_bytes=size_bytes, sha256=request.end.sha256)
            yield conversion_pb2.UploadFileRequest(end=end)
            return
        else:
            raise bad_field("piece", "must be data or end after the first message", "REQUIRED")


def _new_mac() -> str:
    return files.random_mac(secrets.token_bytes)
