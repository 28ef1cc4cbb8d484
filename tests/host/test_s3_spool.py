"""A host sends files from its spool to an S3 server and reads them from there, with real encrypted images.

The server is one of ours, which can be made to fail, or OpenStack Swift.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from ostler.agent.v1 import volume_pb2
from ostler.types.v1 import job_pb2
from ostler_agent.jobs import JobContext
from ostler_agent.pools import POOL_TYPES, Pools, PoolSpec, objects
from ostler_agent.pools.s3 import S3 as S3Pool
from ostler_agent.spec import DiskFormat, RemoteObject, VolumeRef
from ostler_agent.tools import qemu_img
from ostler_agent.volumes.disk_copies import Pair
from ostler_common.errors import OstlerError
from ostler_common.secret import Secret

from tests import swift
from tests.fakes import s3
from tests.fakes.s3 import S3
from tests.host.conftest import Storage, contents, job, new_key, wire
from tests.swift import Swift

MIB = 1 << 20
PART = 100_000  # no multiple of anything


@dataclass
class Spool:
    """A host with a local pool and a store in a bucket."""

    storage: Storage
    server: S3 | Swift
    spec: PoolSpec

    @property
    def directory(self) -> Path:
        return Path(self.spec.path)

    @property
    def fake(self) -> S3:
        assert isinstance(self.server, S3)
        return self.server

    def ref(self) -> VolumeRef:
        return VolumeRef(self.spec.pool_id, str(uuid.uuid4()), DiskFormat.QCOW2, new_key())

    def path(self, ref: VolumeRef) -> Path:
        return self.directory / ref.volume_id

    def request(self, ref: VolumeRef, upload_id: str) -> volume_pb2.UploadVolumeRequest:
        size, bucket = self.path(ref).stat().st_size, self.server.bucket()
        parts = [
            volume_pb2.UploadPart(
                url=bucket.part_url(ref.volume_id, upload_id, number, 600),
                offset=offset,
                size_bytes=min(PART, size - offset),
            )
            for number, offset in enumerate(range(0, size, PART), 1)
        ]
        operation = job_pb2.OperationRef(id=str(uuid.uuid4()), attempt=1)
        return volume_pb2.UploadVolumeRequest(
            operation=operation, volume=wire(ref), parts=parts[:64], ca_pem=self.server.ca_pem
        )

    def send(self, ref: VolumeRef) -> VolumeRef:
        """Makes a file of the spool an object, and says where to get it."""
        bucket = self.server.bucket()
        upload_id = bucket.begin_upload(ref.volume_id)
        *_, last = self.storage.service.UploadVolume(self.request(ref, upload_id), None)  # type: ignore[arg-type]
        assert last.state == job_pb2.JobUpdate.SUCCEEDED, last.error
        data = self.path(ref).read_bytes()
        bucket.complete_upload(ref.volume_id, upload_id, last.uploaded_parts.etags, len(data))
        self.storage.volumes.delete(job(), ref)
        url = Secret(bucket.get_url(ref.volume_id, 600).encode())
        remote = RemoteObject(url, self.server.ca_pem, len(data), hashlib.sha256(data).hexdigest())
        return replace(ref, remote=remote)

    def files(self) -> list[str]:
        return sorted(path.name for path in self.directory.iterdir())


@pytest.fixture
def spool(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Spool]:
    """With the server that the test's parameter names, or the fake one."""
    serving: Callable[[Path], AbstractContextManager[S3 | Swift]]
    serving = swift.serving if getattr(request, "param", "") == "swift" else s3.serving
    monkeypatch.setattr(objects, "FIRST_PAUSE_S", 0.0)
    storage = Storage(tmp_path / "storage")
    with serving(tmp_path) as server:
        spec = PoolSpec(str(uuid.uuid4()), "s3", str(tmp_path / "spool"), f"{server.endpoint}/{s3.NAME}/one")
        storage.pools.ensure(spec)
        yield Spool(storage, server, spec)


def disk(spool: Spool, content: bytes) -> VolumeRef:
    """An encrypted volume with this content."""
    ref = spool.storage.ref(DiskFormat.QCOW2, new_key())
    raw = spool.storage.root / "raw"
    raw.write_bytes(content)
    qemu_img.convert(raw, DiskFormat.RAW, spool.storage.path(ref), DiskFormat.QCOW2, key=ref.key)
    return ref


