"""A warm copy at its target: areas written into encrypted volumes, then converted in place, whatever is killed."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from ostler.agent.v1 import conversion_pb2 as pb
from ostler.types.v1 import job_pb2, vm_pb2, volume_pb2
from ostler_agent.conversion.disk_writes import Data, End, Zero
from ostler_agent.spec import DiskFormat, Key, VolumeRef
from ostler_agent.tools import qemu_img
from ostler_common.errors import FailedPreconditionError, InvalidArgumentError, OstlerError

from tests.host.conftest import Storage, contents, need, new_key, wire
from tests.host.fake_virt_v2v import CONVERTS, HANGS_ALONE, SAYS, reason, virt_v2v
from tests.host.imports import Imports, processes
from tests.host.volumes import MIB, wait_for

SIZE = 4 * MIB
AGENT = """
import sys, time
from pathlib import Path
from ostler.agent.v1 import conversion_pb2 as pb
from tests.host.conftest import Storage
from tests.host.imports import Imports, processes

root, pool_id, staging_id, method, request = sys.argv[1:]
imports = Imports(Storage(Path(root), pool_id), staging_id)
if method == "ConvertVolumes":
    list(imports.service.ConvertVolumes(pb.ConvertVolumesRequest.FromString(bytes.fromhex(request)), None))

def pieces():
    yield pb.WriteDiskRequest.FromString(bytes.fromhex(request))
    yield pb.WriteDiskRequest(data=pb.WriteDiskRequest.Data(offset=0, data=b"half"))
    time.sleep(600)

