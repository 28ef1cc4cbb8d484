"""The pools that this host has been told of: made usable, remembered, measured."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import structlog
from ostler_common.errors import FailedPreconditionError, NotFoundError, OstlerError, bad_field

from ostler_agent.files import write_file
from ostler_agent.pools import fingerprint
from ostler_agent.pools.base import Pool, PoolSpec, PoolType
from ostler_agent.spec import PowerState, VmInfo, VolumeRef

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

    def ensure(self, spec: PoolSpec) -> Pool:
        """Makes a pool usable and remembers it.

        Raises InvalidArgumentError (INVALID_FIELD), FailedPreconditionError: POOL_DIFFERS when it is known with
        another type, path or source; POOL_PATH_TAKEN; POOL_PATH_UNUSABLE; POOL_MOUNT_FAILED; POOL_CHANGED when the
        directory is not the one seen before.
        """
        pool_type = self._types.get(spec.type)
        if pool_type is None:
            raise bad_field("spec.type", f"this host knows the types {', '.join(self.type_names)}", "POOL_TYPE_UNKNOWN")
        pool_type.check(spec)
        with self._lock:
            known = self._known.get(spec.pool_id)
            if known:
                _check_same(known.spec, spec)
            self._check_not_taken(spec)
            mark = self._make_usable(spec, known)
            self._known[spec.pool_id] = _Known(spec, mark)
            write_file(self._file(spec.pool_id), json.dumps({"spec": asdict(spec), "fingerprint": mark}).encode())
        return self.get(spec.pool_id)

    def restore(self) -> None:
        """Makes every remembered pool usable again; one that cannot be is logged, and tried again when needed."""
        for pool_id, known in list(self._known.items()):
            try:
                self.directory(pool_id)
            except OstlerError as error:
                log.error("pool is not usable", pool=pool_id, path=known.spec.path, error=str(error))

    def get(self, pool_id: str) -> Pool:
        """A pool, measured now. Raises as `directory` does."""
        return self._measure(self._find(pool_id), self.directory(pool_id))

    def list(self) -> list[Pool]:
        """All pools, measured now; one that is not usable shows a capacity of 0."""
        pools = []
        for pool_id, known in sorted(self._known.items()):
            try:
                pools.append(self._measure(known, self.directory(pool_id)))
            except OstlerError:
                pools.append(self._measure(known, None))
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
            directory = pool_type.directory(known.spec)
            for vm in guests.vms():
                used = [volume for volume in vm.volume_ids if (directory / volume).exists()]
                if used and vm.power_state is not PowerState.STOPPED:
                    raise FailedPreconditionError(
                        f"VM {vm.name} uses volume {used[0]} in the pool (stop the VM or move it away first)",
                        "POOL_IN_USE",
                        {"pool": pool_id, "vm": vm.vm_id, "volume": used[0]},
                    )
            pool_type.release(known.spec)
            self._file(pool_id).unlink(missing_ok=True)
            del self._known[pool_id]

    def directory(self, pool_id: str) -> Path:
        """Where a pool's volumes are, proved to be the directory that it was when the pool was made known.

        Raises NotFoundError (POOL_NOT_FOUND), and what `ensure` raises when it is not usable and cannot be made so.
        """
        known = self._find(pool_id)
        directory = self._types[known.spec.type].directory(known.spec)
        if fingerprint.read_or_none(directory) != known.fingerprint:
            with self._lock:
                self._make_usable(known.spec, known)
        return directory

    def path(self, pool_id: str, volume_id: str) -> Path:
        """A volume's file, there or not. Raises as `directory` does."""
        return self.directory(pool_id) / volume_id

    def part(self, pool_id: str, volume_id: str) -> Path:
        """A volume's file while it is being made. Raises as `directory` does."""
        return self.directory(pool_id) / f".{volume_id}.part"

    def volume_path(self, volume: VolumeRef) -> Path:
        """`path`, as hypervisor drivers ask for it."""
        return self.path(volume.pool_id, volume.volume_id)

    def _find(self, pool_id: str) -> _Known:
        try:
            return self._known[pool_id]
        except KeyError:
            raise NotFoundError(
                f"this host has not been told of pool {pool_id}", "POOL_NOT_FOUND", {"pool": pool_id}
            ) from None

    def _file(self, pool_id: str) -> Path:
        return self._directory / f"{pool_id}.json"

    def _make_usable(self, spec: PoolSpec, known: _Known | None) -> str:
        """Returns the fingerprint."""
        pool_type = self._types[spec.type]
        pool_type.ensure(spec)
        directory = pool_type.directory(spec)
        try:
            found = fingerprint.read_or_none(directory) if known else fingerprint.read_or_make(directory)
        except OSError as error:
            raise FailedPreconditionError(
                f"{directory} cannot be used: {error.strerror}", "POOL_PATH_UNUSABLE", {"path": str(directory)}
            ) from error
        if known is None and found:
            return found
        if known is None or found is None or found != known.fingerprint:
            raise FailedPreconditionError(
                f"{directory} is not the directory that it was: its mark is {found or 'missing'} (is its file system "
                "mounted? If the pool was meant to change, remove it and add it again)",
                "POOL_CHANGED",
                {"pool": spec.pool_id, "path": str(directory)},
            )
        return found

    def _check_not_taken(self, spec: PoolSpec) -> None:
        directory = self._types[spec.type].directory(spec)
        for other_id, other in self._known.items():
            if other_id != spec.pool_id and self._types[other.spec.type].directory(other.spec) == directory:
                raise FailedPreconditionError(
                    f"{directory} is pool {other_id} already",
                    "POOL_PATH_TAKEN",
                    {"path": str(directory), "pool": other_id},
                )

    def _measure(self, known: _Known, directory: Path | None) -> Pool:
        pool_type = self._types[known.spec.type]
        sizes = os.statvfs(directory) if directory else None
        return Pool(
            spec=known.spec,
            shared=pool_type.shared,
            encryption=pool_type.encryption,
            capacity_bytes=sizes.f_blocks * sizes.f_frsize if sizes else 0,
            available_bytes=sizes.f_bavail * sizes.f_frsize if sizes else 0,
            fingerprint=known.fingerprint,
        )


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
