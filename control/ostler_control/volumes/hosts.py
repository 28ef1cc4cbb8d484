"""Which host works on a volume, and how it is reached."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from google.protobuf import json_format
from ostler.types.v1 import vm_pb2
from ostler_common.errors import AbortedError, FailedPreconditionError, NotFoundError

from ostler_control.agents import HostAddress
from ostler_control.database import session
from ostler_control.models import Host, PoolHost, Vm, Volume
from ostler_control.operations.records import take
from ostler_control.probes import failed_probe


def address(host: Any) -> HostAddress:
    """How to reach a host's agent."""
    return HostAddress(host.id, host.name, host.address)


def address_of(host_id: str) -> HostAddress:
    """The same by id; NotFoundError HOST_REMOVED when it is no longer of the fleet."""
    with session():
        host = Host.get_or_none((Host.id == host_id) & ~Host.removed)
    if host is None:
        raise NotFoundError(f"host {host_id} was removed", "HOST_REMOVED", {"host": host_id})
    return address(host)


def is_up(host: Any) -> bool:
    """Whether the host answers now, as far as the watcher knows."""
    return host.state == "up" and not host.removed


def silent(host: Any, why: str) -> FailedPreconditionError:
    """The refusal for work that needs a host which does not answer. why: what depends on it."""
    return FailedPreconditionError(
        f"host {host.name} is silent, {why}; bring it back, or make sure that it is dead and remove it",
        "HOST_SILENT",
        {"host": host.name},
    )


def lacks_encryption(host: Any) -> FailedPreconditionError:
    """The refusal for an encrypted volume on a host that has not proved that it can open it."""
    probe = failed_probe(host)
    return FailedPreconditionError(
        f"host {host.name} cannot open encrypted volumes ({probe}); mend that and probe it again (ostler host probe), "
        "or move the VM to a host that can",
        "LACKS_VOLUME_ENCRYPTION",
        {"host": host.name, "probe": probe},
    )


def reaching(pool_id: str) -> list[Any]:
    """The hosts that have proved to reach a pool."""
    query = Host.select().join(PoolHost).where((PoolHost.pool == pool_id) & PoolHost.reachable & ~Host.removed)
    return list(query.order_by(Host.name))


def has_hosts(pool_id: str) -> bool:
    """Whether the fleet has hosts that should reach a pool, even if none does just now.

    Without any, nobody can open its files any more, and what is in them needs no deleting.
    """
    query = Host.select().join(PoolHost).where((PoolHost.pool == pool_id) & ~Host.removed)
    return bool(query.exists())


def load_of(host: Any) -> float:
    """How much of a host's CPUs is in use, 0 to 1, as last heard."""
    load = json_format.Parse(host.load or "{}", vm_pb2.HostLoad())
    return load.cpu_used / (load.cpus or host.cpus or 1)


def worker(pool: Any, encrypted: bool, busy: Callable[[str], int], also: Any = None) -> Any:
    """The host to work on a volume of this pool: up, reaching it, able to encrypt if need be, least loaded.

    busy: how many jobs a host does for us now; also: another pool that it must reach, for copies. Raises
    FailedPreconditionError NO_COMMON_HOST, telling who reaches which of the two, or NO_CAPABLE_HOST, saying why each is
    none.
    """
    other = also if also is not None and also.id != pool.id else None
    where = f"pool {pool.name}" if other is None else f"pools {pool.name} and {other.name}"
    refusals: list[str] = []
    fit: list[Any] = []
    for host in reaching(pool.id) if other is None else _reaching_both(pool, other):
        if not is_up(host):
            refusals.append(f"{host.name} is {host.state}")
        elif encrypted and not host.volume_encryption:
            refusals.append(f"{host.name} lacks volume encryption ({failed_probe(host)})")
        else:
            fit.append(host)
    if not fit:
        raise _no_worker(where, pool.name, encrypted, refusals)
    # One in maintenance works only when there is no other.
    return min(fit, key=lambda host: (host.maintenance, load_of(host) + busy(host.id) / max(host.cpus, 1), host.id))


