"""Files on their way into a staging directory: sent by the caller, or downloaded by the host that converts."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import grpc
from ostler.agent.v1 import conversion_pb2 as pb
from ostler_common.errors import AbortedError, FailedPreconditionError, NotFoundError, from_rpc_error

from ostler_control.agents import Agents
from ostler_control.agents.client import broken, unreachable
from ostler_control.database import session
from ostler_control.hosts.rows import address_of
from ostler_control.imports.record import ImportedFiles, ImportInputs
from ostler_control.imports.wanted import SourceFile
from ostler_control.models import Operation, Volume
from ostler_control.operations import Run
from ostler_control.operations.inputs import from_json
from ostler_control.states import UNFINISHED_OPERATIONS
from ostler_control.templates.source import direct_source

# Without a new byte for this long the caller is taken to be gone.
STALL_S = 600.0
_SHARE = (5, 50)
_CALL_S, _INSPECT_S, _TICK_S = 60.0, 600.0, 2.0
VERB = "vm.import"


@dataclass(frozen=True)
class StagedDisk:
    """A disk's image, whole in the staging directory. format: a value of pb.SourceFormat; sha256: hex, or ""."""

    name: str
    format: int
    sha256: str = ""


@dataclass(frozen=True)
class FileState:
    """A file of an import. received_bytes: how much of it is on the host."""

    file: SourceFile
    received_bytes: int
    complete: bool


def receive(run: Run, inputs: ImportInputs, files: ImportedFiles) -> None:
    """Inside a step: waits until the caller has sent every file.

    Raises AbortedError UPLOAD_STALLED.
    """
    run.phase("waiting for the files", _SHARE[0])
    total = sum(file.size_bytes for file in files.by_key.values())
    last, since = -1, time.monotonic()
    while True:
        run.check()
        states = file_states(run.agents, run.id, inputs, files)
        if all(state.complete for state in states):
            return
        done = sum(state.received_bytes for state in states)
        if done != last:
            last, since = done, time.monotonic()
            run.progress("receiving files", done, total, _SHARE)
        elif time.monotonic() - since > STALL_S:
            raise AbortedError(
                f"no data came for {STALL_S / 60:.0f} min, so the import was undone; import the files again",
                "UPLOAD_STALLED",
            )
        run.pause(_TICK_S)


def download(run: Run, inputs: ImportInputs, files: ImportedFiles) -> None:
    """Inside a step: has the host download the archive and unpack the files. Raises the job's OstlerError."""
    request = pb.DownloadArchiveRequest(
        operation=run.ref(),
        staging=staging_of(run.id, inputs),
        direct=direct_source(files.url, files.ca_pem),
        archive_size_bytes=files.archive_bytes,
        files=[
            pb.ArchiveFile(name=file.name, staged_name=file.staged_name, size_bytes=file.size_bytes)
            for file in files.by_key.values()
        ],
        timeout_s=inputs.timeout_s,
    )
    host = address_of(inputs.conversion_host_id)
    run.job(host, lambda agent: agent.conversion.DownloadArchive, request, _SHARE)


def inspect(run: Run, inputs: ImportInputs, files: ImportedFiles) -> dict[str, tuple[str, int, str]]:
    """Inside a step: what the images are, by the disk's key, as `StagedDisk` has it.

    Raises FailedPreconditionError SOURCE_LARGER, SOURCE_ENCRYPTED, and what the host finds wrong with an image.
    """
    run.phase("inspecting the files", _SHARE[1])
    names = [file.staged_name for file in files.by_key.values()]
    request = pb.InspectStagingRequest(staging=staging_of(run.id, inputs), images=names)
    try:
        found = run.agents.call(
            address_of(inputs.conversion_host_id), lambda agent: agent.conversion.InspectStaging, request, _INSPECT_S
        )
    except FailedPreconditionError as error:
        raise _with_own_names(error, files) from None
    images = {image.name: image for image in found.images}
    with session():
        sizes = {disk.key: Volume.get_by_id(disk.volume_id).size_bytes for disk in inputs.disks}
    for key, file in files.by_key.items():
        _check(file, images[file.staged_name], sizes[key])
    return {
        str(key): (file.staged_name, images[file.staged_name].format, file.sha256) for key, file in files.by_key.items()
    }


