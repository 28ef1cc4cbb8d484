"""VMs that may have been started on a fenced host later than the proof that it was off.

A start outlasts the silence of its host: it is tried again while the host is fenced, and may reach it when it returns.
A proof says nothing of what happens after it began. While an operation works on a VM, no proof frees it; so it is
enough to write down, before the operation ends, that its last call may be later than the proof. Only a proof that
begins after that counts for the VM, or the host's own word.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection

from ostler_control.models import FenceState, HostFence, LateStart, new_id, tuples
from ostler_control.prepared import Prepared

_FENCED = Prepared(
    lambda value: HostFence.select(HostFence.id).where(
        HostFence.host == value("host"), HostFence.state.in_((FenceState.FENCING, FenceState.OFF))
    )
)


def note(vm_id: str, host_id: str, job_id: str) -> None:
    """Records that a job may have started the VM on the host, or brought it there, up to now: within the caller's
    transaction. Does nothing unless the host is being fenced or proved off: a later fencing begins after this.

    Of a job that was noted before, the row gets a new id: a proof under way covers the ids that it began with."""
    if _FENCED.first(tuple[str], host=host_id) is not None:
        row_id = new_id()
        LateStart.insert(id=row_id, vm=vm_id, host=host_id, job_id=job_id).on_conflict(
            conflict_target=[LateStart.vm, LateStart.host, LateStart.job_id], update={"id": row_id}
        ).execute()


def exists(vm_id: str, host_id: str) -> bool:
    """Whether the host's proof says nothing of the VM."""
    return bool(LateStart.select().where(LateStart.vm == vm_id, LateStart.host == host_id).exists())


def jobs(host_ids: Collection[str]) -> dict[tuple[str, str], list[str]]:
    """By host and VM of which the host's proof says nothing: the jobs that may have started it."""
    found: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    query = LateStart.select(LateStart.host, LateStart.vm, LateStart.job_id).where(LateStart.host.in_(sorted(host_ids)))
    for host_id, vm_id, job_id in tuples(query, tuple[str, str, str]):
        found[host_id, vm_id].append(job_id)
    return dict(found)
