"""Keys: a lost one is noticed at once, and a destroyed one is nowhere any more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ostler_common.errors import FailedPreconditionError
from ostler_control.database import transaction
from ostler_control.keys import FileProvider, Keyring, create_key_file, key_file, versions
from ostler_control.keys.watch import KeyWatch
from ostler_control.models import Account, Event, Pool, Volume, new_id

from tests import databases

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


def test_a_key_file_with_other_keys_is_noticed_too(keys: Keyring, tmp_path: Path) -> None:
    (tmp_path / "kek").write_bytes(key_file.render([key_file.new_key()]))
    _, [broken] = versions.verify(keys.provider.stored())
    assert (broken.name, broken.reason) == ("data", "KEK_MISSING")
    assert len(KeyWatch(keys.provider).check()) == 1
