"""Making and deleting pools: hosts prove that they reach a pool before it is written down."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog
from ostler.agent.v1 import pool_pb2
from ostler_common.errors import AlreadyExistsError, FailedPreconditionError, OstlerError, bad_field
from ostler_common.secret import Secret
from peewee import IntegrityError

from ostler_control import events
from ostler_control.agents import Agent, Agents, HostAddress
from ostler_control.catalog.names import check_name
from ostler_control.database import session, transaction
from ostler_control.hosts.rows import address
from ostler_control.keys import Keyring
from ostler_control.models import Cluster, Host, Passphrase, Pool, PoolHost, Snapshot, Volume, now
from ostler_control.pools import reach

log = structlog.get_logger(__name__)

T = TypeVar("T")

_ENSURE_S, _REMOVE_S = 120.0, 30.0
_AT_ONCE = 32


@dataclass(frozen=True)
class NewPool:
    """A pool to be made. scope: host | cluster | zone, scope_id and scope_name: that object's; password: of a type that
    needs one."""

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

    def spec(self) -> pool_pb2.PoolSpec:
        return pool_pb2.PoolSpec(
            pool_id=self.id, type=self.type, path=self.path, source=self.source, options=dict(self.options)
        )


@dataclass(frozen=True)
class Proof:
    """What hosts have proved of a new pool. reach: why a host does not reach it, "" when it does, by host id."""

    shared: bool
    encryption: bool
    fingerprint: str
    capacity_bytes: int
    available_bytes: int
    reach: Mapping[str, str]


def prove(agents: Agents, pool: NewPool) -> Proof:
    """Makes the pool usable on every host of its scope that is up, and checks that they agree on it.

    When it raises, the hosts have forgotten the pool again: InvalidArgumentError; FailedPreconditionError NO_HOST_UP,
    POOL_NOT_REACHED, POOL_NOT_SHARED; AlreadyExistsError POOL_EXISTS.
    """
    check_name("name", pool.name)
    if pool.path and (not pool.path.startswith("/") or ".." in pool.path.split("/")):
        raise bad_field("path", 'must be an absolute path without ".."')
    with session():
        known = Pool.get_or_none(Pool.name == pool.name)
        if known is not None and known.id != pool.id:
            raise _exists(pool.name)
        hosts = {row.id: row for row in _hosts_of(pool.scope, pool.scope_id)}
    up = [address(row) for row in hosts.values() if row.state == "up"]
    if not up:
        raise FailedPreconditionError(f"no host of {pool.scope} {pool.scope_name} is up", "NO_HOST_UP")
    request = _ensure_request(pool.spec(), pool.password)
    answers = _on_all(up, lambda host: agents.call(host, _ensure, request, _ENSURE_S))
    good = {host: answer for host, answer in answers.items() if not isinstance(answer, OstlerError)}
    try:
        return _judge(pool, hosts, answers, good)
    except OstlerError:
        if known is None:
            _forget(agents, good, pool.id)
        raise


def forget(agents: Agents, pool_id: str, scope: str, scope_id: str) -> None:
    """Has the hosts that are up forget a pool; files in it stay. A host that does not answer is logged and left."""
    with session():
        up = [address(row) for row in _hosts_of(scope, scope_id) if row.state == "up"]
    _forget(agents, up, pool_id)


def create(pool: NewPool, proof: Proof, actor: str, keys: Keyring) -> Pool:
    """Writes down a pool that was proved. Raises AlreadyExistsError POOL_EXISTS."""
    try:
        with transaction():
            row: Pool = Pool.create(
                id=pool.id,
                name=pool.name,
                type=pool.type,
                scope=pool.scope,
                scope_id=pool.scope_id,
                path=pool.path,
                source=pool.source,
                options=json.dumps(dict(pool.options), sort_keys=True),
                shared=proof.shared,
                encryption=proof.encryption,
                fingerprint=proof.fingerprint,
                capacity_bytes=proof.capacity_bytes,
                available_bytes=proof.available_bytes,
                measure_time=now(),
                passphrase=keys.store(pool.password, pool.id) if pool.password else None,
            )
            for host_id, reason in sorted(proof.reach.items()):
                reach.set_reach(pool.id, host_id, reason)
            events.done("pool.create", actor, row, f"{pool.type} pool for {pool.scope} {pool.scope_name}")
    except IntegrityError as error:
        raise _exists(pool.name) from error
    return row


def delete(agents: Agents, pool: Any, actor: str) -> None:
    """Deletes a pool that holds neither volume nor snapshot; files in it stay.

    Raises FailedPreconditionError POOL_HAS_VOLUMES or POOL_HAS_SNAPSHOTS.
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
                    f"pool {pool.name} holds {kept} snapshots: delete them first (ostler snapshot list)",
                    "POOL_HAS_SNAPSHOTS",
                    {"pool": pool.name},
                )
            PoolHost.delete().where(PoolHost.pool == pool.id).execute()
            Pool.delete().where(Pool.id == pool.id).execute()
            Passphrase.delete().where(Passphrase.id == pool.passphrase_id).execute()
            events.done("pool.delete", actor, pool)
    except IntegrityError as error:  # a volume came at this very moment
        raise _holds_volumes(pool, []) from error
    forget(agents, pool.id, pool.scope, pool.scope_id)


