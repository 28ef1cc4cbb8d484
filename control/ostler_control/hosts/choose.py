"""Choosing the host that works on a volume."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ostler_common.errors import FailedPreconditionError
from ostler_common.hypervisors import Function, not_supported

from ostler_control.hosts import loads
from ostler_control.hosts.probes import failed_probe
from ostler_control.hosts.rows import is_up, lacks_encryption, reaching
from ostler_control.hypervisors import rules
from ostler_control.models import Host, Pool, PoolHost


def load_of(host: Host) -> float:
    """How much of a host's CPUs is in use, 0 to 1, as last heard."""
    load = loads.latest(host)
    return load.cpu_used / (load.cpus or host.cpus or 1) if load else 0.0


def choose_host(
    pool: Pool,
    encrypted: bool,
    busy: Callable[[str], int],
    *also: Pool | None,
    prefer: Callable[[Host], bool] = lambda host: True,
) -> Host:
    """The host to work on a volume of this pool: up, reaching it, able to encrypt if need be, least loaded.

    busy: how many jobs of this process a host runs now; also: other pools that it must reach, for copies; prefer: hosts
    for which it is true come before all others, if there are any.

    Raises FailedPreconditionError NO_COMMON_HOST, with the hosts that reach each pool, NO_CAPABLE_HOST, with each
    host's reason, or FUNCTION_NOT_SUPPORTED when the hypervisors of none of them know encrypted volumes.
    """
    others = list({other.id: other for other in also if other is not None and other.id != pool.id}.values())
    where = f"pools {' and '.join(one.name for one in (pool, *others))}" if others else f"pool {pool.name}"
    refusals: list[str] = []
    fit: list[Host] = []
    reach = _reaching_all(pool, others)
    if encrypted and reach and not any(rules.supports(Function.VOLUME_ENCRYPTION, host) for host in reach):
        raise not_supported(Function.VOLUME_ENCRYPTION, rules.name_of(reach[0].hypervisor_type))
    for host in reach:
        if not is_up(host):
            refusals.append(f"{host.name} is {host.state}")
        elif encrypted and not host.volume_encryption:
            refusals.append(f"{host.name} lacks volume encryption ({failed_probe(host)})")
        else:
            fit.append(host)
    if not fit:
        raise _no_capable_host(where, pool.name, encrypted, refusals)
    # A host in maintenance is chosen only when there is no other.

    def rank(host: Host) -> tuple[bool, bool, float, str]:
        return not prefer(host), host.maintenance, load_of(host) + busy(host.id) / max(host.cpus, 1), host.id

    return min(fit, key=rank)


def _reaching_all(pool: Pool, others: Sequence[Pool]) -> list[Host]:
    found = reaching(pool.id)
    for other in others:
        first, second = found, reaching(other.id)
        known = {host.id for host in second}
        found = [host for host in first if host.id in known]
        if not found:

            def names(hosts: Iterable[Host]) -> str:
                return ", ".join(host.name for host in hosts) or "no host"

            raise FailedPreconditionError(
                f"no host reaches both pool {pool.name} ({names(first)}) and pool {other.name} ({names(second)}); copy "
                "through a third pool that a host shares with each",
                "NO_COMMON_HOST",
                {"pool": pool.name, "other_pool": other.name},
            )
    return found


def _no_capable_host(where: str, pool: str, encrypted: bool, refusals: Iterable[str]) -> FailedPreconditionError:
    what = "encrypted volumes" if encrypted else "volumes"
    why = "; ".join(refusals) or "no host reaches it"
    return FailedPreconditionError(
        f"no host can work on {what} in {where} now: {why}", "NO_CAPABLE_HOST", {"pool": pool}
    )


def check_host(host: Host, pool: Pool, encrypted: bool) -> None:
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
