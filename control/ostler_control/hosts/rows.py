"""Hosts' rows: their addresses, whether they are up, and which reach a pool."""

from __future__ import annotations

from ostler_common.errors import FailedPreconditionError, NotFoundError

from ostler_control.agents import HostAddress
from ostler_control.database import session
from ostler_control.hosts import late_starts
from ostler_control.hosts.probes import failed_probe
from ostler_control.models import Host, HostFence, HostSilence, HostState, PoolHost
from ostler_control.prepared import Prepared


def address(host: Host) -> HostAddress:
    """How to reach a host's agent."""
    return HostAddress(host.id, host.name, host.address)


_ADDRESS = Prepared(
    lambda value: Host.select(Host.id, Host.name, Host.address, Host.state).where(
        Host.id == value("host"), ~Host.removed
    )
)


def address_of(host_id: str) -> HostAddress:
    """The same by id; NotFoundError HOST_REMOVED when it is not in the fleet any more."""
    return address_and_state(host_id)[0]


def address_and_state(host_id: str) -> tuple[HostAddress, HostState]:
    """The same, and whether the host is heard."""
    with session():
        found = _ADDRESS.first(tuple[str, str, str, str], host=host_id)
    if found is None:
        raise NotFoundError(f"host {host_id} was removed", "HOST_REMOVED", {"host": host_id})
    return HostAddress(*found[:3]), HostState(found[3])


def is_up(host: Host) -> bool:
    """Whether the host is heard now, as far as the watcher knows."""
    return host.state is HostState.UP and not host.removed


def is_proved_off(host: Host, vm_id: str) -> bool:
    """Whether a host was switched off, or an admin has declared it dead, and it has not been heard since, nor may it
    have started the VM since."""
    if host.state is not HostState.FENCED or late_starts.exists(vm_id, host.id):
        return False
    return bool(HostFence.select().where(HostFence.host == host.id, HostFence.is_off()).exists())


def has_returned(host: Host) -> bool:
    """Whether a host was proved off, and answers again: it is given back once nothing there is in doubt."""
    if host.state is not HostState.FENCED:
        return False
    is_silent = HostSilence.select().where(HostSilence.host == host.id).exists()
    returned = HostFence.select().where(HostFence.host == host.id, HostFence.has_returned())
    return not is_silent and bool(returned.exists())


_HEARD = Prepared(lambda value: HostFence.update(heard=True).where(HostFence.host == value("host"), ~HostFence.heard))


def record_heard(host_id: str) -> None:
    """Records that a fenced host was heard: within the caller's transaction. It stays so until the host is proved off
    anew, for silence after that is no proof."""
    _HEARD.run(host=host_id)
    HostSilence.delete().where(HostSilence.host == host_id).execute()


def silent(host: Host | HostAddress, why: str) -> FailedPreconditionError:
    """The refusal for work that needs a silent host. why: what depends on it."""
    return FailedPreconditionError(
        f"host {host.name} is silent, {why}; bring it back, or make sure that it is off and say so "
        f"(ostler host declare-dead {host.name}), or remove it (ostler host remove --lost {host.name})",
        "HOST_SILENT",
        {"host": host.name},
    )


def lacks_encryption(host: Host) -> FailedPreconditionError:
    """The refusal for an encrypted volume on a host that has not proved that it can open it."""
    probe = failed_probe(host)
    return FailedPreconditionError(
        f"host {host.name} cannot open encrypted volumes ({probe}); fix that and probe it again (ostler host probe), "
        "or move the VM to a host that can",
        "LACKS_VOLUME_ENCRYPTION",
        {"host": host.name, "probe": probe},
    )


def reaching(pool_id: str) -> list[Host]:
    """The hosts that have proved that they reach a pool."""
    query = Host.select().join(PoolHost).where((PoolHost.pool == pool_id) & PoolHost.reachable & ~Host.removed)
    return list(query.order_by(Host.name))


def has_hosts(pool_id: str) -> bool:
    """Whether the fleet has hosts that should reach a pool, even if none does just now.

    Without any, nobody can open its files any more, and what is in them needs no deleting.
    """
    query = Host.select().join(PoolHost).where((PoolHost.pool == pool_id) & ~Host.removed)
    return bool(query.exists())
