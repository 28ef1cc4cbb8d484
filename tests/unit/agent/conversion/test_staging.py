"""Staging directories, and the files that are received into them."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator

import pytest
from ostler.agent.v1 import conversion_pb2
from ostler_agent.conversion import StagingRef, Uploads
from ostler_agent.conversion.staging import MAX_FILES, StagedFile, check_name
from ostler_agent.conversion.uploads import MAX_PIECE_BYTES, Begin, End
from ostler_agent.services import conversion_convert
from ostler_common.errors import (
    AbortedError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    OstlerError,
    ResourceExhaustedError,
)

from tests.unit.agent.conversion.conftest import Staged

DATA = bytes(range(256)) * 100


def end(data: bytes) -> End:
    return End(len(data), hashlib.sha256(data).hexdigest())


def reason(caught: pytest.ExceptionInfo[OstlerError]) -> str:
    return caught.value.reason


def test_creating_and_deleting_can_be_repeated(staged: Staged) -> None:
    assert staged.staging.create(staged.ref).files == ()
    assert staged.directory.stat().st_mode & 0o777 == 0o700
    staged.staging.delete(staged.ref)
    staged.staging.delete(staged.ref)
    assert [path.name for path in staged.pool.iterdir()] == [".ostler-pool"]
    with pytest.raises(NotFoundError) as caught:
        staged.staging.inspect(staged.ref)
    assert reason(caught) == "STAGING_NOT_FOUND"


def test_a_pool_without_the_space_is_refused(staged: Staged) -> None:
    other = StagingRef(staged.ref.pool_id, str(uuid.uuid4()))
    with pytest.raises(ResourceExhaustedError) as caught:
        staged.staging.create(other, 1 << 60)
    assert reason(caught) == "POOL_FULL"
    assert not (staged.pool / f".staging.{other.staging_id}").exists()


def test_it_is_not_deleted_while_it_is_used(staged: Staged) -> None:
    with staged.staging.using(staged.ref), pytest.raises(AbortedError) as caught:
        staged.staging.delete(staged.ref)
    assert reason(caught) == "STAGING_BUSY"
    staged.staging.delete(staged.ref)


def test_a_link_in_its_place_is_not_followed(staged: Staged) -> None:
    staged.directory.rmdir()
    elsewhere = staged.pool.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "disk.raw").touch()
    staged.directory.symlink_to(elsewhere)
    with pytest.raises(NotFoundError):
        staged.staging.inspect(staged.ref)
    with pytest.raises(OSError):
        staged.staging.delete(staged.ref)
    assert (elsewhere / "disk.raw").exists()


@pytest.mark.parametrize(
    "name",
    ["", "a", "../a.vmdk", "/etc/a.vmdk", "a/b.vmdk", ".a.vmdk", "a.vmdk\n", "a.sh", "a b.vmdk", "é.vmdk", "x" * 129],
)
def test_names_that_no_file_may_have(staged: Staged, name: str) -> None:
    with pytest.raises(InvalidArgumentError):
        check_name(name, "name")
    with pytest.raises(InvalidArgumentError):
        Uploads(staged.staging).receive(Begin(staged.ref, name), iter([end(b"")]))
    assert list(staged.directory.iterdir()) == []


def test_a_file_is_there_whole_once_its_digest_is_right(staged: Staged) -> None:
    received = Uploads(staged.staging).receive(
        Begin(staged.ref, "disk.vmdk"), iter([DATA[:1000], DATA[1000:], end(DATA)])
    )
    assert received == StagedFile("disk.vmdk", len(DATA), complete=True)
    assert (staged.directory / "disk.vmdk").read_bytes() == DATA
    assert staged.staging.inspect(staged.ref).files == (received,)


def test_a_broken_upload_resumes(staged: Staged) -> None:
    uploads = Uploads(staged.staging)

    def breaks() -> Iterator[bytes | End]:
        yield DATA[:1000]
        raise ConnectionError

    with pytest.raises(ConnectionError):
        uploads.receive(Begin(staged.ref, "disk.vmdk"), breaks())
    [part] = staged.staging.inspect(staged.ref).files
    assert part == StagedFile("disk.vmdk", 1000, complete=False)
    assert uploads.receive(Begin(staged.ref, "disk.vmdk", 900), iter([DATA[900:2000]])).size_bytes == 2000
    received = uploads.receive(Begin(staged.ref, "disk.vmdk", 2000), iter([DATA[2000:], end(DATA)]))
    assert received.complete
    assert (staged.directory / "disk.vmdk").read_bytes() == DATA


def test_an_upload_from_the_start_replaces_the_file(staged: Staged) -> None:
    uploads = Uploads(staged.staging)
    for data in (DATA, b"short"):
        uploads.receive(Begin(staged.ref, "disk.vmdk"), iter([data, end(data)]))
    assert (staged.directory / "disk.vmdk").read_bytes() == b"short"


def test_an_offset_beyond_what_is_there_names_what_is(staged: Staged) -> None:
    uploads = Uploads(staged.staging)
    uploads.receive(Begin(staged.ref, "disk.vmdk"), iter([DATA[:10]]))
    with pytest.raises(FailedPreconditionError) as caught:
        uploads.receive(Begin(staged.ref, "disk.vmdk", 11), iter([end(DATA)]))
    assert (reason(caught), caught.value.metadata["size_bytes"]) == ("OFFSET_TOO_LARGE", "10")


@pytest.mark.parametrize("wrong", [End(len(DATA) + 1, end(DATA).sha256), End(len(DATA), "0" * 64)])
def test_a_corrupt_file_is_gone(staged: Staged, wrong: End) -> None:
    with pytest.raises(FailedPreconditionError) as caught:
        Uploads(staged.staging).receive(Begin(staged.ref, "disk.vmdk"), iter([DATA, wrong]))
    assert reason(caught) == "FILE_CORRUPT"
    assert list(staged.directory.iterdir()) == []


def test_limits(staged: Staged) -> None:
    uploads = Uploads(staged.staging)
    with pytest.raises(ResourceExhaustedError) as caught:
        uploads.receive(Begin(staged.ref, "disk.vmdk", 0, 1000), iter([DATA]))
    assert reason(caught) == "FILE_TOO_LARGE"
    with pytest.raises(InvalidArgumentError):
        uploads.receive(Begin(staged.ref, "disk.vmdk"), iter([bytes(MAX_PIECE_BYTES + 1)]))
    for number in range(MAX_FILES):
        (staged.directory / f"{number}.raw").touch()
    with pytest.raises(ResourceExhaustedError) as caught:
        uploads.receive(Begin(staged.ref, "one-more.vmdk"), iter([DATA]))
    assert reason(caught) == "TOO_MANY_FILES"


def test_one_upload_of_a_file_at_a_time(staged: Staged) -> None:
    uploads = Uploads(staged.staging)

    def second() -> Iterator[bytes | End]:
        with pytest.raises(AbortedError) as caught:
            uploads.receive(Begin(staged.ref, "disk.vmdk"), iter([DATA]))
        assert reason(caught) == "FILE_BUSY"
        yield DATA
        yield end(DATA)

    assert uploads.receive(Begin(staged.ref, "disk.vmdk"), second()).complete


def test_the_messages_of_an_upload(staged: Staged) -> None:
    request = conversion_pb2.UploadFileRequest
    begin = conversion_pb2.UploadFileRequest.Begin(name="disk.raw", offset=7)
    begin.staging.pool_id, begin.staging.staging_id = staged.ref.pool_id, staged.ref.staging_id
    last = conversion_pb2.UploadFileRequest.End(size_bytes=9, sha256="AB" * 32)
    found, pieces = conversion_convert.upload(iter([request(begin=begin), request(data=b"12"), request(end=last)]))
    assert found == Begin(staged.ref, "disk.raw", 7)
    assert list(pieces) == [b"12", End(9, "ab" * 32)]
    for messages in ([], [request(data=b"1")], [request(begin=begin), request(begin=begin)]):
        with pytest.raises(InvalidArgumentError):
            list(conversion_convert.upload(iter(messages))[1])
