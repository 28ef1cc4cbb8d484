"""What a storage pool is, and what a type of pool must be able to do.

A pool's volumes are files in a directory (`directory.DirectoryPool` does all that such types share), or block devices
that must be asked for: allocated, mapped to this host, unmapped.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from ostler_common.errors import bad_field
from ostler_common.secret import Secret

from ostler_agent.spec import VolumeRef


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
    """A pool as this host sees it now. fingerprint: equal on two hosts exactly when they see the same volumes."""

    spec: PoolSpec
    shared: bool
    encryption: bool
    capacity_bytes: int
    available_bytes: int
    fingerprint: str


@dataclass(frozen=True)
class Capacity:
    """What a pool holds in all, and what is left of it."""

    total_bytes: int
    available_bytes: int


class StagedVolume(Protocol):
    """A volume that is being made, under a name that no VM ever uses."""

    @property
    def path(self) -> Path:
        """Where to write it: a file that is not there yet, or a device that is large enough."""

    def identity(self) -> str:
        """What `Store.identity` will say once it is published; known as soon as there is something at `path`."""

    def publish(self) -> None:
        """Gives it its name, durably. Raises FileExistsError when that is taken."""


class Store(Protocol):
    """The volumes of one usable pool. Of a VolumeRef's key it matters only whether there is one."""

    def path(self, volume: VolumeRef) -> Path:
        """Where a VM of this host finds the volume. The last part is the volume's id, also for a device (a symbolic
        link to it): that is how a volume is known again in a hypervisor's list. A device is mapped and stays so."""

    def exists(self, volume: VolumeRef) -> bool:
        """Whether there is such a volume, whole."""

    def identity(self, volume: VolumeRef) -> str:
        """What tells a volume from any other that ever had its name: an inode, an array's own number."""

    def hold(self, volume: VolumeRef) -> AbstractContextManager[Path]:
        """Where the volume is while the block lasts; a device that was mapped for it is unmapped in the end.

        Raises NotFoundError (VOLUME_NOT_FOUND).
        """

    def make(self, volume: VolumeRef, size_bytes: int, *, thick: bool) -> AbstractContextManager[StagedVolume]:
        """A place for a volume of that size as its guest sees it (headers come on top).

        thick: whether it is to take all its space from the start, where that is not QEMU's to do. What an earlier try
        left is gone. What is not published when the block ends is removed.
        """

    def expand(self, volume: VolumeRef, size_bytes: int) -> None:
        """Makes the place of a volume large enough for that size. The layout inside is the caller's to change.

        Repeating it is harmless.
        """

    def delete(self, volume: VolumeRef) -> None:
        """Removes a volume and what a try to make it left; none is a success."""

    def discard(self, volume: VolumeRef) -> None:
        """Removes what a try to make a volume left when the agent was killed; the volume itself stays."""


class PoolType(Protocol):
    """One type of pool. Every call may be repeated.

    name: its name on the wire; shared: whether several hosts see the same volumes; encryption: whether encrypted
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

    def place(self, spec: PoolSpec) -> str:
        """What two pools of one host must not share, in words for people: a directory, a pool of an array."""

    def ensure(self, spec: PoolSpec) -> None:
        """Makes the pool usable. Raises FailedPreconditionError."""

    def release(self, spec: PoolSpec) -> None:
        """Undoes what `ensure` did; volumes stay. Raises FailedPreconditionError."""

    def fingerprint(self, spec: PoolSpec, *, make: bool) -> str | None:
        """What tells this place from any other, the same on every host; made when it has none and make says so.

        Asked before each use of the pool: None, or another one than before, and the pool is left alone.
        Raises FailedPreconditionError (POOL_PATH_UNUSABLE).
        """

    def capacity(self, spec: PoolSpec) -> Capacity:
        """Measured now; asked only when the pool is usable."""

    def store(self, spec: PoolSpec) -> Store:
        """Its volumes; asked for only when the pool is usable."""


@runtime_checkable
class NeedsSecret(Protocol):
    """Optional part of a pool type: one that needs a password of its own."""

    def set_secret(self, spec: PoolSpec, secret: Secret) -> None:
        """Proves that the password is right and keeps it in memory, and nowhere else.

        In all that it is asked, a pool whose password the agent does not have raises FailedPreconditionError
        POOL_NEEDS_CREDENTIALS.
        """


@runtime_checkable
class UnmapsVolumes(Protocol):
    """Optional part of a store: one whose volumes are mapped for VMs, by `Store.path`."""

    def unmap_unused(self, used: Collection[str], requested_before: float, only: Collection[str] | None = None) -> None:
        """Unmaps volumes that nothing on this host uses: left mapped by a VM that stopped, or an agent that was killed.

        used: volumes of VMs that run here. requested_before: volumes whose path was requested after this time
        (time.monotonic()) stay mapped, because their VM may be about to start. only: restricts it to these volumes.
        """


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
