"""The control plane's configuration: /etc/ostler/control.toml and OSTLER_CONTROL_* above it."""

from __future__ import annotations

import datetime
import socket
from pathlib import Path
from typing import Annotated, Literal

from ostler_common.config import Settings, load
from ostler_common.units import parse_duration
from pydantic import AfterValidator, Field
from pydantic_settings import SettingsConfigDict

from ostler_control.trust.authority import Lifetimes
from ostler_control.trust.state import StateDir

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


Duration = Annotated[str, AfterValidator(_duration)]
Address = Annotated[str, AfterValidator(_address)]
AbsolutePath = Annotated[Path, AfterValidator(_absolute)]


class ControlConfig(Settings):
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
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_json: bool = False
    # Calls served at once.
    workers: int = Field(default=64, ge=4, le=1024)
    # How long certificates are good for: "7d", "12h".
    host_certificate_lifetime: Duration = "7d"
    control_certificate_lifetime: Duration = "30d"
    user_certificate_lifetime: Duration = "365d"

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
        """ "host:port" at which the enrolment port is reached from elsewhere."""
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
