"""The control plane's configuration: /etc/ostler/control.toml and OSTLER_CONTROL_* above it."""

from __future__ import annotations

import datetime
import re
import socket
from pathlib import Path
from typing import Annotated, Literal

from ostler_common.config import DaemonSettings, load
from ostler_common.units import parse_duration
from pydantic import AfterValidator, Field, model_validator
from pydantic_settings import SettingsConfigDict

from ostler_control.keys.vault_client import VaultSettings
from ostler_control.state_dir import StateDir, credential_file
from ostler_control.trust.authority import Lifetimes

DEFAULT_PATH = Path("/etc/ostler/control.toml")
MAIN_PORT, ENROLL_PORT = 8440, 8441


def _duration(text: str) -> str:
    if parse_duration(text) <= 0:
        raise ValueError("must be longer than nothing")
    return text


def _address(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise ValueError(f'{text!r} is not "host:port"')
    return text


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError(f"{path} is not an absolute path")
    return path


def _https(text: str) -> str:
    if text and not text.startswith("https://"):
        raise ValueError(f"{text} does not begin with https://")
    return text


def _vault_path(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*", text) or ".." in text:
        raise ValueError(f"{text!r} is no path of Vault's")
    return text


Duration = Annotated[str, AfterValidator(_duration)]
Address = Annotated[str, AfterValidator(_address)]


def _optional_file(text: str) -> str:
    if text:
        _absolute(Path(text))
    return text


def _given(text: str) -> Path | None:
    return Path(text) if text else None


OptionalFile = Annotated[str, AfterValidator(_optional_file)]
Url = Annotated[str, AfterValidator(_https)]
VaultPath = Annotated[str, AfterValidator(_vault_path)]
AbsolutePath = Annotated[Path, AfterValidator(_absolute)]


class ControlConfig(DaemonSettings):
    """Every key has a default; `load_config` reads the file."""

    model_config = SettingsConfigDict(env_prefix="OSTLER_CONTROL_")

    # Keys, CAs, templates, and the database when it is SQLite.
    state_dir: AbsolutePath = Path("/var/lib/ostler/control")
    # Where the API is served (mutual TLS).
    listen: Address = f"[::]:{MAIN_PORT}"
    # Where hosts join (server TLS only).
    enroll_listen: Address = f"[::]:{ENROLL_PORT}"
    # Name or IP address (or "host:port" of the main port) at which this machine is reached; empty: its host name.
    advertise_address: str = ""
    # sqlite:///PATH or postgresql://...; empty: SQLite in the state directory.
    database_url: str = ""
    # Where Prometheus reads metrics; empty: nowhere.
    metrics_listen: str = "127.0.0.1:8443"
    # Calls served at once.
    workers: int = Field(default=64, ge=4, le=1024)
    # Operations of a kind (creations, starts, transfers, plans, others) that run at once; more wait for their turn.
    operations: int = Field(default=64, ge=1, le=1024)
    # Where the key comes from that passphrases are sealed under: a file (or systemd's credential), or HashiCorp Vault.
    key_provider: Literal["file", "vault"] = "file"
    # Vault's address, the transit engine's mount and key, and the CA of its certificate (empty: the system's).
    vault_url: Url = ""
    vault_mount: VaultPath = "transit"
    vault_key: VaultPath = "ostler"
    vault_ca_file: OptionalFile = ""
    # Its token; empty: systemd's credential ostler-vault-token. Or AppRole: a role id, and a file with the secret id;
    # empty: systemd's credential ostler-vault-secret-id.
    vault_token_file: OptionalFile = ""
    vault_approle_mount: VaultPath = "approle"
    vault_role_id: str = ""
    vault_secret_id_file: OptionalFile = ""
    # How long certificates are good for: "7d", "12h".
    host_certificate_lifetime: Duration = "7d"
    control_certificate_lifetime: Duration = "30d"
    user_certificate_lifetime: Duration = "365d"

    @model_validator(mode="after")
    def _vault_has_an_address(self) -> ControlConfig:
        if self.key_provider == "vault" and not self.vault_url:
            raise ValueError("key_provider is vault, so vault_url must say where it is")
        return self

    @property
    def vault(self) -> VaultSettings | None:
        """How Vault is reached; None when there is none."""
        if not self.vault_url:
            return None
        return VaultSettings(
            url=self.vault_url,
            mount=self.vault_mount,
            key=self.vault_key,
            ca_file=_given(self.vault_ca_file),
            token_file=_given(self.vault_token_file) or credential_file("ostler-vault-token"),
            approle_mount=self.vault_approle_mount,
            role_id=self.vault_role_id,
            secret_id_file=_given(self.vault_secret_id_file) or credential_file("ostler-vault-secret-id"),
        )

    @property
    def state(self) -> StateDir:
        return StateDir(self.state_dir)

    @property
    def database(self) -> str:
        """The database's URL."""
        return self.database_url or f"sqlite:///{self.state.database}"

    @property
    def lifetimes(self) -> Lifetimes:
        def delta(text: str) -> datetime.timedelta:
            return datetime.timedelta(seconds=parse_duration(text))

        return Lifetimes(
            delta(self.host_certificate_lifetime),
            delta(self.control_certificate_lifetime),
            delta(self.user_certificate_lifetime),
        )

    @property
    def main_address(self) -> str:
        """ "host:port" at which the main port is reached from elsewhere."""
        return self._advertised(self.listen)

    @property
    def enroll_address(self) -> str:
        """ "host:port" at which the enrollment port is reached from elsewhere."""
        host, _, _ = self.main_address.rpartition(":")
        return f"{host}:{self.enroll_listen.rpartition(':')[2]}"

    def _advertised(self, listen: str) -> str:
        host = self.advertise_address or socket.getfqdn()
        if ":" in host.rpartition("]")[2] and (host.count(":") == 1 or host.startswith("[")):
            return host
        if ":" in host and not host.startswith("["):
            host = f"[{host}]"
        return f"{host}:{listen.rpartition(':')[2]}"


def load_config(path: Path | None) -> ControlConfig:
    """The configuration of a file; None: the usual place, where it may be missing. Raises ConfigError (one line)."""
    if path is None and not DEFAULT_PATH.exists():
        return load(ControlConfig, None)
    return load(ControlConfig, path or DEFAULT_PATH)
