"""The options of the libvirt driver: table [driver_options] of agent.toml."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, field_validator


class LibvirtOptions(BaseModel):
    """The options; the sample agent.toml explains each."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    domain_type: Literal["auto", "kvm", "qemu"] = "auto"
    uri: str = "qemu:///system"
    config_dir: Path = Path("/etc/libvirt")
    pki_dir: Path = Path("/etc/pki")
    qemu_pki_dir: Path = Path("/etc/pki/qemu")
    qemu_group: str = ""
    state_dir: Path = Path("/var/lib/libvirt/qemu")

    @field_validator("config_dir", "pki_dir", "qemu_pki_dir", "state_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        if not value.is_absolute():
            raise ValueError("must be an absolute path")
        return value
