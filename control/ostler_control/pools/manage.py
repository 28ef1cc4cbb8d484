"""Creating and deleting pools. Hosts verify that they reach a pool before its row is inserted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import structlog
from ostler.agent.v1 import pool_pb2
from ostler_common.errors import AlreadyExistsError, FailedPreconditionError, OstlerError
from ostler_common.pool_paths import check_pool_path
from ostler_common.secret import Secret
from peewee import IntegrityError

from ostler_control import events
from ostler_control.agents import Agents, HostAddress
from ostler_control.catalog.names import check_name
from ostler_control.database import session, transaction
from ostler_control.hosts.rows import address, is_up, reaching
from ostler_control.keys import Keyring
from ostler_control.keys.passphrases import delete_passphrase
from ostler_control.models import (
    Backup,
    BackupStore,
    Cluster,
    Host,
    Operation,
    Pool,
    PoolHost,
    Snapshot,
    VmSnapshot,
    VmSnapshotMemory,
    Volume,
    VolumeFile,
    now,
)
from ostler_control.objects import stores
from ostler_control.objects.bucket import Bucket
from ostler_control.pools import reach
from ostler_control.states import UNFINISHED_OPERATIONS, HostState
from ostler_control.volumes.files import destroy_file

log = structlog.get_logger(__name__)

T = TypeVar("T")

_ENSURE_TIMEOUT_S, _REMOVE_TIMEOUT_S = 120.0, 30.0
_MAX_PARALLEL_CALLS = 32


@dataclass(frozen=True)
class NewPool:
    """A requested pool. scope: host | cluster | zone; scope_id, scope_name: that object's; password: if its type has
    one; bucket: of a store of type s3, which hosts know by its URL only."""

    id: str
    name: str
    type: str
    scope: str
    scope_id: str
    scope_name: str
    path: str
    source: str
    options: Mapping[str, str]
    password: Secret | None = None
    bucket: Bucket | None = None

    def spec(self) -> pool_pb2.PoolSpec:
        return pool_pb2.PoolSpec(
            pool_id=self.id, type=self.type, path=self.path, source=self.source, options=dict(self.options)
        )


@dataclass(frozen=True)
class VerifiedPool:
    """What hosts found of a new pool. Sizes are 0 for a bucket, whose size is not known.

    reach: by host id, why it does not reach the pool, "" when it does.
    """

    shared: bool
    encryption: bool
    fingerprint: str
    capacity_bytes: int
    available_bytes: int
    reach: Mapping[str, str]


def verify(agents: Agents, pool: NewPool) -> VerifiedPool:
    """Sets up the pool on every host of its scope that is up, and checks that they all see the same one.

    When it raises, it has removed the pool from the hosts: InvalidArgumentError; FailedPreconditionError NO_HOST_UP,
    POOL_NOT_REACHED, POOL_NOT_SHARED; AlreadyExistsError POOL_EXISTS.
    """
    check_name("name", pool.name)
    if pool.path:
        check_pool_path(pool.path, "path")
    with session():
        known = Pool.get_or_none(Pool.name == pool.name)
        if known is not None and known.id != pool.id:
            raise _exists(pool.name)
        hosts = {row.id: row for row in _hosts_of(pool.scope, pool.scope_id)}
    up = [address(row) for row in hosts.values() if row.state == HostState.UP]
    if not up:
        raise FailedPreconditionError(f"no host of {pool.scope} {pool.scope_name} is up", "NO_HOST_UP")
    request = _ensure_request(pool.spec(), pool.password)
    answers = _on_all(
        up, lambda host: agents.call(host, lambda agent: agent.pools.EnsurePool, request, _ENSURE_TIMEOUT_S)
    )
    reached = {host: answer for host, answer in answers.items() if not isinstance(answer, OstlerError)}
    try:
        return _verified(pool, hosts, answers, reached)
    except OstlerError:
        if known is None:
            _remove_from(agents, reached, pool.id)
        raise


def remove_from_hosts(agents: Agents, pool_id: str, scope: str, scope_id: str) -> None:
    """Removes a pool from the hosts that are up; files in it stay. A host that fails is only logged."""
    with session():
        up = [address(row) for row in _hosts_of(scope, scope_id) if row.state == HostState.UP]
    _remove_from(agents, up, pool_id)


def create(pool: NewPool, verified: VerifiedPool, actor: str, keys: Keyring, *, store: bool = False) -> Pool:
    """Inserts the row of a verified pool. store: it holds backups. Raises AlreadyExistsError POOL_EXISTS."""
    try:
        with transaction():
            row = Pool.create(
                id=pool.id,
                name=pool.name,
                type=pool.type,
                scope=pool.scope,
                scope_id=pool.scope_id,
                path=pool.path,
                source=pool.source,
                options=json.dumps(dict(pool.options), sort_keys=True),
                shared=verified.shared,
                encryption=verified.encryption,
                fingerprint=verified.fingerprint,
                capacity_bytes=verified.capacity_bytes,
                available_bytes=verified.available_bytes,
                measure_time=now(),
                passphrase=keys.store(pool.password, pool.id) if pool.password else None,
            )
            if store:
                BackupStore.create(pool=row)
            if pool.bucket is not None:
                stores.create(row, pool.bucket, keys)
            for host_id, reason in sorted(verified.reach.items()):
                reach.set_reach(pool.id, host_id, reason)
            events.done(
                "pool.create",
                actor,
                row,
                f"{pool.type} {'store' if store else 'pool'} for {pool.scope} {pool.scope_name}",
            )
    except IntegrityError as error:
        raise _exists(pool.name) from error
    return row


def delete(agents: Agents, pool: Pool, actor: str) -> None:
    """Deletes a pool that holds neither volume nor snapshot; files in it stay.

    Raises FailedPreconditionError POOL_HAS_VOLUMES, POOL_HAS_SNAPSHOTS, STORE_HAS_BACKUPS, or POOL_HAS_FILES while
    Ostler still has to delete files there; those in a pool that no host reaches are forgotten.
    """
    try:
        with transaction():
            volumes = Volume.select(Volume.name).where(Volume.pool == pool.id).order_by(Volume.name).limit(5)
            names = [volume.name for volume in volumes]
            if names:
                raise _holds_volumes(pool, names)
            kept = Snapshot.select().where(Snapshot.pool == pool.id).count()
            if kept:
                raise FailedPreconditionError(
                    f"pool {pool.name} holds {kept} snapshots; delete them first (ostler snapshot list)",
                    "POOL_HAS_SNAPSHOTS",
                    {"pool": pool.name},
                )
            query = VmSnapshot.select(VmSnapshot.name).join(VmSnapshotMemory)
            saved = query.where(VmSnapshotMemory.pool == pool.id).order_by(VmSnapshot.name).first()
            if saved is not None:
                raise FailedPreconditionError(
                    f"pool {pool.name} holds the memory of VM snapshot {saved.name}; delete that first (ostler vm "
                    f"snapshot delete {saved.name})",
                    "POOL_HAS_SNAPSHOTS",
                    {"pool": pool.name},
                )
            kept_backups = Backup.select().where(Backup.pool == pool.id).count()
            if kept_backups:
                raise FailedPreconditionError(
                    f"store {pool.name} holds {kept_backups} backups; delete them first (ostler backup list)",
                    "STORE_HAS_BACKUPS",
                    {"pool": pool.name},
                )
            _forget_leftovers(pool, actor)
            secret_key_id = stores.passphrase_of(pool.id)
            PoolHost.delete().where(PoolHost.pool == pool.id).execute()
            Pool.delete().where(Pool.id == pool.id).execute()
            delete_passphrase(pool.passphrase_id)
            delete_passphrase(secret_key_id)
            events.done("pool.delete", actor, pool)
    except IntegrityError as error:  # a volume was created just now
        raise _holds_volumes(pool, []) from error
    remove_from_hosts(agents, pool.id, pool.scope, pool.scope_id)


def _forget_leftovers(pool: Pool, actor: str) -> None:
    """Further files of volumes that are in other pools: for a lost pool their rows and keys are all that is left."""
    files = list(VolumeFile.select().where(VolumeFile.pool == pool.id))
    is_lost = not any(is_up(host) for host in reaching(pool.id))
    unfinished = Operation.select().where(Operation.state.in_(UNFINISHED_OPERATIONS))
    for file in files:
        if not is_lost or unfinished.where(Operation.id == file.operation_id).exists():
            raise FailedPreconditionError(
                f"pool {pool.name} holds files that Ostler is about to delete; try again in some minutes",
                "POOL_HAS_FILES",
                {"pool": pool.name},
            )
        destroy_file(file, actor)


def set_password(agents: Agents, pool: Pool, password: Secret, actor: str, keys: Keyring) -> Pool:
    """Changes a pool's password. Hosts that are up use it at once; one of them at least must reach the pool.

    Raises FailedPreconditionError NO_PASSWORD, NO_HOST_UP, POOL_NOT_REACHED.
    """
    if not pool.passphrase_id:
        raise FailedPreconditionError(f"a {pool.type} pool has no password", "NO_PASSWORD", {"pool": pool.name})
    with session():
        up = [address(row) for row in _hosts_of(pool.scope, pool.scope_id) if row.state == HostState.UP]
    if not up:
        raise FailedPreconditionError(f"no host of pool {pool.name} is up to check the password", "NO_HOST_UP")
    request = _ensure_request(reach.spec_of(pool), password)
    answers = _on_all(
        up, lambda host: agents.call(host, lambda agent: agent.pools.EnsurePool, request, _ENSURE_TIMEOUT_S)
    )
    if all(isinstance(answer, OstlerError) for answer in answers.values()):
        details = "; ".join(sorted(f"{host.name}: {answer}" for host, answer in answers.items()))
        raise FailedPreconditionError(f"no host reaches the pool with this password: {details}", "POOL_NOT_REACHED")
    with transaction():
        old_id = pool.passphrase_id
        Pool.update(passphrase=keys.store(password, pool.id)).where(Pool.id == pool.id).execute()
        delete_passphrase(old_id)
        events.done("pool.set-password", actor, pool)
        return Pool.get_by_id(pool.id)


def _verified(
    pool: NewPool,
    hosts: Mapping[str, Host],
    answers: Mapping[HostAddress, pool_pb2.Pool | OstlerError],
    reached: Mapping[HostAddress, pool_pb2.Pool],
) -> VerifiedPool:
    reasons = {host.host_id: str(answer) for host, answer in answers.items() if isinstance(answer, OstlerError)}
    if not reached:
        details = "; ".join(sorted(f"{hosts[i].name}: {reason}" for i, reason in reasons.items()))
        raise FailedPreconditionError(f"no host reaches the pool: {details}", "POOL_NOT_REACHED")
    first = reached[min(reached, key=lambda host: host.name)]
    if not first.shared and pool.scope != "host":
        raise FailedPreconditionError(
            f"a {pool.type} pool belongs to one host: choose a host instead of a {pool.scope}", "POOL_NOT_SHARED"
        )
    by_fingerprint: dict[str, list[str]] = {}
    for host, answer in reached.items():
        by_fingerprint.setdefault(answer.fingerprint, []).append(host.name)
    if len(by_fingerprint) > 1:
        groups = " | ".join(", ".join(sorted(names)) for names in sorted(by_fingerprint.values()))
        raise FailedPreconditionError(
            f"hosts see different directories at {first.spec.path} ({groups}): mount the same one on all, and retry",
            "POOL_NOT_SHARED",
        )
    with session():
        twin = Pool.get_or_none(Pool.fingerprint == first.fingerprint, Pool.id != pool.id)
    if twin is not None and first.fingerprint:
        raise AlreadyExistsError(f"that directory already is pool {twin.name}", "POOL_EXISTS", {"pool": twin.name})
    reached_ids = {host.host_id for host in reached}
    capacity_bytes, available_bytes = reach.room(pool.type, first)
    unasked = {i: f"host is {row.state}" for i, row in hosts.items() if i not in reached_ids and i not in reasons}
    return VerifiedPool(
        shared=first.shared,
        encryption=all(answer.encryption for answer in reached.values()),
        fingerprint=first.fingerprint,
        capacity_bytes=capacity_bytes,
        available_bytes=available_bytes,
        reach={**dict.fromkeys(reached_ids, ""), **reasons, **unasked},
    )


def _hosts_of(scope: str, scope_id: str) -> list[Host]:
    query = Host.select().where(~Host.removed).order_by(Host.name)
    match scope:
        case "host":
            query = query.where(Host.id == scope_id)
        case "cluster":
            query = query.where(Host.cluster == scope_id)
        case _:
            query = query.where(Host.cluster.in_(Cluster.select(Cluster.id).where(Cluster.zone == scope_id)))
    return list(query)


def _on_all(hosts: Sequence[HostAddress], call: Callable[[HostAddress], T]) -> dict[HostAddress, T | OstlerError]:
    def one(host: HostAddress) -> T | OstlerError:
        try:
            return call(host)
        except OstlerError as error:
            return error

    with ThreadPoolExecutor(min(_MAX_PARALLEL_CALLS, len(hosts) or 1), thread_name_prefix="pools") as threads:
        return dict(zip(hosts, threads.map(one, hosts), strict=True))


def _remove_from(agents: Agents, hosts: Iterable[HostAddress], pool_id: str) -> None:
    request = pool_pb2.RemovePoolRequest(pool_id=pool_id)

    def remove(host: HostAddress) -> object:
        return agents.call(host, lambda agent: agent.pools.RemovePool, request, _REMOVE_TIMEOUT_S)

    for host, answer in _on_all(list(hosts), remove).items():
        if isinstance(answer, OstlerError):
            log.warning("a pool could not be removed from a host", host=host.name, pool=pool_id, reason=str(answer))


def _ensure_request(spec: pool_pb2.PoolSpec, password: Secret | None) -> pool_pb2.EnsurePoolRequest:
    return pool_pb2.EnsurePoolRequest(spec=spec, secret=password.reveal() if password else b"")


def _exists(name: str) -> AlreadyExistsError:
    return AlreadyExistsError(f"pool {name} already exists; choose another name", "POOL_EXISTS", {"pool": name})


def _holds_volumes(pool: Pool, names: list[str]) -> FailedPreconditionError:
    listed = f" ({', '.join(names)})" if names else ""
    return FailedPreconditionError(
        f"pool {pool.name} holds volumes{listed}; delete or move them first", "POOL_HAS_VOLUMES", {"pool": pool.name}
    )
