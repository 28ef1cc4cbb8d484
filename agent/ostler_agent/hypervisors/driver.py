"""What a driver package gives the agent: one object, named by an entry point of the group `ostler.hypervisors`."""

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
    """Where a driver lives and how it is set up.

    state_dir: a directory of the driver's own, root's alone, that outlives the agent and the machine's boots; options:
    the table [driver_options] of agent.toml.
    """

    state_dir: Path
    options: Mapping[str, Any] = field(default_factory=dict)

    def options_as(self, model: type[M]) -> M:
        """The options as a pydantic model. Raises ConfigError: one line that names the option."""
        try:
            return model(**self.options)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(("driver_options", *(str(part) for part in first["loc"])))
            raise ConfigError(f"{key}: {first['msg'].removeprefix('Value error, ')}") from error


class Driver(Protocol):
    """A type of hypervisor. Stateless: everything that lives is in what `open` returns.

    Every call raises ConfigError for options that cannot be used.
    """

    @property
    def info(self) -> DriverInfo: ...

    def probe(self, context: DriverContext) -> HypervisorFacts:
        """What the hypervisor is and can do on this host, tried now; what fails is a failed probe, never an exception.

        Needs neither credentials nor a running agent. A function that only some hosts can do (UEFI) is a probe by the
        function's name, or a family of them ("uefi.ovmf").
        """

    def open(self, context: DriverContext) -> Hypervisor:
        """Takes charge of the hypervisor's VMs, those included that run from an earlier life of the agent.

        One that is not there yet is waited for in the background: calls raise UnavailableError meanwhile.
        """


class CredentialsConsumer(Protocol):
    """Keeps a hypervisor in step with the host's credentials. Every method may be repeated."""

    def install(self, credentials: HostCredentials) -> bool:
        """Puts certificates, keys and lists where the hypervisor looks; returns whether anything changed."""

    def reload(self) -> None:
        """Has what runs take up new ones; failures are logged."""

    def settings(self) -> Mapping[Path, str]:
        """Settings files of the hypervisor, and the lines that they must have."""

    def configure(self) -> list[str]:
        """Writes those settings; returns what to tell the operator, line by line."""


@runtime_checkable
class UsesCredentials(Protocol):
    """Optional part of a driver whose hypervisor speaks TLS itself, e.g. to move VMs."""

    def credentials_consumer(self, context: DriverContext) -> CredentialsConsumer:
        """Touches nothing until it is used."""
