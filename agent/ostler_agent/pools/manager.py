"""Manages this host's pools: makes them usable, remembers them, measures them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import structlog
from ostler_common.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    NotFoundError,
    OstlerError,
    ResourceExhaustedError,
    bad_field,
)
from ostler_common.pool_paths import check_pool_path
from ostler_common.secret import Secret

from ostler_agent.bounded import BoundedCalls
from ostler_agent.files import write_file
from ostler_agent.jobs import JobContext
from ostler_agent.pools.base import (
    Capacity,
    FetchesFiles,
    NeedsSecret,
    Pool,
    PoolSpec,
    PoolType,
    StagedVolume,
    Store,
    UnmapsVolumes,
    VmLister,
)
from ostler_agent.pools.directory import Files
from ostler_agent.spec import DiskFormat, PowerState, Provisioning, VolumeRef
from ostler_agent.tools.mounts import MOUNT_TIMEOUT_S

_POLL_INTERVAL_S = 1.0
# For how long storage may answer nothing.
_MEASURE_TIMEOUT_S = 15.0
_ENSURE_TIMEOUT_S = MOUNT_TIMEOUT_S + 10.0
T = TypeVar("T")

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class _Known:
    spec: PoolSpec
    fingerprint: str


class Pools:
    """All pools of this host. Thread-safe.

    state_dir: remembers them, one file per pool. Call `restore` once at the start, before jobs are recovered.
    """

    def __init__(self, state_dir: Path, types: Iterable[PoolType]) -> None:
        self._directory = state_dir / "pools"
        self._types = {pool_type.name: pool_type for pool_type in types}
        self._lock = threading.Lock()
        self._ensured = threading.Condition(self._lock)
        self._credential_wait_s = 0.0
        self._calls = BoundedCalls()
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._known: dict[str, _Known] = {}
        for path in self._directory.glob("*.json"):
            known = _read(path)
            if known.spec.type in self._types:
                self._known[known.spec.pool_id] = known
            else:
                log.error("unknown pool type on this host", pool=known.spec.pool_id, type=known.spec.type)

    @property
    def type_names(self) -> list[str]:
        """The pool types that this host can use."""
        return sorted(self._types)

    def ensure(self, spec: PoolSpec, secret: Secret | None = None) -> Pool:
        """Makes a pool usable and remembers it. secret: the password of a type that needs one, which is not stored.

        Raises InvalidArgumentError (INVALID_FIELD, POOL_PATH_RESERVED), FailedPreconditionError: POOL_DIFFERS when it
        is known with another type, path or source; POOL_PATH_TAKEN; POOL_PATH_UNUSABLE; POOL_MOUNT_FAILED;
        POOL_CHANGED when the place is not the one seen before; POOL_NOT_RESPONDING when the storage
        hangs.
        """
        pool_type = self._types.get(spec.type)
        if pool_type is None:
            raise bad_field(
                "spec.type", f"this host supports the types {', '.join(self.type_names)}", "POOL_TYPE_UNKNOWN"
            )
        pool_type.check(spec)
        if spec.path:
            check_pool_path(spec.path, "spec.path", own=[str(self._directory.parent)])
        with self._lock:
            self._check_not_taken(spec)
        if secret:
            _set_secret(pool_type, spec, secret)  # outside of the lock: it may take time
        if before := self._known.get(spec.pool_id):
            self._fingerprint_or_none(before)  # likewise: other pools must not wait for one that hangs
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
        """Makes every remembered pool usable again; logs a failure and retries it when the pool is used."""
        for pool_id, known in list(self._known.items()):
            try:
                self._store(pool_id)
            except OstlerError as error:
                log.error("pool is unusable", pool=pool_id, path=known.spec.path, error=str(error))

    def set_credential_wait(self, seconds: float) -> None:
        """Sets how long calls wait for a pool's password, which the control plane sends when it reaches this host.

        Call it once the agent serves: before, nobody can send a password.
        """
        self._credential_wait_s = seconds

    def get(self, pool_id: str) -> Pool:
        """Returns a pool, measured now. Raises NotFoundError (POOL_NOT_FOUND), and what `ensure` raises."""
        return _pool(self._find(pool_id), *self._capacity(pool_id))

    def list(self) -> list[Pool]:
        """Returns all pools, measured now; an unusable pool has a capacity of 0."""
        pools = []
        for pool_id, known in sorted(self._known.items()):
            try:
                pools.append(_pool(known, *self._capacity(pool_id)))
            except OstlerError:
                pools.append(_pool(known, self._types[known.spec.type], Capacity(0, 0)))
        return pools

    def remove(self, pool_id: str, vms: VmLister) -> None:
        """Removes a pool from this host; its files stay. Idempotent.

        Raises FailedPreconditionError: POOL_IN_USE if a running VM has a volume in it; POOL_UNMOUNT_FAILED.
        """
        with self._lock:
            known = self._known.get(pool_id)
            if known is None:
                return
            pool_type = self._types[known.spec.type]
            self._check_not_used(known, vms)
            pool_type.release(known.spec)
            self._file(pool_id).unlink(missing_ok=True)
            del self._known[pool_id]

    def volume_path(self, volume: VolumeRef) -> Path:
        """Returns a volume's path for a VM of this host, whether or not it exists. Raises what `exists` raises."""
        return self._volumes(volume.pool_id).path(volume)

    def directory(self, pool_id: str) -> Path:
        """Returns the directory of a pool's files.

        Raises FailedPreconditionError (STAGING_NOT_SUPPORTED) for a pool of devices, and what `exists` raises.
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
        """Whether a volume exists in its pool.

        Raises NotFoundError (POOL_NOT_FOUND), and what `ensure` raises if the pool cannot be made usable.
        """
        return self._volumes(volume.pool_id).exists(volume)

    @contextmanager
    def hold(self, volume: VolumeRef, job: JobContext | None = None) -> Iterator[Path]:
        """Yields a volume's path for this host's tools; a remote file is downloaded for it. job: reports that.

        Raises NotFoundError (VOLUME_NOT_FOUND), and what `exists` raises; for a remote file what `check_free_space`
        and `objects.get` raise.
        """
        store = self._volumes(volume.pool_id)
        if volume.remote is None:
            with store.hold(volume) as path:
                yield path
            return
        if not isinstance(store, FetchesFiles):
            raise bad_field("volume.remote", "must be absent: the pool's files are on this host")
        self.check_free_space(volume.pool_id, volume.remote.size_bytes)
        with store.fetch(volume, volume.remote, job or JobContext("download")) as path:
            yield path

    def check_room_to_fetch(self, volumes: Iterable[VolumeRef]) -> None:
        """Raises ResourceExhaustedError (POOL_FULL) unless all remote files among these fit at once."""
        needed: dict[str, int] = {}
        for volume in volumes:
            if volume.remote is not None:
                needed[volume.pool_id] = needed.get(volume.pool_id, 0) + volume.remote.size_bytes
        for pool_id, size_bytes in needed.items():
            self.check_free_space(pool_id, size_bytes)

    @contextmanager
    def staging(
        self, volume: VolumeRef, size_bytes: int, job: JobContext, provisioning: Provisioning = Provisioning.THIN
    ) -> Iterator[Staging]:
        """Yields a new volume under construction, which is removed unless committed. size_bytes: as the guest sees it.

        Raises what `exists` raises.
        """
        with self._volumes(volume.pool_id).make(volume, size_bytes, thick=provisioning is Provisioning.THICK) as staged:
            yield Staging(volume, staged, job)

    def created_by(self, volume: VolumeRef, facts: Mapping[str, str]) -> bool:
        """Whether the job with these facts created the volume. Raises what `hold` raises."""
        store = self._volumes(volume.pool_id)
        return store.exists(volume) and facts.get(_identity_fact(volume)) == store.identity(volume)

    def identity_fact(self, volume: VolumeRef, path: Path) -> dict[str, str]:
        """The fact by which a job recognizes that it made a volume of the file at this path, see `created_by`."""
        return {_identity_fact(volume): str(path.lstat().st_ino)}

    def expand(self, volume: VolumeRef, size_bytes: int) -> None:
        """Makes a volume's storage large enough for a new size. Raises what `hold` raises."""
        self._volumes(volume.pool_id).expand(volume, size_bytes)

    def delete(self, volume: VolumeRef) -> None:
        """Deletes a volume and leftovers of its construction. Idempotent. Raises what `exists` raises."""
        self._volumes(volume.pool_id).delete(volume)

    def discard(self, volume: VolumeRef) -> None:
        """Deletes leftovers of an interrupted `staging`. Raises what `exists` raises."""
        self._volumes(volume.pool_id).discard(volume)

    def unmap_unused(self, used: Collection[str], requested_before: float, only: Collection[str] | None = None) -> None:
        """Unmaps unused volumes, see `base.UnmapsVolumes`; skips unusable pools."""
        for pool_id, known in list(self._known.items()):
            try:
                if self._fingerprint_or_none(known) == known.fingerprint:
                    store = self._types[known.spec.type].store(known.spec)
                    if isinstance(store, UnmapsVolumes):
                        store.unmap_unused(used, requested_before, only)
            except OstlerError as error:
                log.warning("cannot unmap volumes", pool=pool_id, error=str(error))

    def unmap_if_unused(self, volume_id: str, using: Callable[[str], str | None]) -> None:
        """Unmaps a volume that a VM has just released, unless a VM uses it. `Unmapper` may have missed a short use.

        using: returns the running VM that uses a volume, or None.
        """
        used = [volume_id] if using(volume_id) else []
        self.unmap_unused(used, time.monotonic(), [volume_id])

    def check_free_space(self, pool_id: str, needed_bytes: int) -> None:
        """Raises ResourceExhaustedError (POOL_FULL) if a pool has less free space, and what `exists` raises."""
        available = self._capacity(pool_id)[1].available_bytes
        if available < needed_bytes:
            raise ResourceExhaustedError(
                f"the pool has {available} bytes free, but {needed_bytes} are needed "
                "(free some space, or choose another pool)",
                "POOL_FULL",
                {"available_bytes": str(available), "needed_bytes": str(needed_bytes)},
            )

    def _find(self, pool_id: str) -> _Known:
        try:
            return self._known[pool_id]
        except KeyError:
            raise NotFoundError(
                f"this host does not know pool {pool_id}", "POOL_NOT_FOUND", {"pool": pool_id}
            ) from None

    def _store(self, pool_id: str) -> Store:
        """Returns a pool's volumes, after verifying that its fingerprint has not changed."""
        known = self._find(pool_id)
        pool_type = self._types[known.spec.type]
        if self._fingerprint_or_none(known) != known.fingerprint:
            with self._lock:
                self._make_usable(known.spec, known)
        return pool_type.store(known.spec)

    def _volumes(self, pool_id: str) -> Store:
        """Like `_store`, but waits for a missing password."""
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
        return pool_type, self._bounded(known.spec, lambda: pool_type.capacity(known.spec))

    def _fingerprint_or_none(self, known: _Known) -> str | None:
        try:
            pool_type = self._types[known.spec.type]
            return self._bounded(known.spec, lambda: pool_type.fingerprint(known.spec, make=False))
        except FailedPreconditionError:
            return None  # making it usable reports the reason

    def _bounded(self, spec: PoolSpec, work: Callable[[], T], timeout_s: float | None = None) -> T:
        """What `work` on a pool's storage returns or raises. Raises FailedPreconditionError POOL_NOT_RESPONDING."""
        try:
            return self._calls.call(spec.pool_id, work, _MEASURE_TIMEOUT_S if timeout_s is None else timeout_s)
        except TimeoutError:
            place = self._types[spec.type].place(spec)
            raise FailedPreconditionError(
                f"{place} does not respond: its storage hangs (repair it or its network; VMs of other pools "
                "are not affected)",
                "POOL_NOT_RESPONDING",
                {"pool": spec.pool_id, "path": place},
            ) from None

    def _file(self, pool_id: str) -> Path:
        return self._directory / f"{pool_id}.json"

    def _make_usable(self, spec: PoolSpec, known: _Known | None) -> str:
        """Returns the fingerprint."""
        pool_type = self._types[spec.type]

        def ensure() -> str | None:
            pool_type.ensure(spec)
            return pool_type.fingerprint(spec, make=known is None)

        found = self._bounded(spec, ensure, _ENSURE_TIMEOUT_S)
        if found is None or (known and found != known.fingerprint):
            place = pool_type.place(spec)
            raise FailedPreconditionError(
                f"{place} has changed: its mark is {found or 'missing'} (is its file system mounted? If the change is "
                "intended, remove the pool and add it again)",
                "POOL_CHANGED",
                {"pool": spec.pool_id, "path": place},
            )
        return found

    def _check_not_taken(self, spec: PoolSpec) -> None:
        place = self._types[spec.type].place(spec)
        for other_id, other in self._known.items():
            if other_id != spec.pool_id and self._types[other.spec.type].place(other.spec) == place:
                raise FailedPreconditionError(
                    f"{place} is already pool {other_id}", "POOL_PATH_TAKEN", {"path": place, "pool": other_id}
                )

    def _check_not_used(self, known: _Known, vms: VmLister) -> None:
        pool_id = known.spec.pool_id
        used_here = [vm for vm in vms.vms() if vm.open_volume_ids and vm.power_state is not PowerState.STOPPED]
        store = self._types[known.spec.type].store(known.spec)
        for vm in used_here:
            used = [volume for volume in vm.open_volume_ids if store.exists(VolumeRef(pool_id, volume, DiskFormat.RAW))]
            if used:
                raise FailedPreconditionError(
                    f"VM {vm.name} uses volume {used[0]} in the pool (stop or migrate the VM first)",
                    "POOL_IN_USE",
                    {"pool": pool_id, "vm": vm.vm_id, "volume": used[0]},
                )


