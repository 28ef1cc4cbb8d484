"""The provider `vault`, through real TLS to a stand-in for Vault."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ostler_common.config import ConfigError
from ostler_common.errors import FailedPreconditionError, InternalError, OstlerError, UnavailableError
from ostler_common.secret import Secret
from ostler_control import database
from ostler_control.config import ControlConfig, load_config
from ostler_control.database import transaction
from ostler_control.initialize import initialize
from ostler_control.keys import FileProvider, Keyring, create_key_file, open_provider, rotate, vault_client, versions
from ostler_control.keys.vault import VaultProvider
from ostler_control.keys.vault_client import VaultSettings
from ostler_control.models import Kek, Passphrase, Volume
from ostler_control.server import Control

from tests.fakes.vault import ROLE_ID, SECRET_ID, TOKEN, Key, Vault, vault
from tests.fakes.working_agent import wait_until
from tests.unit.control.encrypted_volumes import Vault as Volumes

V1, V2, V3 = (f"vault:transit/ostler:v{number}" for number in (1, 2, 3))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vault]:
    with vault(tmp_path_factory.mktemp("vault")) as running:
        yield running


@pytest.fixture
def running(server: Vault) -> Vault:
    """As new."""
    url, ca_file = server.url, server.ca_file
    server.__init__(url, ca_file, {"ostler": Key()})  # type: ignore[misc]
    return server


@pytest.fixture
def settings(running: Vault, tmp_path: Path) -> VaultSettings:
    (tmp_path / "token").write_text(TOKEN + "\n")
    return VaultSettings(url=running.url, ca_file=running.ca_file, token_file=tmp_path / "token")


@pytest.fixture
def provider(settings: VaultSettings, monkeypatch: pytest.MonkeyPatch) -> VaultProvider:
    monkeypatch.setattr(vault_client, "_RETRY_TIMEOUT_S", 0.8)
    monkeypatch.setattr("ostler_control.keys.vault._WRAP_TIMEOUT_S", 0.3)
    return VaultProvider(settings)


def test_seals_and_opens_and_vault_never_sees_it(provider: VaultProvider, running: Vault) -> None:
    assert provider.versions() == [V1]
    sealed = provider.seal(V1, Secret(b"top secret"), b"volume")
    assert provider.open(V1, sealed, b"volume") == Secret(b"top secret")
    other = provider.seal(V1, Secret(b"top secret"), b"volume")
    assert other != sealed
    for spoilt, associated in (
        (sealed, b"other"),
        (sealed[:-1] + b"x", b"volume"),
        (b"x" + sealed, b"volume"),
        (b"", b"volume"),
    ):
        with pytest.raises(InternalError) as caught:
            provider.open(V1, spoilt, associated)
        assert caught.value.reason == "SEAL_BROKEN"
    changed = sealed.replace(b"vault:v1:A", b"vault:v1:B", 1).replace(b"vault:v1:B", b"vault:v1:C", 1)
    if changed != sealed:
        with pytest.raises(InternalError):
            provider.open(V1, changed, b"volume")
    assert not any("dG9wIHNlY3JldA" in text for _, text in running.requests), "the passphrase went to Vault"


def test_a_transaction_does_not_wait_for_vault(provider: VaultProvider, running: Vault) -> None:
    provider.prepare(V1)
    running.requests.clear()
    running.sealed = True
    sealed = [provider.seal(V1, Secret(b"x"), b"v") for _ in range(20)]
    running.sealed = False
    assert {provider.open(V1, data, b"v").reveal() for data in sealed} == {b"x"}
    assert all(path.startswith("POST transit/decrypt") for path, _ in running.requests[-20:])


def test_the_stock_of_wrapping_keys_is_refilled(provider: VaultProvider, running: Vault) -> None:
    for _ in range(3):
        provider.seal(V1, Secret(b"x"), b"v")
    wait_until(lambda: len(provider._stock) >= 60, 10)


def test_rotated_by_rewrapping(fresh_database: str, provider: VaultProvider, running: Vault) -> None:
    volumes = Volumes(Keyring(provider), {})
    volumes.keys.prepare()
    volumes.grow(5)
    new = versions.new_version(provider)
    assert new == V2
    assert versions.new_version(provider) == V2
    versions.make_current(new, "")
    volumes.grow(1)
    running.requests.clear()
    assert versions.reseal(provider, "", 3).resealed == 3
    volumes.check()
    assert versions.reseal(provider, "", 100).resealed == 2
    volumes.check()
    paths = [path for path, _ in running.requests]
    assert paths.count("POST transit/rewrap/ostler") == 2
    assert versions.count_passphrases() == {V2: 6}
    assert {bytes(row.sealed).partition(b":")[2][:2] for row in Passphrase.select()} == {b"v2"}

    with transaction():
        rotate.delete(volumes.keys, Kek.get_by_id(V1), "ada")
    versions.forget(V1)
    assert provider.remove_version(V1)
    assert running.keys["ostler"].min_decryption_version == 2
    assert provider.versions() == [V2]
    volumes.check()


def test_an_older_version_is_removed_with_a_newer_one(fresh_database: str, provider: VaultProvider) -> None:
    """Vault forbids versions from the oldest on, so an older one in use keeps a newer one."""
    volumes = Volumes(Keyring(provider), {})
    volumes.grow(1)
    for _ in range(2):
        versions.make_current(versions.new_version(provider), "")
    assert provider.removed_together(V2, [V1, V3, "file:1"]) == [V1]
    with pytest.raises(FailedPreconditionError) as caught, transaction():
        rotate.delete(volumes.keys, Kek.get_by_id(V2), "ada")
    assert (caught.value.reason, caught.value.metadata["key"]) == ("KEY_IN_USE", V1)
    assert not provider.remove_version(V3), "the last one stays"


def test_a_version_created_in_vault_is_used(fresh_database: str, provider: VaultProvider, running: Vault) -> None:
    volumes = Volumes(Keyring(provider), {})
    volumes.grow(1)
    running.keys["ostler"].keys.append(bytes(32))
    volumes.grow(1)
    assert versions.count_passphrases() == {V1: 2}, "the database says which version is used"
    assert versions.new_version(provider) == V2
    assert len(running.keys["ostler"].keys) == 2


def test_versions_that_vault_no_longer_opens(fresh_database: str, provider: VaultProvider, running: Vault) -> None:
    volumes = Volumes(Keyring(provider), {})
    volumes.grow(2)
    spoilt: Any = Volume.select().first()
    Passphrase.update(sealed=b"vault:v1:AAAA\0" + b"x" * 40).where(Passphrase.id == spoilt.passphrase_id).execute()
    versions.make_current(versions.new_version(provider), "")
    found = versions.reseal(provider, "", 100)
    assert (found.resealed, [(one.id, one.reason) for one in found.broken]) == (1, [(spoilt.id, "SEAL_BROKEN")])
    Passphrase.update(sealed=b"nonsense").where(Passphrase.id == spoilt.passphrase_id).execute()
    assert [one.reason for one in versions.reseal(provider, "", 100).broken] == ["SEAL_BROKEN"]
    running.keys["ostler"].keys.append(bytes(32))
    running.keys["ostler"].min_decryption_version = 3
    _, broken = versions.verify(provider)
    assert sorted(one.reason for one in broken) == ["KEK_MISSING", "SEAL_BROKEN"]


def seal_it(running: Vault) -> None:
    running.sealed = True


def forget_the_token(running: Vault) -> None:
    running.tokens.clear()


def forget_the_key(running: Vault) -> None:
    running.keys.clear()


def fail_on(running: Vault) -> None:
    running.failures = 1000


@pytest.mark.parametrize(
    ("fault", "kind", "reason"),
    [
        (seal_it, UnavailableError, "VAULT_SEALED"),
        (fail_on, UnavailableError, "VAULT_UNREACHABLE"),
        (forget_the_token, FailedPreconditionError, "VAULT_DENIED"),
        (forget_the_key, FailedPreconditionError, "VAULT_KEY_MISSING"),
    ],
)
def test_faults_have_names_and_tell_no_secret(
    provider: VaultProvider,
    running: Vault,
    fault: Callable[[Vault], None],
    kind: type[OstlerError],
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    sealed = provider.seal(V1, Secret(b"top secret"), b"v")
    wait_until(lambda: not provider._is_refilling, 10)
    provider._stock.clear()
    fault(running)
    for call in (
        lambda: provider.open(V1, sealed, b"v"),
        lambda: provider.seal(V1, Secret(b"top secret"), b"v"),
        lambda: provider.versions(),
    ):
        with pytest.raises(kind) as caught:
            call()
        assert caught.value.reason == reason
        assert caught.value.__cause__ is None
        told = f"{caught.value} {vars(caught.value)} {caplog.text}"
        assert TOKEN not in told
        assert "top secret" not in told


def test_transient_failures_are_retried(provider: VaultProvider, running: Vault) -> None:
    sealed = provider.seal(V1, Secret(b"x"), b"v")
    for thread in threading.enumerate():
        if thread.name == "vault-stock":  # it calls Vault as well
            thread.join()
    running.failures = 2
    assert provider.open(V1, sealed, b"v") == Secret(b"x")
    running.failures = 1
    with pytest.raises(UnavailableError):
        provider.add_version()  # it may have been made: nobody makes two
    assert len(running.keys["ostler"].keys) == 1


def test_an_unknown_ca_is_not_trusted(settings: VaultSettings, tmp_path: Path) -> None:
    with vault(tmp_path) as other, pytest.raises(UnavailableError) as caught:
        VaultProvider(
            VaultSettings(url=other.url, ca_file=settings.ca_file, token_file=settings.token_file)
        )._client.call("GET", "transit/keys/ostler", timeout_s=0)
    assert "certificate is not trusted" in caught.value.message


def test_an_unreachable_vault_is_reported(settings: VaultSettings) -> None:
    gone = VaultProvider(VaultSettings("https://127.0.0.1:1", ca_file=settings.ca_file, token_file=settings.token_file))
    with pytest.raises(UnavailableError) as caught:
        gone._client.call("GET", "transit/keys/ostler", timeout_s=0)
    assert caught.value.reason == "VAULT_UNREACHABLE"


def test_a_renewed_token_and_approle(settings: VaultSettings, running: Vault, tmp_path: Path) -> None:
    by_token = VaultProvider(settings)
    running.tokens = {"hvs.newer"}
    (tmp_path / "token").write_text("hvs.newer")
    assert by_token.versions() == [V1]
    (tmp_path / "secret-id").write_text(SECRET_ID)
    by_role = VaultProvider(
        VaultSettings(settings.url, ca_file=settings.ca_file, role_id=ROLE_ID, secret_id_file=tmp_path / "secret-id")
    )
    assert by_role.versions() == [V1]
    running.tokens.clear()  # the login has ended
    assert by_role.versions() == [V1]
    (tmp_path / "secret-id").write_text("wrong")
    running.tokens.clear()
    with pytest.raises(FailedPreconditionError) as caught:
        by_role.versions()
    assert caught.value.reason == "VAULT_DENIED"
    (tmp_path / "token").unlink()
    with pytest.raises(FailedPreconditionError) as caught:
        VaultProvider(settings)
    assert caught.value.reason == "VAULT_CREDENTIAL"


def test_from_a_file_to_vault_and_back(fresh_database: str, settings: VaultSettings, tmp_path: Path) -> None:
    """Another provider in the configuration, then a rotation: what was sealed before opens all the while."""
    create_key_file(tmp_path / "kek")
    volumes = Volumes(Keyring(open_provider(tmp_path)), {})
    volumes.grow(3)
    [file_key] = FileProvider(tmp_path / "kek").versions()
    for kind, expected in (("vault", V1), ("file", None)):
        volumes.keys = Keyring(open_provider(tmp_path, settings, kind))
        volumes.check()
        volumes.grow(1)
        new = versions.new_version(volumes.keys.provider)
        versions.make_current(new, "")
        volumes.grow(1)
        volumes.check()
        versions.reseal(volumes.keys.provider, "", 100)
        volumes.check()
        assert set(versions.count_passphrases()) == {new}
        assert expected is None or new == expected
        if kind == "vault":
            with pytest.raises(FailedPreconditionError) as caught:
                volumes.keys.provider.export()
            assert caught.value.reason == "KEK_NOT_EXPORTABLE"
            states = {one.id: (one.state, one.present) for one in versions.versions(volumes.keys.provider)}
            assert states == {V1: ("current", True), file_key: ("old", True)}
    Keyring(open_provider(tmp_path)).provider.export()
    volumes.check(Keyring(open_provider(tmp_path)))


def test_a_control_plane_with_vault(running: Vault, settings: VaultSettings, tmp_path: Path) -> None:
    """Initialized, started, started again while Vault is sealed; there never is a key file."""
    config = ControlConfig(
        state_dir=tmp_path / "state",
        listen="127.0.0.1:0",
        enroll_listen="127.0.0.1:0",
        metrics_listen="127.0.0.1:0",
        advertise_address="127.0.0.1",
        key_provider="vault",
        vault_url=running.url,
        vault_ca_file=str(running.ca_file),
        vault_token_file=str(settings.token_file),
    )
    told = list(initialize(config, "admin", tmp_path / "profile.toml"))
    assert "key-encryption key: Vault has it" in told
    for sealed in (False, True):
        running.sealed = sealed
        control = Control(config)
        with database.session():
            assert Kek.get(Kek.current).id == V1
        control.stop()
    assert not config.state.kek.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("key_provider = 'vault'", "vault_url"),
        ("vault_url = 'http://vault:8200'", "https://"),
        ("vault_url = 'https://vault:8200'\nvault_mount = '../sys'", "no path of Vault's"),
    ],
)
def test_bad_configuration(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "control.toml").write_text(text)
    with pytest.raises(ConfigError) as error:
        load_config(tmp_path / "control.toml")
    assert message in str(error.value)
