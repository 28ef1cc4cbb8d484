"""A host gives up a store that moves bytes too slowly to ever end."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ostler_agent.jobs import JobContext
from ostler_agent.pools import objects
from ostler_agent.pools.objects import Part
from ostler_agent.spec import RemoteObject
from ostler_common import object_store
from ostler_common.errors import OstlerError
from ostler_common.secret import Secret

from tests.fakes import s3
from tests.fakes.s3 import S3

KEY = "disk"
STALL_S = 0.15


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    monkeypatch.setattr(objects, "FIRST_PAUSE_S", 0.0)
    monkeypatch.setattr(objects, "ATTEMPTS", 2)
    monkeypatch.setattr(objects, "STALL_S", STALL_S)
    with s3.serving(tmp_path) as served:
        yield served


def part_of(server: S3, size_bytes: int) -> Part:
    bucket = server.bucket()
    return Part(Secret(bucket.part_url(KEY, bucket.begin_upload(KEY), 1, 60).encode()), 0, size_bytes)


def put(server: S3, part: Part, path: Path) -> str:
    with object_store.client(server.ca_pem) as client, path.open("wb+") as file:
        file.truncate(part.size_bytes)
        return objects.put(file.fileno(), part, client, JobContext("put"), lambda done: None)


def get(server: S3, path: Path) -> None:
    data = server.objects[f"fleet/one/{KEY}"]
    url = Secret(server.bucket().get_url(KEY, 60).encode())
    objects.get(RemoteObject(url, server.ca_pem, len(data), hashlib.sha256(data).hexdigest()), path, JobContext("get"))


def given_up(call: Callable[[], object]) -> None:
    began = time.monotonic()
    with pytest.raises(OstlerError) as caught:
        call()
    assert (caught.value.reason, "X-Amz" in caught.value.message) == ("STORE_TOO_SLOW", False)
    assert "moved less than 1 MiB" in caught.value.message
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(("drip", "size_bytes"), [("take", 24 << 20), ("headers", 100), ("body", 100)])
def test_a_part_that_a_store_takes_too_slowly_is_given_up(
    server: S3, tmp_path: Path, drip: str, size_bytes: int
) -> None:
    part = part_of(server, size_bytes)
    if drip == "body":
        server.fail["put-part"] = [(503, "SlowDown")] * 2
    server.drip["put-part"] = drip
    given_up(lambda: put(server, part, tmp_path / "file"))


@pytest.mark.parametrize("drip", ["headers", "body"])
def test_an_object_that_a_store_gives_too_slowly_is_given_up(server: S3, tmp_path: Path, drip: str) -> None:
    server.objects[f"fleet/one/{KEY}"] = bytes(1_000_000)
    server.drip["GET"] = drip
    given_up(lambda: get(server, tmp_path / "file"))
