"""Uploads fill neither the control plane's disk nor its tables."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from ostler_common.errors import InvalidArgumentError, ResourceExhaustedError
from ostler_control.models import Account, Pool, SnapshotSchedule, Volume
from ostler_control.snapshots import NewSchedule, create_schedule
from ostler_control.snapshots.schedules import MAX_SCHEDULES_PER_VOLUME
from ostler_control.templates import admission, store
from ostler_control.templates.received import Announced

from tests import databases

MIB = 1 << 20


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A disk of 100 MiB of which 30 are free, so that uploads may have 20; and a database."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(100 * MIB, 70 * MIB, 30 * MIB))
    with databases.bound(f"sqlite:///{tmp_path}/ostler.sqlite"):
        yield


def never() -> Iterator[bytes]:
    def fail(chunk: bytes) -> bytes:
        raise AssertionError("a byte was asked for")

    return map(fail, [b""])


@pytest.mark.usefixtures("disk")
@pytest.mark.parametrize("size_bytes", [21 * MIB, 16 << 40])
def test_an_upload_that_would_fill_the_disk_is_refused_before_its_first_byte(tmp_path: Path, size_bytes: int) -> None:
    with pytest.raises(ResourceExhaustedError) as caught:
        store.store("file", Announced("raw", size_bytes), never(), tmp_path / "templates")
    assert caught.value.reason == "STORAGE_FULL"
    assert list((tmp_path / "templates").iterdir()) == []


@pytest.mark.usefixtures("disk")
def test_uploads_in_progress_count_with_what_they_have_announced(tmp_path: Path) -> None:
    with admission.reserved(tmp_path / "first", 15 * MIB):
        with pytest.raises(ResourceExhaustedError), admission.reserved(tmp_path / "second", 6 * MIB):
            pass
        admission.record_written(tmp_path / "first", 10 * MIB)  # the disk itself counts these
        with admission.reserved(tmp_path / "second", 15 * MIB):
            pass
    with admission.reserved(tmp_path / "third", 20 * MIB):
        pass


@pytest.mark.usefixtures("disk")
def test_an_account_has_few_uploads_at_once_and_others_have_theirs(tmp_path: Path) -> None:
    release, started = threading.Event(), threading.Semaphore(0)

    def slow() -> Iterator[bytes]:
        started.release()
        release.wait(30)
        yield b"\0" * 511  # one byte less than announced

    def upload(account: str, chunks: Iterator[bytes]) -> None:
        with (
            pytest.raises(InvalidArgumentError, match="the transfer was cut"),
            store.received_file(Announced("raw", 512), chunks, tmp_path / "templates", account),
        ):
            pass

    def start(account: str) -> threading.Thread:
        thread = threading.Thread(target=upload, args=(account, slow()))
        thread.start()
        assert started.acquire(timeout=30)
        return thread

    threads = [start("acme") for _ in range(admission.MAX_UPLOADS_PER_ACCOUNT)]
    try:
        refused = store.received_file(Announced("raw", 512), never(), tmp_path / "templates", "acme")
        with pytest.raises(ResourceExhaustedError) as caught, refused:
            pass
        assert caught.value.reason == "TOO_MANY_UPLOADS"
        threads.append(start("other"))
    finally:
        release.set()
        for thread in threads:
            thread.join()
    upload("acme", iter([b""]))
    assert list((tmp_path / "templates").iterdir()) == []


@pytest.mark.usefixtures("disk")
def test_a_volume_has_few_schedules() -> None:
    account = Account.create(name="acme")
    pool = Pool.create(name="pool", type="local", scope="host", scope_id="h1")
    volume = Volume.create(name="data", account=account, pool=pool, size_bytes=MIB)
    wanted = NewSchedule(volume, "daily", minute=0, hour=3, day=1, keep=1)
    for _ in range(MAX_SCHEDULES_PER_VOLUME):
        create_schedule(wanted, "ada")
    with pytest.raises(ResourceExhaustedError) as caught:
        create_schedule(wanted, "ada")
    assert caught.value.reason == "TOO_MANY_SCHEDULES"
    assert SnapshotSchedule.select().count() == MAX_SCHEDULES_PER_VOLUME
