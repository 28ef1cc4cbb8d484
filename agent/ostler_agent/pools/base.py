"""The interface of storage pool types.

The volumes of a pool are files in a directory (`directory.DirectoryPool` is the base of such types), or block devices
that must be allocated, mapped to this host, and unmapped.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from ostler_common.errors import bad_field
from ostler_common.pool_paths import check_pool_path
from ostler_common.secret import Secret

from ostler_agent.jobs import JobContext
from ostler_agent.spec import RemoteObject, VmInfo, VolumeRef


@dataclass(frozen=True)
class PoolSpec:
    """A pool as the control plane describes it; for path, source and options see PoolSpec in pool.proto."""

    pool_id: str
    type: str
    path: str = ""
    source: str = ""
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Pool:
    """A pool as this host sees it now. fingerprint: equal on two hosts if and only if they see the same volumes."""

    spec: PoolSpec
    shared: bool
    encryption: bool
    capacity_bytes: int
    available_bytes: int
    fingerprint: str


@dataclass(frozen=True)
class Capacity:
    """A pool's total and available space."""

    total_bytes: int
    available_bytes: int


class StagedVolume(Protocol):
    """A volume under construction, under a name that no VM ever uses."""

    @property
    def path(self) -> Path:
        """Where to write it: a file that does not exist yet, or a device that is large enough."""

    def identity(self) -> str:
        """What `Store.identity` will return after `publish`; defined once `path` exists."""

    def publish(self) -> None:
        """Gives the volume its final name, durably. Raises FileExistsError if the name is taken."""


class Store(Protocol):
    """The volumes of one usable pool. Of a VolumeRef's key, only its presence matters."""

    def path(self, volume: VolumeRef) -> Path:
        """Returns the path for a VM of this host; maps a device, which stays mapped.

        The last component is the volume's id, also for a device (a symbolic link to it): it identifies the volume in
        the hypervisor's list of disks.
        """

    def exists(self, volume: VolumeRef) -> bool:
        """Whether the volume exists (complete)."""

    def identity(self, volume: VolumeRef) -> str:
        """Distinguishes a volume from any other that ever had its name: an inode, an array's own id."""

    def hold(self, volume: VolumeRef) -> AbstractContextManager[Path]:
        """Yields the volume's path; a device that it maps is unmapped at the end of the block.

        Raises NotFoundError (VOLUME_NOT_FOUND).
        """

    def make(self, volume: VolumeRef, size_bytes: int, *, thick: bool) -> AbstractContextManager[StagedVolume]:
        """Yields a new volume under construction. Discards leftovers of an earlier attempt first.

        size_bytes: as the guest sees it (headers come on top); thick: whether to allocate all space, where QEMU cannot
        do it. Removes the volume at the end of the block unless it was published.
        """

    def expand(self, volume: VolumeRef, size_bytes: int) -> None:
        """Makes the volume's storage large enough for a new size; the caller then grows the image. Idempotent."""

    def delete(self, volume: VolumeRef) -> None:
        """Deletes a volume and leftovers of its construction. Idempotent."""

    def discard(self, volume: VolumeRef) -> None:
        """Deletes leftovers of a volume's construction, not the volume itself. Idempotent."""


class PoolType(Protocol):
    """A type of pool. Every call is idempotent.

    interface_version: the `registry.INTERFACE_VERSION` that the type was written for, as a number; name: as in
    PoolSpec.type; shared: whether several hosts see the same volumes; encryption: whether it supports encryption.
    """

    @property
    def interface_version(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def shared(self) -> bool: ...
    @property
    def encryption(self) -> bool: ...

    def check(self, spec: PoolSpec) -> None:
        """Raises InvalidArgumentError for a spec that can never work; has no side effect."""

    def place(self, spec: PoolSpec) -> str:
        """What two pools of a host must not share, in words for people: a directory, a pool of an array."""

    def ensure(self, spec: PoolSpec) -> None:
        """Makes the pool usable. Raises FailedPreconditionError."""

    def release(self, spec: PoolSpec) -> None:
        """Undoes `ensure`; volumes stay. Raises FailedPreconditionError."""

    def fingerprint(self, spec: PoolSpec, *, make: bool) -> str | None:
        """Identifies the place of the pool, the same on every host. make: creates the mark if there is none.

        Checked before each use of the pool: if it is None or has changed, the pool is not used. Raises
        FailedPreconditionError (POOL_PATH_UNUSABLE).
        """

    def capacity(self, spec: PoolSpec) -> Capacity:
        """Measures the pool; called only if it is usable."""

    def store(self, spec: PoolSpec) -> Store:
        """Returns its volumes; called only if it is usable."""


@runtime_checkable
class NeedsSecret(Protocol):
    """Optional part of a pool type: it needs a password."""

    def set_secret(self, spec: PoolSpec, secret: Secret) -> None:
        """Verifies the password and keeps it in memory only.

        Without the password, every call about the pool raises FailedPreconditionError POOL_NEEDS_CREDENTIALS.
        """


@runtime_checkable
class UnmapsVolumes(Protocol):
    """Optional part of a store: `Store.path` maps volumes for VMs."""

    def unmap_unused(self, used: Collection[str], requested_before: float, only: Collection[str] | None = None) -> None:
        """Unmaps volumes that nothing on this host uses: left mapped by a VM that stopped, or an agent that was killed.

        used: volumes of VMs that run here. requested_before: volumes whose path was requested after this time
        (time.monotonic()) stay mapped, because their VM may be about to start. only: restricts it to these volumes.
        """


@runtime_checkable
class FetchesFiles(Protocol):
    """Optional part of a store: files of volumes are elsewhere, and are downloaded to be read."""

    def fetch(self, volume: VolumeRef, remote: RemoteObject, job: JobContext) -> AbstractContextManager[Path]:
        """Yields a copy of the volume's file, which is removed at the end of the block."""


class VmLister(Protocol):
    """The part of a hypervisor driver that pools need."""

    def vms(self) -> Sequence[VmInfo]:
        """Returns every VM of the hypervisor."""


def check_path(spec: PoolSpec, *, mount_point: bool = False) -> None:
    """Raises InvalidArgumentError: see `check_pool_path`, which also applies to where symbolic links lead.

    mount_point: the agent mounts something there; then only the links on the way to it count, because looking at the
    mount point itself hangs while its server is gone.
    """
    check_pool_path(spec.path, "spec.path")
    path = Path(spec.path)
    check_pool_path(str(path.parent.resolve() / path.name if mount_point else path.resolve()), "spec.path")


def check_unused(spec: PoolSpec, *, source: bool = False, options: frozenset[str] = frozenset()) -> None:
    """Raises InvalidArgumentError for a source or options that the type does not use."""
    if spec.source and not source:
        raise bad_field("spec.source", f"a pool of type {spec.type} has no source")
    if unknown := set(spec.options) - options:
        raise bad_field("spec.options", f"a pool of type {spec.type} has no option {', '.join(sorted(unknown))}")
