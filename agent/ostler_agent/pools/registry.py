"""The pool types of this host: those of the agent, and plug-ins by entry points of the group `ostler.pools`."""

from __future__ import annotations

import re
from functools import cache
from importlib.metadata import EntryPoint, entry_points

import structlog
from ostler_common.config import ConfigError

from ostler_agent.pools import POOL_TYPES, PoolType

log = structlog.get_logger(__name__)

GROUP = "ostler.pools"
# Increases with every change of `pools.base` that existing pool types must follow.
INTERFACE_VERSION = 1
_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
_CALLS = ("check", "place", "ensure", "release", "fingerprint", "capacity", "store")


def names() -> list[str]:
    """The names of the pool types, built-in and installed."""
    return sorted({pool_type.name for pool_type in POOL_TYPES} | {point.name for point in _points()})


def load(name: str) -> PoolType:
    """Returns a pool type. Raises ConfigError if it is not installed, or not a pool type."""
    for pool_type in POOL_TYPES:
        if pool_type.name == name:
            return pool_type
    for point in _points():
        if point.name == name:
            return _load(point)
    raise ConfigError(f"pool type: {name} is not installed, only {', '.join(names())} (install its package)")


@cache
def pool_types() -> tuple[PoolType, ...]:
    """Every pool type that this host can use, loaded once. Logs an unusable plug-in and leaves it out."""
    found = list(POOL_TYPES)
    for point in _points():
        try:
            found.append(_load(point))
        except ConfigError as error:
            log.error("unusable pool type", name=point.name, reason=error.message)
    return tuple(found)


def _points() -> list[EntryPoint]:
    own = {pool_type.name for pool_type in POOL_TYPES}
    return [point for point in entry_points(group=GROUP) if point.name not in own]


def _load(point: EntryPoint) -> PoolType:
    try:
        pool_type = point.load()
    except Exception as error:  # an import may raise anything
        raise ConfigError(f"pool type: {point.name} ({point.value}) cannot be loaded: {error}") from error
    version = getattr(pool_type, "interface_version", None)
    if version != INTERFACE_VERSION:
        raise ConfigError(
            f"pool type: {point.name} implements version {version} of the pool interface, but this agent needs version "
            f"{INTERFACE_VERSION} (install a version of its package that matches the agent's)"
        )
    missing = [call for call in _CALLS if not callable(getattr(pool_type, call, None))]
    if missing:
        raise ConfigError(f"pool type: {point.value} is not a pool type: it lacks {', '.join(missing)}")
    if pool_type.name != point.name or not _NAME.fullmatch(point.name):
        raise ConfigError(
            f"pool type: {point.value} has the name {pool_type.name!r}; it must be a lower-case word, and equal to the "
            f"name of its entry point, {point.name}"
        )
    checked: PoolType = pool_type
    return checked
