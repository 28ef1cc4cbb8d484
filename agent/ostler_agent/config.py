"""The agent's settings: /etc/ostler/agent.toml, and OSTLER_AGENT_* above it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from ostler_common.config import Settings
from pydantic import Field, field_validator
from pydantic_settings import SettingsConfigDict

DEFAULT_PATH = Path("/etc/ostler/agent.toml")
DEFAULT_PORT = 8442


class AgentConfig(Settings):
    """Every key of agent.toml; the sample file explains each."""

    model_config = SettingsConfigDict(env_prefix="OSTLER_AGENT_")

    listen: str = f"[::]:{DEFAULT_PORT}"
    address: str = ""
    control_address: str = ""
    state_dir: Path = Path("/var/lib/ostler/agent")
    domain_type: Literal["auto", "kvm", "qemu"] = "auto"
    libvirt_uri: str = "qemu:///system"
    libvirt_config_dir: Path = Path("/etc/libvirt")
    libvirt_pki_dir: Path = Path("/etc/pki")
    qemu_pki_dir: Path = Path("/etc/pki/qemu")
    qemu_group: str = ""
    virtio_win: Path = Path("/usr/share/virtio-win")
    probe_interval_s: float = Field(60, ge=1)
    workers: int = Field(128, ge=8, le=4096)
    stop_grace_s: float = Field(20, ge=0)
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_json: bool = False

    @field_validator("listen", "address", "control_address")
    @classmethod
    def _host_and_port(cls, value: str) -> str:
        if value and not re.fullmatch(r"(\[[0-9a-fA-F:.%]+\]|[^\s:/\[\]]+):\d{1,5}", value):
            raise ValueError("must be host:port, e.g. 10.0.0.5:8442 or [fd00::5]:8442")
        return value

    @field_validator("state_dir", "libvirt_config_dir", "libvirt_pki_dir", "qemu_pki_dir", "virtio_win")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        if not value.is_absolute():
            raise ValueError("must be an absolute path")
        return value
