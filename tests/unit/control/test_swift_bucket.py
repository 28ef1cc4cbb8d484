"""What the control plane and a host do with a bucket, against OpenStack Swift: a store that nobody here has written."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from ostler_agent.jobs import JobContext
from ostler_agent.pools import objects
from ostler_agent.spec import RemoteObject
from ostler_common import object_store
from ostler_common.errors import OstlerError, UnavailableError
from ostler_common.secret import Secret
from ostler_control.objects import bucket as buckets

from tests import swift
from tests.fakes.s3_signature import REGION, SECRET_KEY
from tests.swift import Swift

pytestmark = pytest.mark.slow
PREFIX = "fleet/one"
PART = 3_000_000  # more than is read at once, and no multiple of it


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swift]:
    with swift.serving(tmp_path_factory.mktemp("swift")) as server:
        yield server


@pytest.fixture
def server(running: Swift, monkeypatch: pytest.MonkeyPatch) -> Iterator[Swift]:
    """Every test leaves its bucket empty."""
    monkeypatch.setattr(buckets, "_PAUSE_S", 0.0)
    monkeypatch.setattr(objects, "FIRST_PAUSE_S", 0.0)
    yield running
    left = (running.objects, running.uploads)
    for name in set().union(*left):
        running.bucket("").remove(name)
    assert left == (set(), set())


@pytest.fixture
def key() -> str:
    return f"{uuid.uuid4()}.qcow2"


def send(server: Swift, path: Path, key: str, upload_id: str) -> list[str]:
    """A host puts a file in parts, by URLs alone."""
    size, etags = path.stat().st_size, []
    with object_store.client(server.ca_pem) as client, path.open("rb") as file:
        for number, offset in enumerate(range(0, size, PART), 1):
            url = Secret(server.bucket(PREFIX).part_url(key, upload_id, number, 60).encode())
            part = objects.Part(url, offset, min(PART, size - offset))
            etags.append(objects.put(file.fileno(), part, client, JobContext("put"), lambda done: None))
    return etags


def stored(server: Swift, path: Path, key: str, size_bytes: int = 2 * PART + 12345) -> RemoteObject:
    """A file that is made, and sent whole: where to get it."""
    path.write_bytes(os.urandom(size_bytes))
    bucket = server.bucket(PREFIX)
    upload_id = bucket.begin_upload(key)
    bucket.complete_upload(key, upload_id, send(server, path, key, upload_id), size_bytes)
    return remote(server, key, path.read_bytes())


def remote(server: Swift, key: str, data: bytes) -> RemoteObject:
    url = Secret(server.bucket(PREFIX).get_url(key, 60).encode())
    return RemoteObject(url, server.ca_pem, len(data), hashlib.sha256(data).hexdigest())


def reason(error: pytest.ExceptionInfo[OstlerError]) -> str:
    assert not any(word in error.value.message for word in ("X-Amz-Signature", "http", SECRET_KEY))
    return error.value.reason


@pytest.mark.parametrize("prefix", ["", PREFIX])
def test_a_store_is_probed_and_nothing_stays(server: Swift, prefix: str) -> None:
    server.bucket(prefix).probe()


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"secret_key": "another"}, "STORE_CREDENTIALS"),
        ({"access_key": "ostler:nobody"}, "STORE_CREDENTIALS"),
        ({"access_key": "AKIDNOBODY"}, "STORE_CREDENTIALS"),
        ({"name": "no-bucket"}, "BUCKET_NOT_FOUND"),
        ({"region": "elsewhere-1"}, "STORE_REFUSED"),
        ({"ca_pem": ""}, "STORE_UNTRUSTED"),
    ],
)
def test_what_is_wrong_with_a_store_is_said(server: Swift, changed: dict[str, str], expected: str) -> None:
    with pytest.raises(OstlerError) as caught:
        server.bucket(**changed).probe()
    assert reason(caught) == expected
    assert "region" not in changed or REGION in caught.value.message, "it says which region it wants"


def test_a_file_is_sent_in_parts_read_back_and_deleted(server: Swift, tmp_path: Path, key: str) -> None:
    bucket, path = server.bucket(PREFIX), tmp_path / "file"
    wanted = stored(server, path, key)
    assert (server.objects, server.uploads) == ({f"{PREFIX}/{key}"}, set())
    assert bucket.size_of(key) == path.stat().st_size
    objects.get(wanted, tmp_path / "back", JobContext("get"))
    assert (tmp_path / "back").read_bytes() == path.read_bytes()
    bucket.remove(key)
    assert bucket.size_of(key) is None
    bucket.delete(key)
    with pytest.raises(OstlerError) as caught:
        objects.get(wanted, tmp_path / "gone", JobContext("get"))
    assert reason(caught) == "VOLUME_NOT_FOUND"


def test_a_completion_is_idempotent(server: Swift, tmp_path: Path, key: str) -> None:
    bucket, path = server.bucket(PREFIX), tmp_path / "file"
    path.write_bytes(os.urandom(PART + 1))
    upload_id = bucket.begin_upload(key)
    etags = send(server, path, key, upload_id)
    for _ in range(2):
        bucket.complete_upload(key, upload_id, etags, PART + 1)
    assert bucket.size_of(key) == PART + 1
    bucket.remove(key)


def test_uploads_are_aborted_one_by_one_and_with_their_parts(server: Swift, tmp_path: Path, key: str) -> None:
    bucket, path = server.bucket(PREFIX), tmp_path / "file"
    path.write_bytes(os.urandom(PART))
    other, old = bucket.begin_upload(key + "-other"), bucket.begin_upload(key)
    send(server, path, key, old)
    new = bucket.begin_upload(key)
    assert new != old
    with pytest.raises(OstlerError) as caught:
        send(server, path, key, old)
    assert reason(caught) == "OBJECT_NOT_FOUND"
    bucket.abort_uploads(key)
    bucket.abort_uploads(key)
    assert server.uploads == {f"{PREFIX}/{key}-other"}, "a name that begins alike is another object's"
    send(server, path, key + "-other", other)
    bucket.remove(key + "-other")


def test_a_download_goes_on_where_it_broke_off(
    server: Swift, tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, offsets, received = stored(server, tmp_path / "file", key), [], objects._received

    def broken(client: httpx.Client, remote: RemoteObject, offset: int, *rest: object) -> Iterator[bytes]:
        offsets.append(offset)
        for number, piece in enumerate(received(client, remote, offset, *rest)):  # type: ignore[arg-type]
            yield piece
            if number == len(offsets) and len(offsets) < 3:
                raise UnavailableError("the network is gone for a moment", "STORE_NOT_REACHED")

    monkeypatch.setattr(objects, "_received", broken)
    objects.get(wanted, tmp_path / "back", JobContext("get"))
    assert len(offsets) == 3
    assert offsets == sorted(set(offsets))
    server.bucket(PREFIX).remove(key)


def test_what_is_not_as_it_was_sent_is_refused(server: Swift, tmp_path: Path, key: str) -> None:
    stored(server, tmp_path / "file", key, 1000)
    for name, meant in (("other", b"x" * 1000), ("longer", b"x" * 999), ("shorter", b"x" * 1001)):
        with pytest.raises(OstlerError) as caught:
            objects.get(remote(server, key, meant), tmp_path / name, JobContext("get"))
        assert reason(caught) == "OBJECT_DAMAGED", name
    server.bucket(PREFIX).remove(key)


def test_the_store_checks_what_a_url_allows_and_the_digest_of_a_part(server: Swift, key: str) -> None:
    """So what the client signs, and says of a part, is what counts."""
    bucket = server.bucket(PREFIX)
    url = bucket.part_url(key, bucket.begin_upload(key), 1, 60)
    with object_store.client(server.ca_pem) as client:
        other_digest = {"Content-MD5": "1B2M2Y8AsgTpgAmY7PhCfg=="}
        assert client.put(url, content=b"sent", headers=other_digest).status_code == 400
        assert client.put(url.replace("partNumber=1", "partNumber=2"), content=b"sent").status_code == 403
        assert client.put(url.replace(key, f"{key}-other"), content=b"sent").status_code == 403
        assert client.get(url).status_code == 403
    bucket.abort_uploads(key)
