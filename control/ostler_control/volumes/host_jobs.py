"""What every workflow on files asks of the hosts: choose the one that does the work, delete a file.

A function here that takes a `Run` is called inside a step.
"""

from __future__ import annotations

from collections.abc import Callable

from ostler.agent.v1 import volume_pb2

from ostler_control.database import session
from ostler_control.hosts.choose import choose_host
from ostler_control.hosts.rows import address_of, has_hosts
from ostler_control.models import Host, Pool
from ostler_control.operations import Run
from ostler_control.volumes import wire
from ostler_control.volumes.rows import FileRow

# How many jobs of this process a host runs now, by its id.
Busy = Callable[[str], int]


def check_host_available(pool: Pool, encrypted: bool, other: Pool | None = None) -> None:
    """For requests: some host can work on the pool's files now. other: a second pool that it must reach too.

    Raises FailedPreconditionError: NO_CAPABLE_HOST, NO_COMMON_HOST.
    """
    choose_host(pool, encrypted, lambda _: 0, other)


def choose_for(run: Run, file: FileRow) -> str:
    """Id of the host to work on a file. Raises FailedPreconditionError NO_CAPABLE_HOST."""
    with session():
        host: Host = choose_host(file.pool, bool(file.passphrase_id), run.agents.busy)
        return host.id


def choose_for_copy(run: Run, source: FileRow, target: FileRow, *, encrypted: bool = False) -> str:
    """Id of the host to copy one file to another. encrypted: the target will be, although its row has no key.

    Raises FailedPreconditionError: NO_CAPABLE_HOST, NO_COMMON_HOST.
    """
    with session():
        encrypted = encrypted or bool(source.passphrase_id or target.passphrase_id)
        host: Host = choose_host(source.pool, encrypted, run.agents.busy, target.pool)
        return host.id


def choose_to_delete(run: Run, file: FileRow | None) -> str:
    """Id of the host to delete a file; "" when there is nothing to delete.

    That is so when its row is gone, or when the fleet has no host left that should reach its pool: then nobody can open
    the file either. Raises FailedPreconditionError NO_CAPABLE_HOST when no host can do it now.
    """
    with session():
        if file is None or not has_hosts(file.pool_id):
            return ""
        host: Host = choose_host(file.pool, False, run.agents.busy)
        return host.id


def delete_file(run: Run, host_id: str, file: FileRow, pool_id: str = "") -> None:
    """Makes the host delete a file; one that is not there is a success. pool_id: where, if not in its row's pool."""
    request = volume_pb2.DeleteVolumeRequest(operation=run.ref(), volume=wire.plain_ref(file, pool_id))
    run.job(address_of(host_id), lambda agent: agent.volumes.DeleteVolume, request)
