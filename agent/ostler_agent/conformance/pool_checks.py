"""The checks of the pool contract, tried on a real pool: `ostler-agent pool check NAME`."""

from __future__ import annotations

import os
import pickle
import re
import sys
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from ostler_common.errors import InvalidArgumentError, NotFoundError, OstlerError
from ostler_common.secret import Secret

from ostler_agent.conformance.assertions import CheckFailedError, SkippedError, refused, require
from ostler_agent.conformance.killed_pool import PoolOrders
from ostler_agent.pools import PoolSpec, PoolType, Store
from ostler_agent.pools.base import NeedsSecret
from ostler_agent.process import run
from ostler_agent.spec import DiskFormat, VolumeRef
from ostler_agent.tools import qemu_img

MIB = 1 << 20
AGENT_TIMEOUT_S = 120.0


@dataclass
class PoolBench:
    """A pool type with the pool that it is checked on. Affects only volumes that it created."""

    pool_type: PoolType
    spec: PoolSpec
    secret: Secret | None = None
    _created: list[VolumeRef] = field(default_factory=list)

    def open(self) -> None:
        """Makes the pool usable."""
        if self.secret and isinstance(self.pool_type, NeedsSecret):
            self.pool_type.set_secret(self.spec, self.secret)
        self.pool_type.ensure(self.spec)
        self.pool_type.fingerprint(self.spec, make=True)

    @property
    def store(self) -> Store:
        return self.pool_type.store(self.spec)

    def ref(self, disk_format: DiskFormat = DiskFormat.QCOW2) -> VolumeRef:
        """The reference of a new volume, which is deleted after the check."""
        ref = VolumeRef(self.spec.pool_id, str(uuid.uuid4()), disk_format)
        self._created.append(ref)
        return ref

    def volume(self, disk_format: DiskFormat = DiskFormat.QCOW2, size_bytes: int = 8 * MIB) -> VolumeRef:
        """Creates an empty volume."""
        ref = self.ref(disk_format)
        with self.store.make(ref, size_bytes, thick=False) as staged:
            qemu_img.create(staged.path, disk_format, size_bytes)
            staged.publish()
        return ref

    def clean_up(self) -> None:
        """Deletes the volumes that checks created, each once. Raises what the pool type raises."""
        pending, self._created = self._created, []
        for ref in pending:
            self.store.delete(ref)


def statement(bench: PoolBench) -> None:
    """The name is a lower-case word; shared and encryption are booleans."""
    pool_type = bench.pool_type
    require(re.fullmatch("[a-z][a-z0-9-]{0,31}", pool_type.name), "the name must be a lower-case word")
    require(isinstance(pool_type.shared, bool), "shared must be True or False")
    require(isinstance(pool_type.encryption, bool), "encryption must be True or False")


def options(bench: PoolBench) -> None:
    """`check` accepts the pool, and refuses unknown options with InvalidArgumentError."""
    bench.pool_type.check(bench.spec)
    unknown = replace(bench.spec, options={**bench.spec.options, "no-such-option": "1"})
    try:
        bench.pool_type.check(unknown)
    except InvalidArgumentError:
        return
    raise CheckFailedError("check must refuse an unknown option with InvalidArgumentError")


def idempotent(bench: PoolBench) -> None:
    """`ensure` is idempotent; place and fingerprint do not change; the capacity is plausible."""
    pool_type, spec = bench.pool_type, bench.spec
    marks = set()
    for make in (True, True, False):
        bench.open()
        marks.add(pool_type.fingerprint(spec, make=make))
    require(None not in marks and len(marks) == 1, f"the fingerprint of a usable pool must not change: {marks}")
    require(pool_type.place(spec) and pool_type.place(spec) == pool_type.place(spec), "place must be a constant text")
    capacity = pool_type.capacity(spec)
    require(0 <= capacity.available_bytes <= capacity.total_bytes, "available space must be between 0 and the total")
    require(capacity.total_bytes > 0, "the total space must be positive")


def absent(bench: PoolBench) -> None:
    """An absent volume: exists is False, hold raises VOLUME_NOT_FOUND, delete and discard succeed."""
    store, ref = bench.store, bench.ref()
    for _ in range(2):
        require(not store.exists(ref), "exists must be False for an absent volume")
        try:
            with store.hold(ref):
                raise CheckFailedError("hold of an absent volume must raise VOLUME_NOT_FOUND")
        except NotFoundError as error:
            require(error.reason == "VOLUME_NOT_FOUND", f"hold must raise VOLUME_NOT_FOUND, not {error.reason}")
        store.delete(ref)
        store.discard(ref)


def create(bench: PoolBench) -> None:
    """A volume appears only when it is published, under its id, with the identity that was announced."""
    store, ref = bench.store, bench.ref()
    with store.make(ref, 8 * MIB, thick=False) as staged:
        require(not store.exists(ref), "a volume must not exist before it is published")
        require(staged.path != store.path(ref), "a volume under construction must not have its final path")
        qemu_img.create(staged.path, ref.format, 8 * MIB)
        announced = staged.identity()
        staged.publish()
    require(store.exists(ref), "a published volume must exist after the block")
    require(store.identity(ref) == announced, "the identity must be the one announced before publishing")
    require(store.path(ref).name == ref.volume_id, "the last component of the path must be the volume's id")
    with store.hold(ref) as path:
        size_bytes = qemu_img.info(path, ref.format).virtual_size_bytes
        require(size_bytes == 8 * MIB, f"the volume must have the image that was written, not {size_bytes} bytes")
    for _ in range(2):
        store.delete(ref)
        require(not store.exists(ref), "a deleted volume must not exist")