def _reaching_both(pool: Any, other: Any) -> list[Any]:
    first, second = reaching(pool.id), reaching(other.id)
    known = {host.id for host in second}
    both = [host for host in first if host.id in known]
    if not both:

        def names(hosts: Iterable[Any]) -> str:
            return ", ".join(host.name for host in hosts) or "no host"

        raise FailedPreconditionError(
            f"no host reaches both pool {pool.name} ({names(first)}) and pool {other.name} ({names(second)}); go by "
            "way of a pool that a host shares with each",
            "NO_COMMON_HOST",
            {"pool": pool.name, "other_pool": other.name},
        )
    return both


def _no_worker(where: str, pool: str, encrypted: bool, refusals: Iterable[str]) -> FailedPreconditionError:
    what = "encrypted volumes" if encrypted else "volumes"
    why = "; ".join(refusals) or "no host reaches it"
    return FailedPreconditionError(
        f"no host can work on {what} in {where} now: {why}", "NO_CAPABLE_HOST", {"pool": pool}
    )


def check_host(host: Any, pool: Any, encrypted: bool) -> None:
    """Raises FailedPreconditionError unless the host on which a VM runs can use volumes of this pool:
    LACKS_VOLUME_ENCRYPTION (naming the host and its failed probe) or LACKS_POOL."""
    if encrypted and not host.volume_encryption:
        raise lacks_encryption(host)
    reach = PoolHost.get_or_none((PoolHost.host == host) & (PoolHost.pool == pool))
    if reach is None or not reach.reachable:
        why = f" ({reach.reason})" if reach and reach.reason else ""
        raise FailedPreconditionError(
            f"the VM runs on host {host.name}, which does not reach pool {pool.name}{why}; move the VM first",
            "LACKS_POOL",
            {"host": host.name, "pool": pool.name},
        )


def load(volume_id: str) -> Any:
    """A volume's row."""
    with session():
        return Volume.get_by_id(volume_id)


def load_or_none(volume_id: str) -> Any | None:
    """A volume's row, or None when it is gone."""
    with session():
        return Volume.get_or_none(Volume.id == volume_id)


def vm_of(volume: Any) -> Any | None:
    """The VM that a volume is attached to, or None."""
    return Vm.get_or_none(Vm.id == volume.vm_id) if volume.vm_id else None


def take_with_vm(volume: Any) -> tuple[Any | None, Any]:
    """`take` for a volume and the VM that it is attached to, if any."""
    seen = load_or_none(volume.id) or volume
    vm = vm_of(seen)
    taken = take(vm) if vm is not None else None
    fresh = take(volume)
    if fresh.vm_id != seen.vm_id:
        raise AbortedError(f"volume {volume.name} was attached or detached meanwhile; try again", "CHANGED_MEANWHILE")
    return taken, fresh


def _and_yet(vm: Any) -> str:
    return f", and its host says that it is {vm.power_state}" if vm.state == "stopped" else ""


def check_vm_at_rest(vm: Any) -> Any | None:
    """The host on which a VM runs, or None when it is stopped.

    Raises FailedPreconditionError: HOST_SILENT, or VM_STATE when it is neither (half made, lost on its way, or started
    by other means than Ostler's).
    """
    if vm.state == "stopped" and vm.power_state not in ("running", "paused"):
        return None
    if vm.state != "running":
        raise FailedPreconditionError(
            f"VM {vm.name} is {vm.state}{_and_yet(vm)}; wait until it runs or is stopped",
            "VM_STATE",
            {"vm": vm.id, "state": vm.state},
        )
    host = Host.get_by_id(vm.host_id)
    if not is_up(host):
        raise silent(host, f"and VM {vm.name} may be running there")
    return host