def _with_own_names(error: FailedPreconditionError, files: ImportedFiles) -> FailedPreconditionError:
    """The error with the names that the caller knows the files by."""
    message = error.message
    for file in files.by_key.values():
        message = message.replace(file.staged_name, file.name)
    return FailedPreconditionError(message, error.reason, error.metadata)


def _check(file: SourceFile, image: pb.StagedImage, size_bytes: int) -> None:
    if image.encrypted:
        raise FailedPreconditionError(
            f"{file.name} is encrypted; decrypt it first (qemu-img convert), or import it with `ostler volume upload`",
            "SOURCE_ENCRYPTED",
            {"file": file.name},
        )
    if image.virtual_size_bytes > size_bytes:
        raise FailedPreconditionError(
            f"{file.name} has a disk of {image.virtual_size_bytes} bytes, more than the {size_bytes} that were said",
            "SOURCE_LARGER",
            {"file": file.name},
        )


def staging_of(import_id: str, inputs: ImportInputs) -> pb.StagingRef:
    """The import's staging directory."""
    return pb.StagingRef(pool_id=inputs.pool_id, staging_id=import_id)


def file_states(agents: Agents, import_id: str, inputs: ImportInputs, files: ImportedFiles) -> list[FileState]:
    """How far each file has come. Raises NotFoundError STAGING_NOT_FOUND before there is a directory."""
    staged = agents.call(
        address_of(inputs.conversion_host_id),
        lambda agent: agent.conversion.GetStaging,
        pb.GetStagingRequest(staging=staging_of(import_id, inputs)),
        _CALL_S,
    )
    there = {file.name: file for file in staged.files}
    return [_state(file, there) for file in files.by_key.values()]


def _state(file: SourceFile, there: Mapping[str, pb.StagedFile]) -> FileState:
    found = there.get(file.staged_name)
    if found is None:
        return FileState(file, 0, complete=False)
    return FileState(file, found.size_bytes, found.complete and found.size_bytes == file.size_bytes)


def waiting_inputs(operation_id: str) -> tuple[ImportInputs, ImportedFiles]:
    """The inputs of an import that takes files from its caller: within a session.

    Raises NotFoundError OPERATION_NOT_FOUND, FailedPreconditionError IMPORT_NOT_RECEIVING.
    """
    operation = Operation.get_or_none(Operation.id == operation_id)
    if operation is None:
        raise NotFoundError(f"there is no operation {operation_id}", "OPERATION_NOT_FOUND")
    inputs = from_json(ImportInputs, operation.inputs) if operation.verb == VERB else None
    if inputs is None or inputs.files is None or inputs.files.url or operation.state not in UNFINISHED_OPERATIONS:
        raise FailedPreconditionError(
            f"operation {operation_id} takes no files: it is over, or its files come from elsewhere",
            "IMPORT_NOT_RECEIVING",
        )
    return inputs, inputs.files


def relay(
    agents: Agents, operation_id: str, name: str, offset: int, pieces: Iterator[pb.UploadFileRequest]
) -> pb.StagedFile:
    """Passes a file that a caller sends on to the host, piece by piece, so that no memory or disk is needed here.

    pieces: data, and at last `end`. Raises what `waiting_inputs` raises, NotFoundError FILE_NOT_FOUND for a file that
    the import does not need, and what the host says.
    """
    with session():
        inputs, files = waiting_inputs(operation_id)
        host = address_of(inputs.conversion_host_id)
    file = next((file for file in files.by_key.values() if file.name == name), None)
    if file is None:
        raise NotFoundError(f"operation {operation_id} needs no file {name[:80]!r}", "FILE_NOT_FOUND")
    begin = pb.UploadFileRequest.Begin(
        staging=staging_of(operation_id, inputs),
        name=file.staged_name,
        offset=offset,
        max_size_bytes=file.size_bytes,
    )

    def requests() -> Iterator[pb.UploadFileRequest]:
        yield pb.UploadFileRequest(begin=begin)
        yield from pieces

    try:
        answer: pb.StagedFile = agents.at(host).conversion.UploadFile(requests())
    except grpc.RpcError as error:
        failure = from_rpc_error(error)
        raise (unreachable(host, failure) if broken(failure) else failure) from None
    return answer
