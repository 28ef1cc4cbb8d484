"""The agent's settings: /etc/ostler/agent.toml, overridden by OSTLER_AGENT_* in the environment."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ostler_common.address import split_addresses
from ostler_common.config import DaemonSettings
from pydantic import Field, field_validator
from pydantic_settings import SettingsConfigDict

DEFAULT_PATH = Path("/etc/ostler/agent.toml")
DEFAULT_PORT = 8442
_HOST_AND_PORT = re.compile(r"(\[[0-9a-fA-F:.%]+\]|[^\s:/\[\]]+):\d{1,5}")


class AgentConfig(DaemonSettings):
    """The keys of agent.toml; the sample file explains each."""

    model_config = SettingsConfigDict(env_prefix="OSTLER_AGENT_")

    listen: str = f"[::]:{DEFAULT_PORT}"
    address: str = ""
    control_address: str = ""
    state_dir: Path = Path("/var/lib/ostler/agent")
    driver: str = "libvirt"
    driver_options: dict[str, Any] = Field(default_factory=dict)
    virtio_win: Path = Path("/usr/share/virtio-win")
    probe_interval_s: float = Field(60, ge=1)
    workers: int = Field(128, ge=8, le=4096)
    stop_grace_s: float = Field(20, ge=0)
    metrics_listen: str = "127.0.0.1:8444"

    @field_validator("listen", "address")
    @classmethod
    def _host_and_port(cls, value: str) -> str:
        if value and not _HOST_AND_PORT.fullmatch(value):
            raise ValueError("must be host:port, e.g. 10.0.0.5:8442 or [fd00::5]:8442")
        return value

    @field_validator("control_address")
    @classmethod
    def _hosts_and_ports(cls, value: str) -> str:
        if not all(_HOST_AND_PORT.fullmatch(address) for address in split_addresses(value)):
            raise ValueError("must be host:port, or several separated by commas, e.g. ctl1:8440,ctl2:8440")
        return value

    @field_validator("state_dir", "virtio_win")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        if not value.is_absolute():
            raise ValueError("must be an absolute path")
        return value
