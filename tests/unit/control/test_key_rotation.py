"""Rotating the key-encryption key: whatever happens, every passphrase opens."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ostler.control.v1 import key_pb2
from ostler_common.errors import AbortedError, FailedPreconditionError
from ostler_control import volumes
from ostler_control.api.keys import KeyService
from ostler_control.database import transaction
from ostler_control.keys import FileProvider, Keyring, create_key_file, key_file, rotate, versions
from ostler_control.models import Event, Kek, Operation, Passphrase, Volume, new_id
from ostler_control.operations import Engine, replicas
from peewee import IntegrityError

from tests import databases
from tests.sites import MIB, Site, outcome, site_at_work
from tests.unit.control import calls
from tests.unit.control.encrypted_volumes import Vault

OK = ("succeeded", "")


class _TakeBackError(Exception):
    pass


@pytest.fixture
def kek(tmp_path: Path) -> Path:
    create_key_file(tmp_path / "kek")
    return tmp_path / "kek"


@pytest.fixture
def vault(fresh_database: str, kek: Path) -> Vault:
    return Vault(Keyring(FileProvider(kek)), {})


def turned(keys: Keyring) -> str:
    """A new version, current, nothing re-sealed yet."""
    kek_id = versions.new_version(keys.provider)
    versions.make_current(kek_id, "")
    return kek_id


def test_a_file_holds_several_keys(tmp_path: Path, kek: Path) -> None:
    first = key_file.read(kek)[0]
    second = key_file.change(kek, lambda keys: (key_file.new_key(), *keys))[0]
    text = kek.read_bytes()
    assert [key.id for key in key_file.parse(b"# two\n\n" + text + text, "f")] == [second.id, first.id]
    assert kek.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["kek"]
    for broken in (b"", b"# nothing\n", text + b"garbage\n", text[:20]):
        with pytest.raises(FailedPreconditionError) as caught:
            key_file.parse(broken, "f")
        assert caught.value.reason == "KEK_INVALID"
        assert b"garbage" not in caught.value.message.encode()


def test_leftovers_of_a_killed_writer_are_removed(tmp_path: Path, kek: Path) -> None:
    (tmp_path / ".kek.abcd").write_bytes(b"half")
    FileProvider(kek).add_version()
    assert [path.name for path in tmp_path.iterdir()] == ["kek"]


def test_a_file_that_changed_is_read_again(kek: Path) -> None:
    one, other = FileProvider(kek), FileProvider(kek)
    added = one.add_version()
    assert other.versions()[0] == added
    kek.unlink()
    assert other.versions()[0] == added, "a process goes on with what it has read"


def test_every_prefix_of_a_rotation(vault: Vault) -> None:
    vault.grow(7)
    vault.check()
    old = vault.keys.current()
    new = versions.new_version(vault.keys.provider)
    assert versions.new_version(vault.keys.provider) == new, "a repeat takes what was made"
    vault.check()
    versions.make_current(new, "")
    versions.make_current(new, "")
    vault.check()
    last_id, batches = "", 0
    while True:
        vault.grow(1)
        found = versions.reseal(vault.keys.provider, last_id, 2)
        vault.check()
        versions.reseal(vault.keys.provider, last_id, 2)  # a repeat after a crash
        vault.check()
        last_id, batches = found.last_id, batches + 1
        if not last_id:
            break
    assert versions.count_passphrases() == {new: 7 + batches}
    states = [(one.id, one.state, one.passphrases, one.present) for one in versions.versions(vault.keys.provider)]
    assert states == [(new, "current", 7 + batches, True), (old, "old", 0, True)]
    versions.forget(old)
    vault.check()
    vault.keys.provider.remove_version(old)
    vault.check(Keyring(FileProvider(vault.keys.provider._path)))  # type: ignore[attr-defined]


@pytest.mark.parametrize("seed", range(8))
def test_any_order_of_operations(vault: Vault, kek: Path, seed: int) -> None:
    """Two control planes on one file make volumes, rotate and delete as they like."""
    draw = random.Random(seed)
    keyrings = [vault.keys, Keyring(FileProvider(kek))]
    for _ in range(30):
        keys = draw.choice(keyrings)
        match draw.choice(["grow", "turn", "reseal", "reseal", "delete", "restart"]):
            case "grow":
                vault.keys = keys
                vault.grow(2)
            case "turn":
                turned(keys)
            case "reseal":
                if Kek.select().exists():
                    versions.reseal(keys.provider, "", draw.randint(1, 5))
            case "restart":
                keyrings[1] = Keyring(FileProvider(kek))
            case "delete":
                for row in Kek.select():
                    with contextlib.suppress(FailedPreconditionError):
                        versions.forget(row.id)
                        keys.provider.remove_version(row.id)
        for keys in keyrings:
            vault.check(keys)


def test_a_key_in_use_stays(vault: Vault) -> None:
    vault.grow(1)
    old = vault.keys.current()
    turned(vault.keys)
    for kek_id in (old, vault.keys.current()):
        with pytest.raises(FailedPreconditionError) as caught:
            versions.forget(kek_id)
        assert caught.value.reason == "KEY_IN_USE"
    with pytest.raises(IntegrityError), transaction():
        Kek.delete().where(Kek.id == old).execute()


def test_one_that_does_not_open_does_not_stop_the_others(vault: Vault) -> None:
    vault.grow(5)
    spoilt: Any = Volume.select().order_by(Volume.passphrase).first()
    Passphrase.update(sealed=b"x" * 40).where(Passphrase.id == spoilt.passphrase_id).execute()
    old = vault.keys.current()
    new = turned(vault.keys)
    found = versions.reseal(vault.keys.provider, "", 100)
    assert (found.resealed, [(one.name, one.reason) for one in found.broken]) == (4, [(spoilt.name, "SEAL_BROKEN")])
    assert versions.count_passphrases() == {old: 1, new: 4}
    count, broken = versions.verify(vault.keys.provider)
    assert (count, [(one.type, one.id, one.kek_id) for one in broken]) == (5, [("volume", spoilt.id, old)])


def test_a_passphrase_of_another_volume_is_found(vault: Vault) -> None:
    vault.grow(1)
    orphan = vault.keys.create(new_id())
    volume = Volume.get()
    Volume.update(passphrase=orphan).where(Volume.id == volume.id).execute()
    _, broken = versions.verify(vault.keys.provider)
    assert [(one.name, one.reason) for one in broken] == [(volume.name, "SEAL_BROKEN")]


def test_a_control_plane_without_the_version_says_so(vault: Vault, tmp_path: Path, kek: Path) -> None:
    """Several control planes on one database, and the new key was not given to all."""
    (tmp_path / "elsewhere").mkdir()
    copy = tmp_path / "elsewhere" / "kek"
    copy.write_bytes(kek.read_bytes())
    other = Keyring(FileProvider(copy))
    vault.grow(2)
    vault.check(other)
    new = turned(vault.keys)
    vault.check(other)  # nothing is re-sealed yet
    with pytest.raises(FailedPreconditionError) as caught:
        other.create(new_id())
    assert (caught.value.reason, caught.value.metadata["kek_id"]) == ("KEK_MISSING", new)
    versions.reseal(vault.keys.provider, "", 100)
    _, broken = versions.verify(other.provider)
    assert {one.reason for one in broken} == {"KEK_MISSING"}
    copy.write_bytes(kek.read_bytes())  # no restart
    vault.check(other)


def test_every_running_control_plane_must_have_the_new_version_first(
    fresh_database: str, vault: Vault, kek: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 0.0
    monkeypatch.setattr(replicas, "heartbeats", replicas.Heartbeats(lambda: clock))
    vault.grow(1)

    def refused() -> str:
        try:
            with transaction():
                rotate.rotate(vault.keys, "ada")
                raise _TakeBackError
        except FailedPreconditionError as error:
            return f"{error.reason} {error.metadata['replicas']}"
        except _TakeBackError:
            return ""

    held = vault.keys.provider.local_versions()
    replicas.beat("one", "one:8440", held)
    assert refused() == ""
    replicas.beat("two", "two:8440", held)
    assert refused() == "KEK_NOT_EVERYWHERE "
    vault.keys.provider.add_version()
    replicas.beat("one", "one:8440", vault.keys.provider.local_versions())
    assert refused() == "KEK_NOT_EVERYWHERE two:8440"
    replicas.beat("two", "two:8440", vault.keys.provider.local_versions())
    assert refused() == ""
    replicas.beat("two", "two:8440", held)
    assert refused() == "KEK_NOT_EVERYWHERE two:8440"
    for _ in range(int(replicas.SILENCE_S / replicas.BEAT_S) + 1):
        clock += replicas.BEAT_S
        replicas.beat("one", "one:8440", vault.keys.provider.local_versions())
        last = refused()
    assert last == ""


def test_opened_while_it_was_re_sealed(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rotation and the old version's deletion, between reading a row and opening it."""
    vault.grow(1)
    volume: Any = Volume.get()
    old = vault.keys.current()
    stale = Passphrase.get_by_id(volume.passphrase_id)
    new = versions.new_version(vault.keys.provider)
    versions.make_current(new, "")
    versions.reseal(vault.keys.provider, "", 10)
    versions.forget(old)
    vault.keys.provider.remove_version(old)
    rows = iter([stale])
    real = vault.keys._row
    monkeypatch.setattr(vault.keys, "_row", lambda passphrase_id: next(rows, None) or real(passphrase_id))
    assert vault.keys.open(volume).reveal() == vault.expected[volume.id]


