"""The directory of the templates' files, which all replicas share."""

from __future__ import annotations

import datetime
import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from ostler_common.errors import FailedPreconditionError
from ostler_control.models import Replica, new_id, now
from ostler_control.operations import replicas
from ostler_control.templates import shared, store
from ostler_control.templates.received import Announced


def test_a_replica_whose_directory_is_not_the_others_is_refused(fresh_database: str, tmp_path: Path) -> None:
    common, own = tmp_path / "common", tmp_path / "own"
    replicas.beat("a", "ctl1:8440")
    shared.check(common, "a")
    shared.check(common, "b")
    with pytest.raises(FailedPreconditionError) as caught:
        shared.check(own, "b")
    assert caught.value.reason == "TEMPLATES_NOT_SHARED"
    assert "of other replicas (" in caught.value.message
    assert "ctl1:8440" in str(caught.value)
    Replica.update(heartbeat_time=now() - datetime.timedelta(minutes=1)).execute()
    shared.check(own, "b")  # whoever does not run any more keeps nobody away


def test_marks_of_replicas_are_no_leftovers(fresh_database: str, tmp_path: Path) -> None:
    directory = tmp_path / "templates"
    shared.check(directory, "a")
    (directory / new_id()).touch()
    later = (directory / f"{shared.MARK}a").stat().st_mtime + 100_000
    assert store.sweep(directory, lambda: later) == 1
    assert [path.name for path in directory.iterdir()] == [f"{shared.MARK}a"]


def test_a_replica_taken_for_dead_does_not_spoil_the_file_of_the_one_that_goes_on(
    fresh_database: str, tmp_path: Path
) -> None:
    """Both write the same file for some time; the late one must not give the name to what is not complete."""
    directory = tmp_path / "templates"
    file_id, content = new_id(), b"x" * 4096
    announced = Announced("raw", len(content), hashlib.sha256(content).hexdigest())
    halfway, go_on = threading.Event(), threading.Event()
    failures: list[BaseException] = []

    def hanging() -> Iterator[bytes]:
        yield content[:2048]
        halfway.set()
        go_on.wait()
        yield content[2048:]

    def late() -> None:
        try:
            store.store(file_id, announced, hanging(), directory)
        except FileNotFoundError as error:
            failures.append(error)

    def adopting() -> Iterator[bytes]:
        yield content[:1024]
        go_on.set()
        thread.join()  # the late one ends first, while this file is incomplete
        assert not (directory / file_id).exists()
        yield content[1024:]

    thread = threading.Thread(target=late)
    thread.start()
    halfway.wait()
    store.store(file_id, announced, adopting(), directory)
    assert len(failures) == 1
    assert (directory / file_id).read_bytes() == content
    assert [path.name for path in directory.iterdir()] == [file_id]