def unpublished(bench: PoolBench) -> None:
    """A volume that is not published is gone at the end of the block, also after an exception."""
    store = bench.store
    for fails in (False, True):
        ref = bench.ref()
        with suppress(_ExpectedError), store.make(ref, MIB, thick=False) as staged:
            path = staged.path
            qemu_img.create(path, ref.format, MIB)
            if fails:
                raise _ExpectedError
        require(not store.exists(ref), "a volume that was not published must not exist")
        require(not os.path.lexists(path), "a volume that was not published must leave nothing behind")


def never_replaces(bench: PoolBench) -> None:
    """Publishing under the name of an existing volume raises FileExistsError and does not change that volume."""
    store, ref = bench.store, bench.volume()
    identity = store.identity(ref)
    with store.make(ref, MIB, thick=False) as staged:
        qemu_img.create(staged.path, ref.format, MIB)
        try:
            staged.publish()
        except FileExistsError:
            pass
        else:
            raise CheckFailedError("publish must raise FileExistsError if the volume exists")
    require(store.identity(ref) == identity, "the existing volume must not change")


def killed(bench: PoolBench) -> None:
    """An agent is killed while it creates a volume: discard removes the leftovers, and the volume can be created."""
    store, ref = bench.store, bench.ref()
    secret = bench.secret.reveal() if bench.secret else b""
    orders = PoolOrders(bench.pool_type.name, bench.spec, secret, ref, MIB)
    environment = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    argv = [sys.executable, "-m", "ostler_agent.conformance.killed_pool"]
    done = run(argv, stdin=Secret(pickle.dumps(orders)), env=environment, timeout_s=AGENT_TIMEOUT_S, check=False)
    if "is not installed" in done.stderr:
        raise SkippedError("the pool type is not installed as an entry point")
    require(done.exit_code == -9, f"the pool type fails in a process of its own: {done.stderr.strip()[-300:]}")
    require(not store.exists(ref), "a volume under construction must not exist after a kill")
    for _ in range(2):
        store.discard(ref)
    with store.make(ref, MIB, thick=False) as staged:
        qemu_img.create(staged.path, ref.format, MIB)
        staged.publish()
    store.discard(ref)
    require(store.exists(ref), "discard must not delete the volume itself")


def expand(bench: PoolBench) -> None:
    """A volume expands, repeatedly, and its image can then grow."""
    store, ref = bench.store, bench.volume()
    for _ in range(2):
        store.expand(ref, 24 * MIB)
    with store.hold(ref) as path:
        qemu_img.resize(path, ref.format, 24 * MIB)
        require(qemu_img.info(path, ref.format).virtual_size_bytes == 24 * MIB, "the image must grow to 24 MiB")


def zeroes(bench: PoolBench) -> None:
    """New space of a plain raw volume reads as zeros: a guest must not see data of deleted volumes."""
    old = bench.volume(DiskFormat.RAW, MIB)
    with bench.store.hold(old) as path:
        _write(path, b"\xa5" * MIB)
    bench.store.delete(old)
    new = bench.volume(DiskFormat.RAW, MIB)
    with bench.store.hold(new) as path, path.open("rb") as file:
        require(not any(file.read(MIB)), "the space of a new raw volume must read as zeros")


def at_once(bench: PoolBench) -> None:
    """Volumes can be created and deleted from several threads at the same time."""
    with ThreadPoolExecutor(4) as pool:
        created = list(pool.map(lambda _: bench.volume(size_bytes=MIB), range(4)))
        require(all(bench.store.exists(ref) for ref in created), "every volume must exist")
        list(pool.map(bench.store.delete, created))
    require(not any(bench.store.exists(ref) for ref in created), "no volume must exist")


def release(bench: PoolBench) -> None:
    """`release` is idempotent and deletes no volume; after `ensure` it is the same pool."""
    ref, mark = bench.volume(), bench.pool_type.fingerprint(bench.spec, make=False)
    try:
        for _ in range(2):
            bench.pool_type.release(bench.spec)
    finally:
        bench.open()
    require(bench.pool_type.fingerprint(bench.spec, make=False) == mark, "the fingerprint must survive a release")
    require(bench.store.exists(ref), "volumes must survive a release")


def password(bench: PoolBench) -> None:
    """Without its password, the pool raises POOL_NEEDS_CREDENTIALS."""
    if not isinstance(bench.pool_type, NeedsSecret):
        raise SkippedError("the pool type has no password")
    bench.pool_type.release(bench.spec)
    try:
        with refused("ensure without the password", "POOL_NEEDS_CREDENTIALS"):
            bench.pool_type.ensure(bench.spec)
    finally:
        bench.open()


CHECKS: dict[str, Callable[[PoolBench], None]] = {
    "pool.statement": statement,
    "pool.options": options,
    "pool.idempotent": idempotent,
    "pool.password": password,
    "volume.absent": absent,
    "volume.create": create,
    "volume.unpublished": unpublished,
    "volume.never-replaces": never_replaces,
    "volume.expand": expand,
    "volume.zeroes": zeroes,
    "volume.at-once": at_once,
    "volume.killed": killed,
    "pool.release": release,
}


class _ExpectedError(Exception):
    pass


def _write(path: Path, data: bytes) -> None:
    with path.open("r+b") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def opened(bench: PoolBench) -> Iterator[PoolBench]:
    """The pool, usable within the block, and released afterwards. Raises what the pool type raises."""
    bench.pool_type.check(bench.spec)
    bench.open()
    try:
        yield bench
    finally:
        with suppress(OstlerError):
            bench.pool_type.release(bench.spec)
