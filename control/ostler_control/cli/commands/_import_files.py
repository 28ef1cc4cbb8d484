"""`ostler import ova`, `ostler import image`: VMs from files."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import click
from google.longrunning.operations_pb2 import CancelOperationRequest, Operation
from ostler.control.v1 import import_pb2 as pb
from ostler.control.v1 import vm_pb2
from ostler_common import ova
from ostler_common.disk_capacity import capacity_bytes
from ostler_common.errors import FailedPreconditionError, OstlerError

from ostler_control.cli import text, transfers
from ostler_control.cli.app import App, pass_app
from ostler_control.cli.commands._import_spec import file_spec_options, image_spec_options
from ostler_control.cli.commands._vm_view import VIEW
from ostler_control.cli.finish import finish
from ostler_control.cli.names import NETWORK
from ostler_control.cli.options import CallOptions, operation_options

_POLL_S = 0.3
_READY_S = 300.0
_TRIES = 6
_DESCRIPTOR, _MANIFEST = ".ovf", ".mf"
_no_conversion_option = click.option(
    "--no-conversion", is_flag=True, help="Copy the disks as they are: for guests that have virtio drivers already."
)


@dataclass(frozen=True)
class LocalFile:
    """A file to send. offset: of its first byte in `path`, which may be an archive; claimed: what the manifest says."""

    name: str
    path: Path
    offset: int
    size_bytes: int
    claimed: ova.Digest | None = None

    def announced(self, capacity: int = 0) -> pb.AnnouncedFile:
        """It as the API has it."""
        sha256 = self.claimed.value if self.claimed and self.claimed.algorithm == "sha256" else ""
        return pb.AnnouncedFile(name=self.name, size_bytes=self.size_bytes, sha256=sha256, capacity_bytes=capacity)


@click.command("ova")
@click.argument("source", metavar="FILE|URL")
@file_spec_options
@_no_conversion_option
@click.option("--new-macs", is_flag=True, help="Give the network interfaces new MAC addresses.")
@click.option(
    "--ca-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="PEM file of the CA that signs the certificate of URL.  [default: the hosts' CAs]",
)
@operation_options()
@pass_app
def ova_command(
    app: App,
    source: str,
    spec: pb.ImportSpec,
    no_conversion: bool,
    new_macs: bool,
    ca_file: Path | None,
    call: CallOptions,
) -> None:
    """Imports the VM of an OVA archive or an OVF folder.

    FILE is an .ova archive, an .ovf descriptor with its files beside it, or a folder with one. It is sent to the host
    that converts it; what the manifest (.mf) says is checked. A URL (https) is downloaded by that host itself.

    The files are checked before they are sent. When the transfer breaks, run the command again with the same
    --request-id within ten minutes: it goes on where it stopped.

    \b
    Examples:
      ostler import ova appliance.ova --offering medium --network "VM Network=public"
      ostler import ova exported/web.ovf --offering medium --network "VM Network=public" --stopped
      ostler import ova https://example.org/appliance.ova --offering medium --network "VM Network=public"
    """
    request = pb.ImportFilesRequest(
        request_id=call.request_id,
        spec=spec,
        validate_only=call.dry_run,
        no_conversion=no_conversion,
        new_macs=new_macs,
    )
    if "://" in source:
        request.url = source
        request.ca_pem = ca_file.read_text() if ca_file else ""
        finish(app, app.client.imports.ImportFiles(request), VIEW, vm_pb2.Vm(), call)
        return
    if ca_file:
        raise click.UsageError("--ca-file is for a URL")
    descriptor, local = open_package(Path(source))
    request.ovf = descriptor
    request.files.extend(file.announced() for file in local)
    _import(app, request, local, call)


@click.command("image")
@click.argument(
    "files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False)
)
@image_spec_options
@click.option("--network", "networks", type=NETWORK, multiple=True, help="Network of an interface; may be repeated.")
@click.option(
    "--firmware",
    type=click.Choice(["bios", "uefi"]),
    default="bios",
    show_default=True,
    help="What the guest boots with.",
)
@click.option("--windows", is_flag=True, help="The guest is Windows: its drivers come from the host's virtio-win.")
@_no_conversion_option
@operation_options()
@pass_app
def image_command(
    app: App,
    files: Sequence[Path],
    spec: pb.ImportSpec,
    networks: Sequence[str],
    firmware: str,
    windows: bool,
    no_conversion: bool,
    call: CallOptions,
) -> None:
    """Imports disk images as a VM: qcow2, raw, VMDK, VHDX or VDI.

    The first FILE is the disk that the guest boots from. CPUs and memory are those of the offering. virt-v2v gives the
    guest drivers for its new hardware; --no-conversion copies the disks of a guest that has them.

    An image may not refer to other files: no backing file, no parent, no extents beside it.

    \b
    Examples:
      ostler import image web.vhdx --offering medium --network public
      ostler import image root.qcow2 data.raw --offering medium --disk-offering plain --no-conversion
    """
    local = [LocalFile(path.name, path, 0, path.stat().st_size) for path in files]
    request = pb.ImportFilesRequest(
        request_id=call.request_id,
        spec=spec,
        validate_only=call.dry_run,
        no_conversion=no_conversion,
        images=pb.ImageMachine(
            name=spec.name or files[0].stem,
            firmware=firmware,
            guest_id="windows" if windows else "",
            networks=networks,
        ),
    )
    for file in local:
        with file.path.open("rb") as opened:
            request.files.append(file.announced(capacity_bytes(opened)))
    _import(app, request, local, call)


def open_package(path: Path) -> tuple[bytes, list[LocalFile]]:
    """The descriptor of an archive or a folder, and the files that come with it.

    Raises FailedPreconditionError: NOT_AN_OVA, OVA_UNSAFE, OVA_TOO_LARGE; click.UsageError for a path that is neither.
    """
    if path.is_dir():
        found = sorted(path.glob(f"*{_DESCRIPTOR}"))
        if len(found) != 1:
            raise click.UsageError(f"{path} has {len(found)} files named *.ovf, not one: name the descriptor")
        path = found[0]
    if not path.is_file():
        raise click.UsageError(f"there is no file {path}")
    if path.suffix.lower() == _DESCRIPTOR:
        return _open_folder(path)
    return _open_archive(path)


def _open_folder(descriptor: Path) -> tuple[bytes, list[LocalFile]]:
    claims: dict[str, ova.Digest] = {}
    manifest = descriptor.with_suffix(_MANIFEST)
    if manifest.is_file():
        claims = ova.parse_manifest(_small(manifest, ova.MAX_MANIFEST_BYTES))
    xml = _small(descriptor, ova.MAX_DESCRIPTOR_BYTES)
    _check_descriptor(descriptor.name, xml, claims)
    others = [
        path
        for path in sorted(descriptor.parent.iterdir())
        if path.suffix.lower() not in (_DESCRIPTOR, _MANIFEST) and path.is_file() and not path.is_symlink()
    ]
    return xml, [
        LocalFile(path.name, path, 0, path.stat().st_size, claims.get(path.name))
        for path in others[: ova.MAX_MEMBERS]
        if ova.is_plain_name(path.name) and path.stat().st_size
    ]


def _open_archive(path: Path) -> tuple[bytes, list[LocalFile]]:
    descriptors: dict[str, bytes] = {}
    claims: dict[str, ova.Digest] = {}
    members: list[ova.Member] = []
    with path.open("rb") as file:
        reader = ova.Reader(file.read, lambda count: file.seek(count, os.SEEK_CUR))
        for member in reader.members():
            lower = member.name.lower()
            if lower.endswith(_DESCRIPTOR):
                descriptors[member.name] = ova.read_small(reader, member, ova.MAX_DESCRIPTOR_BYTES)
            elif lower.endswith(_MANIFEST):
                claims |= ova.parse_manifest(ova.read_small(reader, member, ova.MAX_MANIFEST_BYTES))
            elif member.size_bytes:
                members.append(member)
    if len(descriptors) != 1:
        raise FailedPreconditionError(
            f"{path} has {len(descriptors)} OVF descriptors, not one", "NOT_AN_OVA", {"file": path.name}
        )
    ((name, xml),) = descriptors.items()
    _check_descriptor(name, xml, claims)
    return xml, [LocalFile(m.name, path, m.offset, m.size_bytes, claims.get(m.name)) for m in members]


def _check_descriptor(name: str, xml: bytes, claims: dict[str, ova.Digest]) -> None:
    hashers = ova.hashers()
    for hasher in hashers.values():
        hasher.update(xml)
    ova.check_digest(name, claims.get(name), hashers)


def _small(path: Path, max_bytes: int) -> bytes:
    with path.open("rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise FailedPreconditionError(f"{path} is larger than {max_bytes} bytes", "OVA_TOO_LARGE", {"file": path.name})
    return data


def _import(app: App, request: pb.ImportFilesRequest, local: Sequence[LocalFile], call: CallOptions) -> None:
    operation = app.client.imports.ImportFiles(request)
    if not call.dry_run:
        try:
            _send_all(app, operation, {file.name: file for file in local})
        except OstlerError as error:
            if _may_go_on(error):
                click.echo(f"to go on where it stopped, add --request-id {request.request_id}", err=True)
                raise
            with contextlib.suppress(OstlerError):
                app.client.operations.CancelOperation(CancelOperationRequest(name=operation.name))
            raise
    finish(app, operation, VIEW, vm_pb2.Vm(), call)


def _send_all(app: App, operation: Operation, local: dict[str, LocalFile]) -> None:
    """Sends what is missing. An operation that is over meanwhile is left to `finish`, which says why."""
    operation_id = operation.name.rpartition("/")[2]
    for attempt in range(1, _TRIES + 1):
        try:
            for wanted in _wait_until_ready(app, operation_id).files:
                if not wanted.complete:
                    _send(app, operation_id, local[wanted.name], wanted.received_bytes)
            return
        except OstlerError as error:
            if error.reason == "IMPORT_NOT_RECEIVING":
                return
            if attempt == _TRIES or not _may_go_on(error):
                raise
            click.echo(f"{error.message}; trying again", err=True)
        time.sleep(_POLL_S * 2**attempt)


def _may_go_on(error: OstlerError) -> bool:
    """Whether a later upload may go on where this one broke. FILE_BUSY: the host has not noticed yet that it broke."""
    return error.code == "UNAVAILABLE" or error.reason == "FILE_BUSY"


def _wait_until_ready(app: App, operation_id: str) -> pb.GetImportFilesResponse:
    end = time.monotonic() + _READY_S
    while True:
        try:
            return app.client.imports.GetImportFiles(pb.GetImportFilesRequest(operation=operation_id))
        except OstlerError as error:
            if error.reason != "STAGING_NOT_FOUND" or time.monotonic() > end:
                raise
        time.sleep(_POLL_S)


def _send(app: App, operation_id: str, file: LocalFile, offset: int) -> None:
    header = pb.UploadImportFileRequest.Header(operation=operation_id, name=file.name, offset=offset)
    with ExitStack() as stack:
        source = stack.enter_context(file.path.open("rb"))
        advance = stack.enter_context(transfers.progress(f"{file.name}: upload", file.size_bytes))
        hashers = ova.hashers()
        answer = app.client.imports.UploadImportFile(_pieces(header, file, source, hashers, advance))
    ova.check_digest(file.name, file.claimed, hashers)
    if not answer.complete:
        raise FailedPreconditionError(
            f"only {text.size(answer.received_bytes)} of {file.name} arrived: was it changed?", "FILE_CORRUPT"
        )


def _pieces(
    header: pb.UploadImportFileRequest.Header,
    file: LocalFile,
    source: BinaryIO,
    hashers: ova.Hashers,
    advance: Callable[[int], None],
) -> Iterator[pb.UploadImportFileRequest]:
    """What has come already is read again for the digest, and not sent. A file with a wrong digest gets no end."""
    yield pb.UploadImportFileRequest(header=header)
    source.seek(file.offset)
    position = 0
    while position < file.size_bytes and (data := source.read(min(transfers.CHUNK_BYTES, file.size_bytes - position))):
        for hasher in hashers.values():
            hasher.update(data)
        position += len(data)
        advance(len(data))
        unsent = data[max(0, len(data) - max(0, position - header.offset)) :]
        if unsent:
            yield pb.UploadImportFileRequest(data=unsent)
    if ova.is_as_claimed(file.claimed, hashers):
        yield pb.UploadImportFileRequest(end=pb.UploadImportFileRequest.End(sha256=hashers["sha256"].hexdigest()))
