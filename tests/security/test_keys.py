"""Keys: a lost one is noticed at once, and a destroyed one is nowhere any more."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from ostler_common.errors import FailedPreconditionError
from ostler_control.database import transaction
from ostler_control.keys import FileProvider, Keyring, create_key_file, key_file, versions
from ostler_control.keys.passphrases import delete_volume
from ostler_control.keys.watch import KeyWatch
from ostler_control.models import Account, Event, Passphrase, Pool, Volume, new_id

from tests import databases
from tests.fakes.working_agent import wait_until

MIB = 1 << 20


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[Keyring]:
    """A database with one encrypted volume, and the key in a file."""
    create_key_file(tmp_path / "kek")
    with databases.bound(f"sqlite:///{tmp_path}/ostler.sqlite"):
        keyring = Keyring(FileProvider(tmp_path / "kek"))
        with transaction():
            account = Account.create(name="acme")
            pool = Pool.create(name="pool", type="local", scope="host", scope_id="h1")
            volume_id = new_id()
            Volume.create(
                id=volume_id,
                name="data",
                account=account,
                pool=pool,
                passphrase=keyring.create(volume_id),
                size_bytes=MIB,
            )
        yield keyring


def test_a_lost_key_file_is_noticed_while_the_process_still_has_the_key(keys: Keyring, tmp_path: Path) -> None:
    watch = KeyWatch(keys.provider)
    assert watch.check() == frozenset()
    [(kek_id, present)] = [(version.id, version.present) for version in versions.versions(keys.provider)]
    assert present
    assert versions.verify(keys.provider.stored()) == (1, [])

    content = (tmp_path / "kek").read_bytes()
    (tmp_path / "kek").unlink()
    assert keys.open(Volume.get()).reveal(), "VMs still start"
    assert [version.present for version in versions.versions(keys.provider)] == [False]
    with pytest.raises(FailedPreconditionError) as caught:
        versions.verify(keys.provider.stored())
    assert caught.value.reason == "KEK_MISSING"
    assert watch.check() == watch.check() == {kek_id}
    assert [(event.type, event.resource_id) for event in Event.select()] == [("key.lost", kek_id)], "told once"

    (tmp_path / "kek").write_bytes(content)
    assert watch.check() == frozenset()
    assert [event.type for event in Event.select().order_by(Event.create_time)] == ["key.lost", "key.restored"]


def test_a_destroyed_passphrase_is_in_no_file_of_the_database(keys: Keyring, tmp_path: Path) -> None:
    sealed = bytes(Passphrase.get().sealed)
    with transaction():  # many rows, so that deleted ones do not just happen to be overwritten
        for _ in range(50):
            Passphrase.create(kek=keys.current(), sealed=b"x" * 300, bound_id="other")
    assert holding(tmp_path, sealed) != []
    with transaction():
        delete_volume(Volume.get(), "ada")
    wait_until(lambda: is_erased(tmp_path, sealed))


def test_a_reader_delays_the_erasure_and_does_not_prevent_it(keys: Keyring, tmp_path: Path) -> None:
    sealed = bytes(Passphrase.get().sealed)
    with contextlib.closing(sqlite3.connect(tmp_path / "ostler.sqlite")) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM passphrase").fetchone()
        with transaction():
            delete_volume(Volume.get(), "ada")
        assert holding(tmp_path, sealed) != []
        reader.execute("COMMIT")
    wait_until(lambda: is_erased(tmp_path, sealed))


def is_erased(directory: Path, data: bytes) -> bool:
    """After one more transaction, as replicas have them every few seconds."""
    with transaction():
        Account.update(name="acme").execute()
    return holding(directory, data) == []


def holding(directory: Path, data: bytes) -> list[str]:
    """Names of the database's files that hold these bytes."""
    return [path.name for path in directory.glob("ostler.sqlite*") if data in path.read_bytes()]


def test_a_key_file_with_other_keys_is_noticed_too(keys: Keyring, tmp_path: Path) -> None:
    (tmp_path / "kek").write_bytes(key_file.render([key_file.new_key()]))
    _, [broken] = versions.verify(keys.provider.stored())
    assert (broken.name, broken.reason) == ("data", "KEK_MISSING")
    assert len(KeyWatch(keys.provider).check()) == 1


def test_a_request_to_erase_does_not_reach_another_database(keys: Keyring, tmp_path: Path, postgresql: str) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "ostler.sqlite")) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM passphrase").fetchone()
        with transaction():
            delete_volume(Volume.get(), "ada")  # the reader keeps the log from being emptied
    with databases.bound(databases.new_database(postgresql, "erasures")), transaction():
        assert Account.select().count() == 0
