"""The pools that this host has been told of: made usable, remembered, measured."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import structlog
from ostler_common.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    NotFoundError,
    OstlerError,
    ResourceExhaustedError,
    bad_field,
)
from ostler_common.secret import Secret

from ostler_agent.files import write_file
from ostler_agent.jobs import JobContext
from ostler_agent.pools.base import Capacity, NeedsSecret, Pool, PoolSpec, PoolType, StagedVolume, Store, UnmapsVolumes
from ostler_agent.pools.directory import Files
from ostler_agent.spec import DiskFormat, PowerState, Provisioning, VmInfo, VolumeRef

_POLL_INTERVAL_S = 1.0

log = structlog.get_logger(__name__)


class Guests(Protocol):
    """What pools need of the hypervisor's driver."""

    def vms(self) -> Sequence[VmInfo]:
        """Every VM that the hypervisor knows."""


@dataclass(frozen=True)
class _Known:
    spec: PoolSpec
    fingerprint: str


class Pools:
    """All pools of this host; safe to use from many threads.

    state_dir: where they are remembered, one file a pool. Call `restore` once at start, before jobs are recovered.
    """

    def __init__(self, state_dir: Path, types: Iterable[PoolType]) -> None:
        self._directory = state_dir / "pools"
        self._types = {pool_type.name: pool_type for pool_type in types}
        self._lock = threading.Lock()
        self._ensured = threading.Condition(self._lock)
        self._credential_wait_s = 0.0
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._known: dict[str, _Known] = {}
        for path in self._directory.glob("*.json"):
            known = _read(path)
            if known.spec.type in self._types:
                self._known[known.spec.pool_id] = known
            else:
                log.error("no such type of pool on this host", pool=known.spec.pool_id, type=known.spec.type)

    @property
    def type_names(self) -> list[str]:
        """Types of pool that this host can use."""
        return sorted(self._types)

    def ensure(self, spec: PoolSpec, secret: Secret | None = None) -> Pool:
        """Makes a pool usable and remembers it, except for its secret: the password of a type that needs one.

        Raises InvalidArgumentError (INVALID_FIELD), FailedPreconditionError: POOL_DIFFERS when it is known with
        another type, path or source; POOL_PATH_TAKEN; POOL_PATH_UNUSABLE; POOL_MOUNT_FAILED; POOL_CHANGED when the
        place is not the one seen before.
        """
        pool_type = self._types.get(spec.type)
        if pool_type is None:
            raise bad_field("spec.type", f"this host knows the types {', '.join(self.type_names)}", "POOL_TYPE_UNKNOWN")
        pool_type.check(spec)
        with self._lock:
            self._check_not_taken(spec)
        if secret:
            _set_secret(pool_type, spec, secret)  # it may take its time, and others wait for the lock
        with self._lock:
            known = self._known.get(spec.pool_id)
            if known:
                _check_same(known.spec, spec)
            self._check_not_taken(spec)
            mark = self._make_usable(spec, known)
            self._known[spec.pool_id] = _Known(spec, mark)
            write_file(self._file(spec.pool_id), json.dumps({"spec": asdict(spec), "fingerprint": mark}).encode())
            self._ensured.notify_all()
        return self.get(spec.pool_id)

    def restore(self) -> None:
        """Makes every remembered pool usable again; one that cannot be is logged, and tried again when needed."""
        for pool_id, known in list(self._known.items()):
            try:
                self._store(pool_id)
            except OstlerError as error:
                log.error("pool is not usable", pool=pool_id, path=known.spec.path, error=str(error))

    def set_credential_wait(self, seconds: float) -> None:
        """From now on work waits so long for a pool's password: the control plane sends it when it reaches this host.

        Not before the agent serves: until then nobody can send any.
        """
        self._credential_wait_s = seconds

    def get(self, pool_id: str) -> Pool:
        """A pool, measured now. Raises NotFoundError (POOL_NOT_FOUND), and as `ensure` does."""
        return _pool(self._find(pool_id), *self._capacity(pool_id))

    def list(self) -> list[Pool]:
        """All pools, measured now; one that is not usable shows a capacity of 0."""
        pools = []
        for pool_id, known in sorted(self._known.items()):
            try:
                pools.append(_pool(known, *self._capacity(pool_id)))
            except OstlerError:
                pools.append(_pool(known, self._types[known.spec.type], Capacity(0, 0)))
        return pools

    def remove(self, pool_id: str, guests: Guests) -> None:
        """Forgets a pool; its files stay. One that is not known is a success.

        Raises FailedPreconditionError: POOL_IN_USE while a VM that executes here has a volume in it;
        POOL_UNMOUNT_FAILED.
        """
        with self._lock:
            known = self._known.get(pool_id)
            if known is None:
                return
            pool_type = self._types[known.spec.type]
            self._check_not_used(known, guests)
            pool_type.release(known.spec)
            self._file(pool_id).unlink(missing_ok=True)
            del self._known[pool_id]

    def volume_path(self, volume: VolumeRef) -> Path:
        """Where a VM of this host finds a volume, there or not. Raises as `exists` does."""
        return self._volumes(volume.pool_id).path(volume)

    def directory(self, pool_id: str) -> Path:
        """Where a pool's files are.

        Raises FailedPreconditionError (STAGING_NOT_SUPPORTED) for a pool of devices, and as `exists` does.
        """
        store = self._volumes(pool_id)
        if not isinstance(store, Files):
            raise FailedPreconditionError(
                f"pool {pool_id} keeps volumes as devices and cannot hold other files (choose one of type nfs, "
                "shared-mount-point or local)",
                "STAGING_NOT_SUPPORTED",
                {"pool": pool_id},
            )
        return store.directory

    def exists(self, volume: VolumeRef) -> bool:
        """Whether a volume is in its pool, whole.

        Raises NotFoundError (POOL_NOT_FOUND), and what `ensure` raises when the pool is not usable and cannot be made
        so.
        """
        return self._volumes(volume.pool_id).exists(volume)

    @contextmanager
    def hold(self, volume: VolumeRef) -> Iterator[Path]:
        """Where a volume is for this host's tools while the block lasts.

        Raises NotFoundError (VOLUME_NOT_FOUND), and as `exists` does.
        """
        with self._volumes(volume.pool_id).hold(volume) as path:
            yield path

    @contextmanager
    def staging(
        self, volume: VolumeRef, size_bytes: int, job: JobContext, provisioning: Provisioning = Provisioning.THIN
    ) -> Iterator[Staging]:
        """A place to make a volume of that size (as a guest sees it) in; nothing stays of it unless it is committed.

        Raises as `exists` does.
        """
        with self._volumes(volume.pool_id).make(volume, size_bytes, thick=provisioning is Provisioning.THICK) as staged:
            yield Staging(volume, staged, job)

    def created_by(self, volume: VolumeRef, facts: Mapping[str, str]) -> bool:
        """Whether the volume that is there was made by the job with these facts. Raises as `hold` does."""
        store = self._volumes(volume.pool_id)
        return store.exists(volume) and facts.get(_own(volume)) == store.identity(volume)

    def expand(self, volume: VolumeRef, size_bytes: int) -> None:
        """Makes sure that a larger size of a volume fits where it is. Raises as `hold` does."""
        self._volumes(volume.pool_id).expand(volume, size_bytes)

    def delete(self, volume: VolumeRef) -> None:
        """Removes a volume and all that a try to make it left; none is a success. Raises as `exists` does."""
        self._volumes(volume.pool_id).delete(volume)

    def discard(self, volume: VolumeRef) -> None:
        """Removes what a `staging` left that the agent's end cut short. Raises as `exists` does."""
        self._volumes(volume.pool_id).discard(volume)

    def unmap_unused(self, used: Collection[str], requested_before: float, only: Collection[str] | None = None) -> None:
        """Unmaps volumes that nothing here uses, see `base.UnmapsVolumes`; a pool that is not usable is left alone."""
        for pool_id, known in list(self._known.items()):
            try:
                if self._fingerprint_or_none(known) == known.fingerprint:
                    store = self._types[known.spec.type].store(known.spec)
                    if isinstance(store, UnmapsVolumes):
                        store.unmap_unused(used, requested_before, only)
            except OstlerError as error:
                log.warning("volumes could not be unmapped", pool=pool_id, error=str(error))

    def unmap_if_unused(self, volume_id: str, using: Callable[[str], str | None]) -> None:
        """Unmaps a volume that a VM here has just let go of, unless one uses it still. `Unmapper` sees only what was in
        use for a while.

        using: the VM that executes here with a volume, or None.
        """
        used = [volume_id] if using(volume_id) else []
        self.unmap_unused(used, time.monotonic(), [volume_id])

    def check_free_space(self, pool_id: str, needed_bytes: int) -> None:
        """Raises ResourceExhaustedError (POOL_FULL) when a pool has less left, and as `exists` does."""
        available = self._capacity(pool_id)[1].available_bytes
        if available < needed_bytes:
            raise ResourceExhaustedError(
                f"the pool has {available} bytes left and {needed_bytes} are needed "
                "(free some, or choose another pool)",
                "POOL_FULL",
                {"available_bytes": str(available), "needed_bytes": str(needed_bytes)},
            )

    def _find(self, pool_id: str) -> _Known:
        try:
            return self._known[pool_id]
        except KeyError:
            raise NotFoundError(
                f"this host has not been told of pool {pool_id}", "POOL_NOT_FOUND", {"pool": pool_id}
            ) from None

    def _store(self, pool_id: str) -> Store:
        """A pool's volumes, once it is proved to be the place that it was when the pool was made known."""
        known = self._find(pool_id)
        pool_type = self._types[known.spec.type]
        if self._fingerprint_or_none(known) != known.fingerprint:
            with self._lock:
                self._make_usable(known.spec, known)
        return pool_type.store(known.spec)

    def _volumes(self, pool_id: str) -> Store:
        """`_store` for work: when only a password lacks, that is waited for."""
        deadline = time.monotonic() + self._credential_wait_s
        while True:
            try:
                return self._store(pool_id)
            except FailedPreconditionError as error:
                left_s = deadline - time.monotonic()
                if error.reason != "POOL_NEEDS_CREDENTIALS" or left_s <= 0:
                    raise
                with self._ensured:
                    self._ensured.wait(min(left_s, _POLL_INTERVAL_S))

    def _capacity(self, pool_id: str) -> tuple[PoolType, Capacity]:
        self._store(pool_id)
        known = self._find(pool_id)
        pool_type = self._types[known.spec.type]
        return pool_type, pool_type.capacity(known.spec)

    def _fingerprint_or_none(self, known: _Known) -> str | None:
        try:
            return self._types[known.spec.type].fingerprint(known.spec, make=False)
        except FailedPreconditionError:
            return None  # staging it usable says why

    def _file(self, pool_id: str) -> Path:
        return self._directory / f"{pool_id}.json"

    def _make_usable(self, spec: PoolSpec, known: _Known | None) -> str:
        """Returns the fingerprint."""
        pool_type = self._types[spec.type]
        pool_type.ensure(spec)
        found = pool_type.fingerprint(spec, make=known is None)
        if found is None or (known and found != known.fingerprint):
            place = pool_type.place(spec)
            raise FailedPreconditionError(
                f"{place} is not what it was: its mark is {found or 'missing'} (is its file system "
                "mounted? If the pool was meant to change, remove it and add it again)",
                "POOL_CHANGED",
                {"pool": spec.pool_id, "path": place},
            )
        return found

    def _check_not_taken(self, spec: PoolSpec) -> None:
        place = self._types[spec.type].place(spec)
        for other_id, other in self._known.items():
            if other_id != spec.pool_id and self._types[other.spec.type].place(other.spec) == place:
                raise FailedPreconditionError(
                    f"{place} is pool {other_id} already", "POOL_PATH_TAKEN", {"path": place, "pool": other_id}
                )

    def _check_not_used(self, known: _Known, guests: Guests) -> None:
        pool_id = known.spec.pool_id
        used_here = [vm for vm in guests.vms() if vm.open_volume_ids and vm.power_state is not PowerState.STOPPED]
        store = self._types[known.spec.type].store(known.spec)
        for vm in used_here:
            used = [volume for volume in vm.open_volume_ids if store.exists(VolumeRef(pool_id, volume, DiskFormat.RAW))]
            if used:
                raise FailedPreconditionError(
                    f"VM {vm.name} uses volume {used[0]} in the pool (stop the VM or move it away first)",
                    "POOL_IN_USE",
                    {"pool": pool_id, "vm": vm.vm_id, "volume": used[0]},
                )