class Staging:
    """A volume under construction. path: where to write it."""

    def __init__(self, volume: VolumeRef, staged: StagedVolume, job: JobContext) -> None:
        self._volume = volume
        self._staged = staged
        self._job = job
        self.path = staged.path

    def commit(self) -> None:
        """Records in the job that it created the volume (`Pools.created_by`), then gives the volume its final name.

        Raises AlreadyExistsError (VOLUME_EXISTS), and what job.check() raises.
        """
        self._job.remember(**{_identity_fact(self._volume): self._staged.identity()})
        self._job.check()
        try:
            self._staged.publish()
        except FileExistsError:
            raise already_exists(self._volume) from None


def already_exists(volume: VolumeRef) -> AlreadyExistsError:
    return AlreadyExistsError(
        f"volume {volume.volume_id} already exists in its pool", "VOLUME_EXISTS", {"volume": volume.volume_id}
    )


def _identity_fact(volume: VolumeRef) -> str:
    """The name of the fact by which a job recognizes a volume that it created."""
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
        raise bad_field("secret", f"a pool of type {spec.type} has no password")
    pool_type.set_secret(spec, secret)


def _check_same(known: PoolSpec, spec: PoolSpec) -> None:
    if (known.type, known.path, known.source) != (spec.type, spec.path, spec.source):
        raise FailedPreconditionError(
            f"pool {spec.pool_id} already exists as {known.type} {known.source} {known.path} (remove it first)",
            "POOL_DIFFERS",
            {"pool": spec.pool_id},
        )


def _read(path: Path) -> _Known:
    data = json.loads(path.read_text())
    return _Known(PoolSpec(**data["spec"]), data["fingerprint"])
