"""Passphrases: sealed at rest, bound to their volume, gone only with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from ostler_common.errors import FailedPreconditionError, InternalError
from ostler_common.secret import Secret
from ostler_control.database import transaction
from ostler_control.keys import FileProvider, Keyring, create_key_file, open_provider
from ostler_control.keys.passphrases import delete_volume
from ostler_control.models import Passphrase, Volume, new_id
from peewee import IntegrityError

from tests.unit.control.encrypted_volumes import encrypted_volume


@pytest.fixture
def provider(tmp_path: Path) -> FileProvider:
    create_key_file(tmp_path / "kek")
    return FileProvider(tmp_path / "kek")


def test_a_key_file_is_private_and_never_replaced(tmp_path: Path) -> None:
    create_key_file(tmp_path / "kek")
    first = (tmp_path / "kek").read_bytes()
    create_key_file(tmp_path / "kek")
    assert (tmp_path / "kek").read_bytes() == first
    assert (tmp_path / "kek").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["kek"]


def test_seals_and_opens(provider: FileProvider) -> None:
    secret = Secret(b"top secret")
    [kek_id] = provider.versions()
    sealed = provider.seal(kek_id, secret, b"volume")
    assert b"secret" not in sealed
    assert provider.seal(kek_id, secret, b"volume") != sealed
    assert provider.open(kek_id, sealed, b"volume") == secret


def test_what_was_sealed_for_another_volume_does_not_open(provider: FileProvider) -> None:
    [kek_id] = provider.versions()
    sealed = provider.seal(kek_id, Secret(b"x"), b"volume")
    for changed, associated in ((sealed, b"other"), (sealed[:-1] + bytes([sealed[-1] ^ 1]), b"volume")):
        with pytest.raises(InternalError) as caught:
            provider.open(kek_id, changed, associated)
        assert caught.value.reason == "SEAL_BROKEN"


def test_a_missing_key_is_named(provider: FileProvider, tmp_path: Path) -> None:
    create_key_file(tmp_path / "other")
    [kek_id] = provider.versions()
    with pytest.raises(FailedPreconditionError) as caught:
        FileProvider(tmp_path / "other").open(kek_id, provider.seal(kek_id, Secret(b"x"), b"v"), b"v")
    assert caught.value.reason == "KEK_MISSING"
    assert kek_id in caught.value.message


def test_a_missing_or_broken_key_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(FailedPreconditionError) as missing:
        open_provider(tmp_path)
    (tmp_path / "kek").write_text("no key")
    with pytest.raises(FailedPreconditionError) as broken:
        open_provider(tmp_path)
    assert (missing.value.reason, broken.value.reason) == ("KEK_MISSING", "KEK_INVALID")


def test_a_systemd_credential_precedes_the_state_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    create_key_file(tmp_path / "kek")
    create_key_file(credentials / "ostler-kek")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    assert open_provider(tmp_path).versions() == FileProvider(credentials / "ostler-kek").versions()


def test_a_volumes_passphrase(fresh_database: str, provider: FileProvider) -> None:
    keys = Keyring(provider)
    volume = encrypted_volume(keys)
    passphrase = keys.open(Volume.get_by_id(volume.id))
    assert len(passphrase.reveal()) == 44
    assert passphrase.reveal().isascii()
    assert passphrase.reveal() not in bytes(Passphrase.get_by_id(volume.passphrase_id).sealed)


def test_a_referenced_passphrase_cannot_be_deleted(fresh_database: str, provider: FileProvider) -> None:
    volume = encrypted_volume(Keyring(provider))
    with pytest.raises(IntegrityError), transaction():
        Passphrase.delete().where(Passphrase.id == volume.passphrase_id).execute()
    assert Passphrase.select().count() == 1


def test_a_volume_and_its_passphrase_are_deleted_together(fresh_database: str, provider: FileProvider) -> None:
    keys = Keyring(provider)
    kept, gone = encrypted_volume(keys, "kept"), encrypted_volume(keys, "gone")
    with transaction():
        delete_volume(gone, "alice")
    assert [row.id for row in Passphrase.select()] == [kept.passphrase_id]


def test_orphans_are_swept_and_nothing_else(fresh_database: str, provider: FileProvider) -> None:
    keys = Keyring(provider)
    volume = encrypted_volume(keys)
    keys.create(new_id())
    assert keys.sweep() == 1
    assert [row.id for row in Passphrase.select()] == [volume.passphrase_id]