class Staging:
    """A volume that is being made. path: where to write it."""

    def __init__(self, volume: VolumeRef, staged: StagedVolume, job: JobContext) -> None:
        self._volume = volume
        self._staged = staged
        self._job = job
        self.path = staged.path

    def commit(self) -> None:
        """Gives the volume its name, once the job knows it for its own (`Pools.created_by`).

        Raises AlreadyExistsError (VOLUME_EXISTS), and what job.check() raises.
        """
        self._job.remember(**{_own(self._volume): self._staged.identity()})
        self._job.check()
        try:
            self._staged.publish()
        except FileExistsError:
            raise already_exists(self._volume) from None


def already_exists(volume: VolumeRef) -> AlreadyExistsError:
    return AlreadyExistsError(
        f"volume {volume.volume_id} is in its pool already", "VOLUME_EXISTS", {"volume": volume.volume_id}
    )


def _own(volume: VolumeRef) -> str:
    """The fact by which a job knows a volume as its own."""
    return f"identity of {volume.volume_id}"


def _pool(known: _Known, pool_type: PoolType, capacity: Capacity) -> Pool:
    return Pool(
        spec=known.spec,
        shared=pool_type.shared,
        encryption=pool_type.encryption,
        capacity_bytes=capacity.total_bytes,
        available_bytes=capacity.available_bytes,
        fingerprint=known.fingerprint,
    )


def _set_secret(pool_type: PoolType, spec: PoolSpec, secret: Secret) -> None:
    if not isinstance(pool_type, NeedsSecret):
        raise bad_field("secret", f"a pool of type {spec.type} needs none")
    pool_type.set_secret(spec, secret)


def _check_same(known: PoolSpec, spec: PoolSpec) -> None:
    if (known.type, known.path, known.source) != (spec.type, spec.path, spec.source):
        raise FailedPreconditionError(
            f"pool {spec.pool_id} is known as {known.type} {known.source} {known.path} (remove it first)",
            "POOL_DIFFERS",
            {"pool": spec.pool_id},
        )


def _read(path: Path) -> _Known:
    data = json.loads(path.read_text())
    return _Known(PoolSpec(**data["spec"]), data["fingerprint"])
