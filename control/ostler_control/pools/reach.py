"""Which host reaches which pool, as the hosts themselves report it."""

from __future__ import annotations

import datetime
import json

from ostler.agent.v1 import pool_pb2
from ostler_common.secret import Secret

from ostler_control.agents import reports
from ostler_control.database import session, transaction
from ostler_control.keys import Keyring
from ostler_control.models import Cluster, Host, Pool, PoolHost, now
from ostler_control.models.columns import first_tuple
from ostler_control.objects import stores

# Every host of a shared pool measures it; its row changes at most this often.
_MEASURE_INTERVAL = datetime.timedelta(seconds=30)


def spec_of(pool: Pool) -> pool_pb2.PoolSpec:
    """What an agent is told of a pool."""
    return pool_pb2.PoolSpec(
        pool_id=pool.id, type=pool.type, path=pool.path, source=pool.source, options=json.loads(pool.options)
    )


def specs_for(host_id: str) -> list[pool_pb2.PoolSpec]:
    """The pools that a host should reach: its own, its cluster's, its zone's."""
    with session():
        query = Host.select(Host.cluster, Cluster.zone).join(Cluster).where(Host.id == host_id)
        place = first_tuple(query, tuple[str, str])
        if place is None:
            return []
        cluster_id, zone_id = place
        in_scope = (
            ((Pool.scope == "host") & (Pool.scope_id == host_id))
            | ((Pool.scope == "cluster") & (Pool.scope_id == cluster_id))
            | ((Pool.scope == "zone") & (Pool.scope_id == zone_id))
        )
        return [spec_of(pool) for pool in Pool.select().where(in_scope).order_by(Pool.create_time, Pool.id)]


def password_of(pool_id: str, keys: Keyring) -> Secret | None:
    """The password of a pool that has one. Raises what `Keyring.open` raises."""
    with session():
        pool = Pool.get_or_none(Pool.id == pool_id)
    return keys.open(pool) if pool is not None and pool.passphrase_id else None


def mismatch(answer: pool_pb2.Pool, *, shared: bool, encryption: bool, fingerprint: str) -> str:
    """How a host's answer differs from what is known of the pool; "" when it agrees."""
    if shared and answer.fingerprint != fingerprint:
        return f"sees a different directory at {answer.spec.path} than the pool's other hosts (is it mounted?)"
    if encryption and not answer.encryption:
        return f"{answer.spec.path} on this host cannot hold encrypted volumes"
    return ""


def room(pool_type: str, answer: pool_pb2.Pool) -> tuple[int, int]:
    """Size and free space of a pool, bytes, by a host's answer. 0 for a bucket: a host measures only its own spool."""
    return (0, 0) if pool_type == stores.TYPE else (answer.capacity_bytes, answer.available_bytes)


def record(pool_id: str, host_id: str, answer: pool_pb2.Pool | None, reason: str = "") -> None:
    """Records what a host answered about a pool, or why it did not."""
    with session():
        pool = Pool.get_or_none(Pool.id == pool_id)
        if pool is None:
            return
        if answer is not None:
            wrong = reports.find_wrong_pool(answer)
            reason = reports.complaint(wrong) if wrong else ""
            reason = reason or mismatch(
                answer, shared=pool.shared, encryption=pool.encryption, fingerprint=pool.fingerprint
            )
        is_due = pool.measure_time is None or pool.measure_time < now() - _MEASURE_INTERVAL
        measured = answer if is_due and not reason else None
        # Mostly the same host reaches the same pool: nobody waits for his turn to write.
        if measured is None and _is_recorded(pool_id, host_id, reason):
            return
    with transaction(lasting=False):
        known = Pool.select().where(Pool.id == pool_id).exists() and Host.select().where(Host.id == host_id).exists()
        if not known:
            return
        if measured is not None:
            capacity_bytes, available_bytes = room(pool.type, measured)
            Pool.update(capacity_bytes=capacity_bytes, available_bytes=available_bytes, measure_time=now()).where(
                Pool.id == pool_id
            ).execute()
        set_reach(pool_id, host_id, reason)


def _is_recorded(pool_id: str, host_id: str, reason: str) -> bool:
    same = (PoolHost.reachable == (not reason)) & (PoolHost.reason == reason)
    return bool(PoolHost.select().where(PoolHost.pool == pool_id, PoolHost.host == host_id, same).exists())


def set_reach(pool_id: str, host_id: str, reason: str) -> None:
    """Records whether a host reaches a pool. reason: why not, "" when it does."""
    values = {"reachable": not reason, "reason": reason}
    row = PoolHost.get_or_none(PoolHost.pool == pool_id, PoolHost.host == host_id)
    if row is None:
        PoolHost.create(pool=pool_id, host=host_id, **values)
    elif (row.reachable, row.reason) != (not reason, reason):
        PoolHost.update(**values).where(PoolHost.id == row.id).execute()
