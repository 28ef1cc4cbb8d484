"""Which pool holds an import's files until they are volumes: by free space. Pure.

A local pool is refused: the host that converts may change after a failure, and no other host would see the files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ostler_control.vmware.inventory import SourceVm

TYPES = ("nfs", "shared-mount-point")
SCOPES = ("cluster", "zone")
# Stream-optimized VMDKs are compressed; what does not compress grows by their tables.
_OVERHEAD_PERCENT = 2
_MARGIN_BYTES = 256 << 20


@dataclass(frozen=True)
class PoolFacts:
    """A pool. scope: host, cluster or zone; free_bytes: what is neither used nor claimed; host_ids: that reach it."""

    id: str
    name: str
    type: str
    scope: str
    free_bytes: int
    host_ids: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Refusal:
    """Why a pool does not stage. words: follow its name."""

    pool: str
    words: str


def needed_bytes(vm: SourceVm) -> int:
    """Space that the exported files may take at most."""
    if vm.export_bytes:
        return vm.export_bytes + _MARGIN_BYTES
    size_bytes = min(vm.used_bytes, vm.capacity_bytes) if vm.used_bytes else vm.capacity_bytes
    return size_bytes + size_bytes * _OVERHEAD_PERCENT // 100 + _MARGIN_BYTES


def choose(
    pools: Sequence[PoolFacts], host_id: str, needed: int, *, wanted_id: str = ""
) -> tuple[PoolFacts | None, tuple[Refusal, ...]]:
    """The pool with the most free space, or None and why each one does not do.

    pools: those of the destination's cluster and zone; host_id: that must reach it, "" for any.
    """
    refusals = []
    suitable = []
    for pool in pools:
        if wanted_id not in ("", pool.id):
            continue
        words = _refusal(pool, host_id, needed)
        if words is None:
            suitable.append(pool)
        else:
            refusals.append(Refusal(pool.name, words))
    if not suitable:
        return None, tuple(refusals)
    return max(suitable, key=lambda pool: (pool.free_bytes, pool.name)), ()


def _refusal(pool: PoolFacts, host_id: str, needed: int) -> str | None:
    if pool.type == "local" or pool.scope not in SCOPES:
        return "is local to one host, so that no other host could go on with the import"
    if pool.type not in TYPES:
        return f"is of type {pool.type}, which holds no files"
    if host_id and host_id not in pool.host_ids:
        return "is not reached by the conversion host"
    if pool.free_bytes < needed:
        return f"has {pool.free_bytes >> 20} MiB free, and {needed >> 20} MiB are needed"
    return None