def reason(call: Callable[[], object]) -> str:
    with pytest.raises(OstlerError) as caught:
        call()
    assert "X-Amz" not in caught.value.message
    return caught.value.reason


def sent_disk(spool: Spool, content: bytes) -> VolumeRef:
    copy = spool.ref()
    spool.storage.volumes.disk_copies.copy(job(), "vm", [Pair(disk(spool, content), copy)], str(uuid.uuid4()))
    return spool.send(copy)


@pytest.mark.parametrize("spool", ["fake", "swift"], indirect=True)
def test_increments_are_sent_and_restored_bit_for_bit(spool: Spool, tmp_path: Path) -> None:
    content = bytearray(os.urandom(3 * MIB))
    source, full, part = disk(spool, bytes(content)), spool.ref(), spool.ref()
    copies, ids = spool.storage.volumes.disk_copies, [str(uuid.uuid4()), str(uuid.uuid4())]
    copies.copy(job(), "vm", [Pair(source, full)], ids[0])
    sent_full = spool.send(full)
    written = os.urandom(64 << 10)
    content[MIB : MIB + len(written)] = written
    (tmp_path / "written").write_bytes(written)
    secret = source.key
    assert secret is not None
    assert secret.passphrase is not None
    image = f"driver=qcow2,file.filename={spool.storage.path(source)},encrypt.key-secret=s"
    command = ["qemu-io", "--object", "secret,id=s,file=/dev/stdin", "--image-opts", image]
    command += ["-c", f"write -s {tmp_path / 'written'} {MIB} {len(written)}"]
    subprocess.run(command, input=secret.passphrase.reveal(), check=True)
    [info] = copies.copy(job(), "vm", [Pair(source, part, ids[0])], ids[1])
    assert info.full_reason == ""
    sent_part = spool.send(part)
    assert spool.files() == []
    restored = spool.storage.ref(DiskFormat.QCOW2, new_key())
    spool.storage.volumes.copies.copy(job(), sent_part, restored, parents=[sent_full])
    assert contents(spool.storage.path(restored), restored, tmp_path / "out") == bytes(content)
    assert spool.files() == []
    digest = spool.storage.volumes.digest(job(), sent_part)
    assert sent_part.remote is not None
    assert (digest.sha256, digest.file_size_bytes) == (sent_part.remote.sha256, sent_part.remote.size_bytes)
    assert spool.files() == []


def test_a_download_goes_on_where_it_broke_off(spool: Spool) -> None:
    ref = sent_disk(spool, os.urandom(2 * MIB))
    spool.fake.cut[:] = [700_000, 1, 900_000]
    spool.fake.fail["GET"] = [(503, "SlowDown")]
    assert ref.remote is not None
    assert spool.storage.volumes.digest(job(), ref).sha256 == ref.remote.sha256


@pytest.mark.parametrize("change", ["other", "longer", "shorter", "gone"])
def test_what_is_not_as_it_was_sent_is_refused_and_leaves_nothing(spool: Spool, change: str) -> None:
    ref = sent_disk(spool, os.urandom(MIB))
    [(key, good)] = spool.fake.objects.items()
    bad = {"other": good[:-1] + bytes([good[-1] ^ 1]), "longer": good + b"x", "shorter": good[:-1]}
    if change == "gone":
        spool.fake.objects.clear()
    else:
        spool.fake.objects[key] = bad[change]
    expected = "VOLUME_NOT_FOUND" if change == "gone" else "OBJECT_DAMAGED"
    assert reason(lambda: spool.storage.volumes.digest(job(), ref)) == expected
    assert spool.files() == []


