"""What a storage pool is, and what a type of pool must be able to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ostler_common.errors import bad_field


@dataclass(frozen=True)
class PoolSpec:
    """What a pool is, as the control plane says; see PoolSpec in pool.proto for what path, source and options are."""

    pool_id: str
    type: str
    path: str = ""
    source: str = ""
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Pool:
    """A pool as this host sees it now. fingerprint: equal on two hosts exactly when they see the same directory."""

    spec: PoolSpec
    shared: bool
    encryption: bool
    capacity_bytes: int
    available_bytes: int
    fingerprint: str


class PoolType(Protocol):
    """One type of pool. Every call may be repeated.

    name: its name on the wire; shared: whether several hosts see the same files; encryption: whether encrypted
    volumes can live in it.
    """

    @property
    def name(self) -> str: ...
    @property
    def shared(self) -> bool: ...
    @property
    def encryption(self) -> bool: ...

    def check(self, spec: PoolSpec) -> None:
        """Raises InvalidArgumentError for what can never work; touches nothing."""

    def directory(self, spec: PoolSpec) -> Path:
        """Where its volumes are."""

    def ensure(self, spec: PoolSpec) -> None:
        """Makes the directory usable. Raises FailedPreconditionError."""

    def release(self, spec: PoolSpec) -> None:
        """Undoes what `ensure` did; files stay. Raises FailedPreconditionError."""


def check_path(spec: PoolSpec) -> None:
    """Raises InvalidArgumentError unless the path is absolute, plain, and not the root."""
    path = Path(spec.path)
    if not path.is_absolute() or ".." in path.parts or path == Path("/") or not spec.path.isprintable():
        raise bad_field("spec.path", "must be an absolute directory other than /, without ..")


def check_unused(spec: PoolSpec, *, source: bool = False, options: frozenset[str] = frozenset()) -> None:
    """Raises InvalidArgumentError for a source, or options, that the type has no use for."""
    if spec.source and not source:
        raise bad_field("spec.source", f"a pool of type {spec.type} has no source")
    if unknown := set(spec.options) - options:
        raise bad_field("spec.options", f"a pool of type {spec.type} has no option {', '.join(sorted(unknown))}")
