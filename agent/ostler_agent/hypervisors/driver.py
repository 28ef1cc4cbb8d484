"""What a driver package provides: one object, named by an entry point of the group `ostler.hypervisors`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from ostler_common.config import ConfigError
from pydantic import BaseModel, ValidationError

from ostler_agent.capabilities.facts import HypervisorFacts
from ostler_agent.credentials import HostCredentials
from ostler_agent.hypervisors.base import Hypervisor
from ostler_agent.hypervisors.info import DriverInfo

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class DriverContext:
    """A driver's directory and configuration.

    state_dir: the driver's own directory, accessible to root only, persistent across restarts of agent and machine;
    options: the table [driver_options] of agent.toml.
    """

    state_dir: Path
    options: Mapping[str, Any] = field(default_factory=dict)

    def options_as(self, model: type[M]) -> M:
        """Returns the options as a pydantic model. Raises ConfigError: one line that names the option."""
        try:
            return model(**self.options)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(("driver_options", *(str(part) for part in first["loc"])))
            raise ConfigError(f"{key}: {first['msg'].removeprefix('Value error, ')}") from error


class Driver(Protocol):
    """A type of hypervisor. Stateless: all state is in the object that `open` returns.

    Every call raises ConfigError for invalid options.
    """

    @property
    def info(self) -> DriverInfo: ...

    def probe(self, context: DriverContext) -> HypervisorFacts:
        """Finds out, by trying, what the hypervisor is and can do on this host. A failure is a failed probe, never an
        exception.

        Needs neither credentials nor a running agent. A function that only some hosts support (UEFI) is a probe with
        the function's name, or a family of probes ("uefi.ovmf").
        """

    def open(self, context: DriverContext) -> Hypervisor:
        """Opens the hypervisor, including VMs that an earlier run of the agent started.

        If the hypervisor is not available yet, connects in the background; until then, calls raise UnavailableError.
        """


@runtime_checkable
class Configurable(Protocol):
    """Optional part of a driver whose statement depends on its options."""

    def configure(self, context: DriverContext) -> Driver:
        """Returns the driver with the statement for these options. Raises ConfigError."""


class CredentialsConsumer(Protocol):
    """Installs the host's credentials for a hypervisor. Every method is idempotent."""

    def install(self, credentials: HostCredentials) -> bool:
        """Writes certificates, keys and revocation lists for the hypervisor; returns whether any changed."""

    def settings(self) -> Mapping[Path, str]:
        """The hypervisor's settings files, with the lines that they must contain."""

    def configure(self) -> list[str]:
        """Writes those settings; returns lines to print for the operator."""


@runtime_checkable
class UsesCredentials(Protocol):
    """Optional part of a driver whose hypervisor uses TLS itself, e.g. to migrate VMs."""

    def credentials_consumer(self, context: DriverContext) -> CredentialsConsumer:
        """Returns the consumer; has no side effect."""