def test_a_part_is_sent_again_when_the_server_is_busy(spool: Spool) -> None:
    spool.fake.fail["put-part"] = [(503, "SlowDown")]
    sent_disk(spool, os.urandom(MIB))
    [data] = spool.fake.objects.values()
    assert spool.fake.asked.count("put-part") == len(range(0, len(data), PART)) + 1


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ((403, "AccessDenied"), "STORE_CREDENTIALS"),
        ((404, "NoSuchUpload"), "OBJECT_NOT_FOUND"),
        ((400, "X"), "STORE_REFUSED"),
    ],
)
def test_a_part_that_is_refused_is_said(spool: Spool, answer: tuple[int, str], expected: str) -> None:
    copy = spool.ref()
    spool.storage.volumes.disk_copies.copy(job(), "vm", [Pair(disk(spool, os.urandom(MIB)), copy)], str(uuid.uuid4()))
    spool.fake.fail["put-part"] = [answer]
    request = spool.request(copy, spool.fake.bucket().begin_upload(copy.volume_id))
    *_, last = spool.storage.service.UploadVolume(request, None)  # type: ignore[arg-type]
    assert last.state == job_pb2.JobUpdate.FAILED
    assert expected in str(last.error)
    assert "X-Amz" not in str(last.error)


def test_a_cancelled_transfer_ends_at_once_and_leaves_nothing(spool: Spool) -> None:
    ref = sent_disk(spool, os.urandom(MIB))
    cancelled = JobContext("cancelled")
    cancelled.cancel()
    assert reason(lambda: spool.storage.volumes.digest(cancelled, ref)) == "CANCELLED"
    assert spool.files() == []


def test_a_silent_server_is_given_up(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = sent_disk(spool, os.urandom(MIB))
    monkeypatch.setattr(objects, "STALL_S", 0.2)
    monkeypatch.setattr(objects, "ATTEMPTS", 2)
    spool.fake.lock.acquire()  # it reads requests, and answers none
    try:
        assert reason(lambda: spool.storage.volumes.digest(job(), ref)) == "STORE_TOO_SLOW"
    finally:
        spool.fake.lock.release()
    assert spool.files() == []


def test_room_is_checked_for_a_whole_chain_before_anything_is_read(spool: Spool) -> None:
    refs = [sent_disk(spool, os.urandom(MIB)) for _ in range(2)]
    free = spool.storage.pools.get(spool.spec.pool_id).available_bytes

    def half_of_all(ref: VolumeRef) -> VolumeRef:
        assert ref.remote is not None
        return replace(ref, remote=replace(ref.remote, size_bytes=free * 2 // 3))

    spool.fake.asked.clear()
    first, second = map(half_of_all, refs)
    target = spool.storage.ref(DiskFormat.QCOW2, new_key())
    assert reason(lambda: spool.storage.volumes.copies.copy(job(), first, target, parents=[second])) == "POOL_FULL"
    assert spool.fake.asked == []


def test_an_agent_that_starts_removes_what_the_last_one_had_downloaded(spool: Spool, tmp_path: Path) -> None:
    ref = sent_disk(spool, os.urandom(MIB))
    (spool.directory / f".{ref.volume_id}.1234.download").write_bytes(b"half")
    (spool.directory / ref.volume_id).write_bytes(b"to be sent")
    types = [S3Pool() if pool_type.name == "s3" else pool_type for pool_type in POOL_TYPES]
    again = Pools(spool.storage.root / "state", types)
    again.restore()
    assert spool.files() == [ref.volume_id]
    again.ensure(spool.spec)


def test_hosts_agree_on_a_bucket_and_the_journal_has_no_urls(spool: Spool, tmp_path: Path) -> None:
    other = Pools(tmp_path / "other", [S3Pool(tmp_path / "spools")])
    mark = other.ensure(replace(spool.spec, path="")).fingerprint
    assert mark == spool.storage.pools.get(spool.spec.pool_id).fingerprint
    assert (tmp_path / "spools" / spool.spec.pool_id).is_dir()
    assert (
        mark != other.ensure(replace(spool.spec, path="", pool_id=str(uuid.uuid4()), source="https://h/b")).fingerprint
    )
    sent_disk(spool, os.urandom(MIB))
    told = "".join(path.read_text() for path in (spool.storage.root / "jobs").iterdir())
    assert "volume.upload" in told
    assert "X-Amz" not in told


@pytest.mark.parametrize("source", ["http://h/b", "https://h", "https://u@h/b", "https://h/b?x", "nas:/b"])
def test_a_bad_source_is_refused(spool: Spool, source: str) -> None:
    spec = replace(spool.spec, pool_id=str(uuid.uuid4()), source=source)
    assert reason(lambda: spool.storage.pools.ensure(spec)) == "INVALID_FIELD"
