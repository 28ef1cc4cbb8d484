"""Asks hosts that were proved off, and are heard again, which of their VMs have ended.

What such a host had reported may be older than a start that reached it since: then the VM's row says that it stopped,
and it runs. So the host itself is asked, after the row was read, and its answer counts only for a row that has not
changed since. No clock is compared, and it does not matter which replica heard what. A host that does not answer keeps
its VMs: they are freed when it is heard, or proved off anew.
"""

from __future__ import annotations

import datetime
import time
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from ostler.agent.v1 import job_pb2
from ostler.agent.v1 import vm_pb2 as agent_pb2
from ostler.types.v1.job_pb2 import JobUpdate
from ostler_common.errors import NotFoundError, OstlerError

from ostler_control.agents import Agents, HostAddress
from ostler_control.agents.power_states import power_state
from ostler_control.database import session
from ostler_control.hosts import late_starts
from ostler_control.models import Host, HostFence, Vm, VmState, tuples
from ostler_control.states import OFF_POWER_STATES

# VMs, each with the time of the state in which its row was when its host was asked.
Ended = frozenset[tuple[str, datetime.datetime]]

# For all that a host is asked at a time: the slowest one holds up the others.
_ASK_S = 5.0
_AT_ONCE = 16


def ended_vms(agents: Agents, host_ids: Collection[str]) -> dict[str, Ended | None]:
    """By host the VMs that are recorded as running there, and as stopped by themselves, and that do not run there as
    the host says now; None for a host that does not answer. Hosts that have no such VM, or were not heard since they
    were proved off, are not asked."""
    over = (Vm.state == VmState.RUNNING) & Vm.power_state.in_(OFF_POWER_STATES) & (Vm.operation_id == "")
    query = Vm.select(Host.id, Host.name, Host.address, Vm.id, Vm.state_time).join(Host, on=Vm.host)
    query = query.join(HostFence, on=HostFence.host == Host.id)
    found: defaultdict[HostAddress, Ended] = defaultdict(frozenset)
    with session():
        query = query.where(Host.id.in_(sorted(host_ids)), ~Host.removed, HostFence.has_returned(), over)
        for *host, vm_id, state_time in tuples(query, tuple[str, str, str, str, datetime.datetime]):
            found[HostAddress(*host)] |= {(vm_id, state_time)}
        if not found:
            return {}
        # After the rows of the VMs: an operation that ends meanwhile notes its start and lets go of its VM at once.
        started = late_starts.jobs(host_ids)
    with ThreadPoolExecutor(min(_AT_ONCE, len(found)), thread_name_prefix="ha-ask") as pool:
        answers = pool.map(partial(_ended_on, agents, started), found, found.values())
        return {host.host_id: answer for host, answer in zip(found, answers, strict=True)}


def _ended_on(
    agents: Agents, started: Mapping[tuple[str, str], Sequence[str]], host: HostAddress, recorded: Ended
) -> Ended | None:
    """Those of these VMs that do not run on the host as it says now; None when it does not answer. One that a job is
    about to start there, which may hang in its hypervisor, has not ended."""
    end_s = time.monotonic() + _ASK_S

    def left_s() -> float:
        return max(end_s - time.monotonic(), 0.0)

    def is_starting(vm_id: str) -> bool:
        jobs = started.get((host.host_id, vm_id), ())
        return any(_is_under_way(agents, host, job_id, left_s()) for job_id in jobs)

    try:
        starting = {vm_id for vm_id, _ in recorded if is_starting(vm_id)}
        answer = agents.call(host, lambda agent: agent.vms.ListVms, agent_pb2.ListVmsRequest(), left_s())
    except OstlerError:
        return None
    perhaps = {vm.vm_id for vm in answer.vms if power_state(vm.power_state) not in OFF_POWER_STATES}
    return frozenset((vm_id, state_time) for vm_id, state_time in recorded if vm_id not in perhaps | starting)


def _is_under_way(agents: Agents, host: HostAddress, job_id: str, deadline_s: float) -> bool:
    request = job_pb2.GetJobRequest(operation_id=job_id)
    try:
        job = agents.call(host, lambda agent: agent.jobs.GetJob, request, deadline_s)
    except NotFoundError:
        return False
    return job.state not in (JobUpdate.SUCCEEDED, JobUpdate.FAILED, JobUpdate.CANCELLED)