def test_a_systemd_credential_is_rotated_by_its_operator(fresh_database: str, kek: Path) -> None:
    keys = Keyring(FileProvider(kek, writable=False))
    vault = Vault(keys, {})
    vault.grow(2)
    old = keys.current()
    with pytest.raises(FailedPreconditionError) as caught:
        versions.new_version(keys.provider)
    assert caught.value.reason == "KEK_READ_ONLY"
    key_file.change(kek, lambda found: (key_file.new_key(), *found))  # what `ostler-control key-add` does
    new = turned(keys)
    assert new != old
    versions.reseal(keys.provider, "", 100)
    vault.check()
    assert not keys.provider.remove_version(old)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Engine]]:
    state_dir = tmp_path_factory.mktemp("keys")
    with databases.bound(f"sqlite:///{state_dir}/ostler.sqlite") as url, site_at_work(url, state_dir) as running:
        yield running


def new_volume(site: Site, name: str) -> Operation:
    wanted = volumes.NewVolume(name, site.account, site.disks["encrypted"], 4 * MIB)
    return volumes.create(wanted, "alice", site.keys)


def test_the_operations_and_the_service(work: tuple[Site, Engine]) -> None:
    site, engine = work
    service, admin = KeyService(site.keys), calls.context(site.admin())
    assert outcome(engine, site.record(partial(new_volume, site, "first"))) == OK
    [first] = service.ListKeys(key_pb2.ListKeysRequest(), admin).keys
    assert (first.state, first.passphrases, first.present) == (key_pb2.Key.CURRENT, 1, True)
    passphrase = site.keys.open(Volume.get(Volume.name == "first"))

    tried = service.RotateKey(key_pb2.RotateKeyRequest(validate_only=True), admin)
    assert (tried.done, tried.name) == (True, "")
    begun = service.RotateKey(key_pb2.RotateKeyRequest(), admin)
    assert outcome(engine, Operation.get_by_id(begun.name.removeprefix("operations/"))) == OK
    new, old = service.ListKeys(key_pb2.ListKeysRequest(), admin).keys
    assert (old.name, old.state, old.passphrases) == (first.name, key_pb2.Key.OLD, 0)
    assert (new.state, new.passphrases) == (key_pb2.Key.CURRENT, 1)
    assert site.keys.open(Volume.get(Volume.name == "first")) == passphrase
    answer = service.VerifyKeys(key_pb2.VerifyKeysRequest(), admin)
    assert (answer.passphrases, answer.opened, list(answer.failures)) == (1, 1, [])

    with pytest.raises(FailedPreconditionError) as caught:
        service.DeleteKey(key_pb2.DeleteKeyRequest(key=new.name), admin)
    assert caught.value.reason == "KEY_IN_USE"
    gone = service.DeleteKey(key_pb2.DeleteKeyRequest(key=old.name), admin)
    assert outcome(engine, Operation.get_by_id(gone.name.removeprefix("operations/"))) == OK
    assert [key.name for key in service.ListKeys(key_pb2.ListKeysRequest(), admin).keys] == [new.name]
    assert [key.id for key in key_file.read(site.state_dir / "kek")] == [new.name]
    done = [row.type for row in Event.select().where(Event.outcome == "succeeded", Event.resource_type == "key")]
    assert done == ["key.rotate", "key.delete"]


def test_one_rotation_at_a_time(work: tuple[Site, Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    site, engine = work
    if Kek.get_or_none(~Kek.current) is None:
        assert outcome(engine, site.record(lambda: rotate.rotate(site.keys, "ada"))) == OK
    old = Kek.get(~Kek.current)
    made, begun, go_on = versions.new_version, threading.Event(), threading.Event()

    def slow(provider: Any) -> str:
        begun.set()
        assert go_on.wait(20)
        return made(provider)

    monkeypatch.setattr(versions, "new_version", slow)
    operation = site.record(lambda: rotate.rotate(site.keys, "ada"))
    assert begun.wait(20)
    for again in (lambda: rotate.rotate(site.keys, "ada"), lambda: rotate.delete(site.keys, old, "ada")):
        with pytest.raises(AbortedError) as caught:
            site.record(again)
        assert caught.value.reason == "RESOURCE_BUSY"
    go_on.set()
    assert outcome(engine, operation) == OK
    assert {row.operation_id for row in Kek.select()} == {""}
