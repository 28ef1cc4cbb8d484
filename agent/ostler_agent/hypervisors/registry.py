"""The installed drivers: entry points of the group `ostler.hypervisors`."""

from __future__ import annotations

import re
from importlib.metadata import EntryPoint, entry_points

import structlog
from ostler_common.config import ConfigError
from ostler_common.driver_details import check_schema

from ostler_agent.config import AgentConfig
from ostler_agent.hypervisors.base import PARTS, Hypervisor
from ostler_agent.hypervisors.driver import Configurable, Driver, DriverContext
from ostler_agent.hypervisors.info import INTERFACE_VERSION, DriverInfo

log = structlog.get_logger(__name__)

GROUP = "ostler.hypervisors"
# For a source tree, where Ostler's own entry point is not installed.
_OWN = (
    EntryPoint("libvirt", "ostler_agent.hypervisors.libvirt.factory:DRIVER", GROUP),
    EntryPoint("executable", "ostler_agent.hypervisors.executable.factory:DRIVER", GROUP),
)
_TYPE = re.compile(r"[a-z][a-z0-9-]{0,31}")


def names() -> list[str]:
    """The names of drivers that agent.toml may use."""
    return sorted(_points())


def load(name: str) -> Driver:
    """Imports a driver, and no other. Raises ConfigError if it is not installed or not a driver."""
    point = _points().get(name)
    if point is None:
        raise ConfigError(f"driver: {name} is not installed, only {', '.join(names())} (install its package)")
    try:
        driver = point.load()
    except Exception as error:  # an import may raise anything
        raise ConfigError(f"driver: {name} ({point.value}) cannot be loaded: {error}") from error
    info = getattr(driver, "info", None)
    if not isinstance(info, DriverInfo) or not callable(getattr(driver, "open", None)):
        raise ConfigError(f"driver: {point.value} is not a driver: it lacks `info` or `open`")
    if info.interface_version != INTERFACE_VERSION:
        raise ConfigError(
            f"driver: {name} implements version {info.interface_version} of the driver interface, but this agent needs "
            f"version {INTERFACE_VERSION} (install a version of its package that matches the agent's)"
        )
    if not _TYPE.fullmatch(info.type):
        raise ConfigError(f"driver: {name} states the type {info.type!r}, which is not a lower-case word")
    try:
        check_schema(info.details)
    except ValueError as error:
        raise ConfigError(f"driver: {name} states details that are not valid: {error}") from None
    checked: Driver = driver
    return checked


def load_for(name: str, context: DriverContext) -> Driver:
    """Imports a driver, and lets it state what it supports with these options. Raises ConfigError."""
    driver = load(name)
    return driver.configure(context) if isinstance(driver, Configurable) else driver


def load_configured(config: AgentConfig) -> Driver:
    """The driver that agent.toml configures. Raises ConfigError."""
    return load_for(config.driver, context(config))


def context(config: AgentConfig) -> DriverContext:
    """Returns the configured driver's context and creates its directory."""
    directory = config.state_dir / "drivers" / config.driver
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return DriverContext(directory, config.driver_options)


def check_parts(hypervisor: Hypervisor) -> None:
    """Raises ConfigError if a driver states a function but lacks its calls."""
    for function in sorted(hypervisor.info.functions & PARTS.keys()):
        if not isinstance(hypervisor, PARTS[function]):
            raise ConfigError(f"driver: it states {function} but lacks the calls of {PARTS[function].__name__}")


def _points() -> dict[str, EntryPoint]:
    return {point.name: point for point in _OWN} | {point.name: point for point in entry_points(group=GROUP)}