imports.service.WriteDisk(pieces(), None)
"""
State = job_pb2.JobUpdate.State


@pytest.fixture
def imports(storage: Storage) -> Imports:
    need("qemu-storage-daemon")
    return Imports(storage)


def volume(imports: Imports, disk_format: DiskFormat, key: Key | None) -> VolumeRef:
    ref = imports.storage.ref(disk_format, key)
    qemu_img.create(imports.storage.path(ref), disk_format, SIZE, key=key)
    return ref


def write(imports: Imports, ref: VolumeRef, *pieces: Data | Zero, digest: str = "") -> int:
    hasher = hashlib.sha256()
    for piece in pieces:
        if isinstance(piece, Data):
            hasher.update(piece.data)
    return imports.service._writes.receive(ref, iter([*pieces, End(digest or hasher.hexdigest())]))


@pytest.mark.parametrize("disk_format", list(DiskFormat))
@pytest.mark.parametrize("key", [None, new_key()], ids=["plain", "encrypted"])
def test_areas_are_written_again_and_again(
    imports: Imports, tmp_path: Path, disk_format: DiskFormat, key: Key | None
) -> None:
    ref = volume(imports, disk_format, key)
    first = bytes(range(256)) * 4096
    write(imports, ref, Zero(0, SIZE), Data(MIB, first))
    assert write(imports, ref, Data(MIB + 512, b"x" * 512), Zero(MIB + 4096, 65536 - 4096)) == 512
    expected = bytearray(SIZE)
    expected[MIB : 2 * MIB] = first
    expected[MIB + 512 : MIB + 1024] = b"x" * 512
    expected[MIB + 4096 : MIB + 65536] = bytes(65536 - 4096)
    assert contents(imports.storage.path(ref), ref, tmp_path / "clear")[:SIZE] == bytes(expected)
    if key:
        assert first[:4096] not in imports.storage.path(ref).read_bytes(), "no clear data in the pool"
    assert list(imports.work_dir.iterdir()) == []


@pytest.mark.parametrize(
    ("piece", "digest", "code"),
    [
        (Data(SIZE - 512, bytes(1024)), "", "INVALID_FIELD"),
        (Zero(SIZE, 512), "", "INVALID_FIELD"),
        (Data(-512, bytes(512)), "", "INVALID_FIELD"),
        (Data(0, b"a"), "0" * 64, "DATA_CORRUPT"),
    ],
)
def test_what_cannot_be_written_is_refused(imports: Imports, piece: Data | Zero, digest: str, code: str) -> None:
    ref = volume(imports, DiskFormat.QCOW2, new_key())
    with pytest.raises(OstlerError) as refused:
        write(imports, ref, piece, digest=digest)
    assert refused.value.reason == code
    assert list(imports.work_dir.iterdir()) == []


def test_a_broken_stream_is_no_success(imports: Imports) -> None:
    ref = volume(imports, DiskFormat.QCOW2, new_key())

    def breaks() -> Iterator[Data]:
        yield Data(0, b"a" * 512)
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        imports.service._writes.receive(ref, breaks())
    with pytest.raises(InvalidArgumentError):
        imports.service._writes.receive(ref, iter([Data(0, b"a" * 512)]))
    assert write(imports, ref, Data(0, b"b" * 512)) == 512, "the volume is free again"


def test_a_volume_that_a_vm_uses_is_not_written(imports: Imports) -> None:
    ref = volume(imports, DiskFormat.QCOW2, new_key())
    imports.storage.guests.volumes[ref.volume_id] = str(uuid.uuid4())
    with pytest.raises(FailedPreconditionError) as refused:
        write(imports, ref, Data(0, b"a"))
    assert refused.value.reason == "VOLUME_IN_USE"


def conversion_of(*refs: VolumeRef) -> pb.ConvertVolumesRequest:
    return pb.ConvertVolumesRequest(
        operation=job_pb2.OperationRef(id=f"convert.{uuid.uuid4()}", attempt=1),
        disks=[
            pb.GuestVolume(key=str(number), volume=wire(ref), provisioning=volume_pb2.PROVISIONING_THIN)
            for number, ref in enumerate(refs)
        ],
        firmware=vm_pb2.FIRMWARE_BIOS,
        timeout_s=60,
    )


def convert(imports: Imports, *refs: VolumeRef) -> job_pb2.JobUpdate:
    *_, last = imports.service.ConvertVolumes(conversion_of(*refs), None)  # type: ignore[arg-type]
    return last


def test_a_guest_is_converted_in_its_volumes(imports: Imports, tmp_path: Path) -> None:
    system, data = volume(imports, DiskFormat.QCOW2, new_key()), volume(imports, DiskFormat.RAW, new_key())
    write(imports, system, Data(0, b"guest" * 100))
    with virt_v2v(CONVERTS):
        update = convert(imports, system, data)
    assert (update.state, reason(update)) == (State.SUCCEEDED, "")
    assert [disk.key for disk in update.conversion_report.disks] == ["0", "1"]
    assert contents(imports.storage.path(system), system, tmp_path / "clear").startswith(b"convertedt")
    assert list(imports.work_dir.iterdir()) == []


def test_a_failed_conversion_keeps_the_volumes_to_be_written_anew(imports: Imports, tmp_path: Path) -> None:
    ref = volume(imports, DiskFormat.QCOW2, new_key())
    with virt_v2v(SAYS + "printf half | dd of=/tmp/disks/0 conv=notrunc status=none; exit 1"):
        assert convert(imports, ref).state == State.FAILED
    write(imports, ref, Zero(0, SIZE), Data(0, b"again"))
    with virt_v2v(CONVERTS.replace("printf converted", "printf ok")):
        assert convert(imports, ref).state == State.SUCCEEDED
    assert contents(imports.storage.path(ref), ref, tmp_path / "clear").startswith(b"okain\0")


@pytest.mark.parametrize("method", ["WriteDisk", "ConvertVolumes"])
def test_an_agent_that_is_killed_leaves_volumes_that_can_be_written_anew(tmp_path: Path, method: str) -> None:
    need("qemu-storage-daemon")
    pool_id, staging_id = str(uuid.uuid4()), str(uuid.uuid4())
    first = Imports(Storage(tmp_path, pool_id), staging_id)
    ref = volume(first, DiskFormat.QCOW2, new_key())
    request = conversion_of(ref)
    begin = pb.WriteDiskRequest(begin=pb.WriteDiskRequest.Begin(volume=wire(ref)))
    sent = begin.SerializeToString() if method == "WriteDisk" else request.SerializeToString()
    arguments = [str(tmp_path), pool_id, staging_id, method, sent.hex()]
    with virt_v2v(HANGS_ALONE):
        environment = os.environ | {"PYTHONPATH": ":".join(sys.path)}
        with subprocess.Popen([sys.executable, "-c", AGENT, *arguments], env=environment) as agent:
            if method == "ConvertVolumes":
                wait_for(lambda: any(first.work_dir.rglob("v2v.part")))
            else:
                wait_for(lambda: any(first.work_dir.rglob("0")))
            agent.kill()
        wait_for(lambda: not processes("sleep 701"))
        wait_for(lambda: not processes(ref.volume_id))
        after = Imports(Storage(tmp_path, pool_id, recover=False), staging_id)
    after.storage.jobs.recover()
    assert list(after.work_dir.iterdir()) == []
    if method == "ConvertVolumes":
        assert reason(after.storage.jobs.get(request.operation.id)) == "INTERRUPTED"
        request.operation.attempt = 2
        with virt_v2v(CONVERTS):
            *_, last = after.service.ConvertVolumes(request, None)  # type: ignore[arg-type]
        assert reason(last) == "INTERRUPTED", "a guest that may be half converted is not converted again"
    write(after, ref, Zero(0, SIZE), Data(0, b"again"))
    with virt_v2v(CONVERTS):
        assert convert(after, ref).state == State.SUCCEEDED
