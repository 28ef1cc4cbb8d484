"""The conversion service over gRPC and TLS, as the control plane calls it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from ostler.agent.v1 import conversion_pb2, conversion_pb2_grpc
from ostler.types.v1 import job_pb2, volume_pb2
from ostler_agent.conversion import Conversions, DiskWrites, GuestConverter, InPlaceConversions
from ostler_agent.jobs import Jobs
from ostler_agent.journal import Journal
from ostler_agent.services.conversion import ConversionService
from ostler_agent.volumes.locks import VolumeLocks
from ostler_common import channel, errors, server
from ostler_common.identity import Identity, Kind
from ostler_common.tls import server_credentials

from tests.fakes.certificates import ThrowawayCa
from tests.fakes.runtime import FakeRuntime
from tests.unit.agent.conversion.conftest import Staged

HOST = "5b6c9a0c-0000-4000-8000-000000000001"
DATA = bytes(range(256)) * 4000
Request = conversion_pb2.UploadFileRequest
Stub = conversion_pb2_grpc.ConversionServiceStub


@pytest.fixture
def stub(staged: Staged, tmp_path: Path) -> Iterator[Stub]:
    jobs = Jobs(tmp_path / "jobs")
    converter = GuestConverter(tmp_path / "work", tmp_path / "cache", tmp_path / "virtio-win")
    shared = (staged.pools, FakeRuntime(), VolumeLocks())
    service = ConversionService(
        jobs,
        staged.staging,
        Conversions(staged.pools, staged.staging, VolumeLocks(), converter),
        DiskWrites(*shared, tmp_path / "work"),
        InPlaceConversions(*shared, converter),
    )
    fleet = ThrowawayCa(tmp_path)
    running = server.serve(
        "127.0.0.1:0",
        credentials=server_credentials(fleet.issue(Identity(Kind.HOST, HOST))),
        services={
            "ostler.agent.v1.ConversionService": lambda grpc_server: (
                conversion_pb2_grpc.add_ConversionServiceServicer_to_server(service, grpc_server)
            )
        },
        authorize=None,
    )
    files = fleet.issue(Identity(Kind.CONTROL, "c1"))
    with channel.open_channel(f"127.0.0.1:{running.port}", files, channel.host_server_name(HOST)) as opened:
        yield conversion_pb2_grpc.ConversionServiceStub(opened)
    running.stop(0).wait()
    jobs.stop(1)


def wire(staged: Staged) -> conversion_pb2.StagingRef:
    return conversion_pb2.StagingRef(pool_id=staged.ref.pool_id, staging_id=staged.ref.staging_id)


def retried(call: Callable[[], conversion_pb2.StagedFile]) -> conversion_pb2.StagedFile:
    """The agent may not have heard yet that the other upload is over."""
    while True:
        try:
            return call()
        except grpc.RpcError as error:
            if errors.from_rpc_error(error).reason != "FILE_BUSY":
                raise
            time.sleep(0.1)


def reason(caught: pytest.ExceptionInfo[grpc.RpcError]) -> str:
    return errors.from_rpc_error(caught.value).reason


def test_an_upload_whose_sender_died_resumes(staged: Staged, stub: Stub) -> None:
    def pieces(offset: int, broken: bool) -> Iterator[conversion_pb2.UploadFileRequest]:
        yield Request(begin=Request.Begin(staging=wire(staged), name="disk.vmdk", offset=offset))
        yield Request(data=DATA[offset : offset + 100_000])
        if broken:
            time.sleep(0.5)  # what was sent has arrived
            raise OSError
        yield Request(data=DATA[offset + 100_000 :])
        yield Request(end=Request.End(size_bytes=len(DATA), sha256=hashlib.sha256(DATA).hexdigest()))

    with pytest.raises(grpc.RpcError):
        stub.UploadFile(pieces(0, broken=True))
    [part] = stub.GetStaging(conversion_pb2.GetStagingRequest(staging=wire(staged))).files
    assert (part.name, part.size_bytes, part.complete) == ("disk.vmdk", 100_000, False)
    received = retried(lambda: stub.UploadFile(pieces(part.size_bytes, broken=False)))
    assert (received.size_bytes, received.complete) == (len(DATA), True)
    assert (staged.directory / "disk.vmdk").read_bytes() == DATA


def test_refusals_reach_the_caller(staged: Staged, stub: Stub) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.UploadFile(iter([Request(begin=Request.Begin(staging=wire(staged), name="../../etc/cron.d/x"))]))
    assert reason(caught) == "INVALID_FIELD"
    with pytest.raises(grpc.RpcError) as caught:
        stub.CreateStaging(conversion_pb2.CreateStagingRequest(staging=wire(staged), needed_bytes=1 << 60))
    assert reason(caught) == "POOL_FULL"
    stub.DeleteStaging(conversion_pb2.DeleteStagingRequest(staging=wire(staged)))
    with pytest.raises(grpc.RpcError) as caught:
        stub.GetStaging(conversion_pb2.GetStagingRequest(staging=wire(staged)))
    assert reason(caught) == "STAGING_NOT_FOUND"


def test_what_is_staged_is_told(staged: Staged, stub: Stub) -> None:
    (staged.directory / "disk.raw").write_bytes(bytes(4096))
    (staged.directory / "vm.ovf").write_bytes(b"<Envelope/>")
    (staged.directory / "vm.mf").write_text(f"SHA256(disk.raw)= {'AB' * 32}\nSHA1(x.vmdk)= 12\n")
    (staged.directory / ".late.raw.part").touch()
    found = stub.InspectStaging(conversion_pb2.InspectStagingRequest(staging=wire(staged)))
    [image] = found.images
    assert (image.name, image.format) == ("disk.raw", conversion_pb2.SOURCE_FORMAT_RAW)
    assert (image.virtual_size_bytes, image.file_size_bytes, image.encrypted) == (4096, 4096, False)
    assert image.manifest_sha256 == "ab" * 32
    assert (found.ovf.name, found.ovf.xml) == ("vm.ovf", b"<Envelope/>")
    with pytest.raises(grpc.RpcError) as caught:
        stub.InspectStaging(conversion_pb2.InspectStagingRequest(staging=wire(staged), images=["absent.raw"]))
    assert reason(caught) == "FILE_NOT_FOUND"


def test_the_password_of_an_export_is_not_written_down(staged: Staged, stub: Stub, tmp_path: Path) -> None:
    request = conversion_pb2.ExportVmRequest(
        operation=job_pb2.OperationRef(id="export", attempt=1),
        staging=wire(staged),
        server="not a host",
        username="import",
        password=b"s3cretword",
        timeout_s=60,
    )
    [*_, last] = stub.ExportVm(request)
    assert errors.from_status(last.error).reason == "INVALID_FIELD"
    record = Journal(tmp_path / "jobs").load("export")
    assert record
    assert record.request["username"] == "import"
    assert all(b"s3cretword" not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("field", "value"),
    [("mode", 0), ("timeout_s", 0), ("timeout_s", -1), ("disks", [])],
)
def test_a_conversion_with_a_bad_field(staged: Staged, stub: Stub, field: str, value: object) -> None:
    target = volume_pb2.VolumeRef(pool_id=staged.ref.pool_id, volume_id=HOST, format=volume_pb2.DISK_FORMAT_RAW)
    disk = conversion_pb2.SourceDisk(key="1", name="disk.raw", format=conversion_pb2.SOURCE_FORMAT_RAW, target=target)
    fields = {"mode": conversion_pb2.ConvertVmRequest.COPY, "timeout_s": 60, "disks": [disk], field: value}
    request = conversion_pb2.ConvertVmRequest(
        operation=job_pb2.OperationRef(id="convert", attempt=1),
        staging=wire(staged),
        **fields,  # type: ignore[arg-type]
    )
    try:
        [*_, last] = stub.ConvertVm(request)
        error = errors.from_status(last.error)
    except grpc.RpcError as failed:
        error = errors.from_rpc_error(failed)
    assert (error.reason, error.metadata["field"]) == ("INVALID_FIELD", field)