def set_password(agents: Agents, pool: Any, password: Secret, actor: str, keys: Keyring) -> Pool:
    """Gives a pool another password: hosts that are up take it at once, and one of them at least must prove it.

    Raises FailedPreconditionError NO_PASSWORD, NO_HOST_UP, POOL_NOT_REACHED.
    """
    if not pool.passphrase_id:
        raise FailedPreconditionError(f"a {pool.type} pool has no password", "NO_PASSWORD", {"pool": pool.name})
    with session():
        up = [address(row) for row in _hosts_of(pool.scope, pool.scope_id) if row.state == "up"]
    if not up:
        raise FailedPreconditionError(f"no host of pool {pool.name} is up to prove the password", "NO_HOST_UP")
    request = _ensure_request(reach.spec_of(pool), password)
    answers = _on_all(up, lambda host: agents.call(host, _ensure, request, _ENSURE_S))
    if all(isinstance(answer, OstlerError) for answer in answers.values()):
        told = "; ".join(sorted(f"{host.name}: {answer}" for host, answer in answers.items()))
        raise FailedPreconditionError(f"no host reaches the pool with this password: {told}", "POOL_NOT_REACHED")
    with transaction():
        old_id = pool.passphrase_id
        Pool.update(passphrase=keys.store(password, pool.id)).where(Pool.id == pool.id).execute()
        Passphrase.delete().where(Passphrase.id == old_id).execute()
        events.done("pool.set-password", actor, pool)
        changed: Pool = Pool.get_by_id(pool.id)
        return changed


def _judge(
    pool: NewPool,
    hosts: Mapping[str, Host],
    answers: Mapping[HostAddress, pool_pb2.Pool | OstlerError],
    good: Mapping[HostAddress, pool_pb2.Pool],
) -> Proof:
    reasons = {host.host_id: str(answer) for host, answer in answers.items() if isinstance(answer, OstlerError)}
    if not good:
        told = "; ".join(sorted(f"{hosts[i].name}: {reason}" for i, reason in reasons.items()))
        raise FailedPreconditionError(f"no host reaches the pool: {told}", "POOL_NOT_REACHED")
    first = good[min(good, key=lambda host: host.name)]
    if not first.shared and pool.scope != "host":
        raise FailedPreconditionError(
            f"a {pool.type} pool is one host's own: give a host, not a {pool.scope}", "POOL_NOT_SHARED"
        )
    seen: dict[str, list[str]] = {}
    for host, answer in good.items():
        seen.setdefault(answer.fingerprint, []).append(host.name)
    if len(seen) > 1:
        groups = " | ".join(", ".join(sorted(names)) for names in sorted(seen.values()))
        raise FailedPreconditionError(
            f"hosts see different directories at {first.spec.path} ({groups}): mount the same one on all, then repeat",
            "POOL_NOT_SHARED",
        )
    with session():
        twin = Pool.get_or_none(Pool.fingerprint == first.fingerprint, Pool.id != pool.id)
    if twin is not None and first.fingerprint:
        raise AlreadyExistsError(f"that directory is pool {twin.name} already", "POOL_EXISTS", {"pool": twin.name})
    reached = {host.host_id for host in good}
    silent = {i: f"host is {row.state}" for i, row in hosts.items() if i not in reached and i not in reasons}
    return Proof(
        shared=first.shared,
        encryption=all(answer.encryption for answer in good.values()),
        fingerprint=first.fingerprint,
        capacity_bytes=first.capacity_bytes,
        available_bytes=first.available_bytes,
        reach={**dict.fromkeys(reached, ""), **reasons, **silent},
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

    with ThreadPoolExecutor(min(_AT_ONCE, len(hosts) or 1), thread_name_prefix="pools") as threads:
        return dict(zip(hosts, threads.map(one, hosts), strict=True))


def _forget(agents: Agents, hosts: Iterable[HostAddress], pool_id: str) -> None:
    request = pool_pb2.RemovePoolRequest(pool_id=pool_id)
    for host, answer in _on_all(list(hosts), lambda host: agents.call(host, _remove, request, _REMOVE_S)).items():
        if isinstance(answer, OstlerError):
            log.warning("a host did not forget a pool", host=host.name, pool=pool_id, reason=str(answer))


def _ensure_request(spec: pool_pb2.PoolSpec, password: Secret | None) -> pool_pb2.EnsurePoolRequest:
    return pool_pb2.EnsurePoolRequest(spec=spec, secret=password.reveal() if password else b"")


def _ensure(agent: Agent) -> Any:
    return agent.pools.EnsurePool


def _remove(agent: Agent) -> Any:
    return agent.pools.RemovePool


def _exists(name: str) -> AlreadyExistsError:
    return AlreadyExistsError(f"there is a pool {name} already", "POOL_EXISTS", {"pool": name})


def _holds_volumes(pool: Pool, names: list[str]) -> FailedPreconditionError:
    listed = f" ({', '.join(names)})" if names else ""
    return FailedPreconditionError(
        f"pool {pool.name} holds volumes{listed}: delete them first", "POOL_HAS_VOLUMES", {"pool": pool.name}
    )
