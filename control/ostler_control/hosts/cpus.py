"""CPUs of guests: like their host's where the hosts of a cluster are alike, and else what all of them can give.

A VM that has started keeps its CPU until it is stopped, so it migrates only to hosts that can give it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from google.protobuf import json_format
from ostler.types.v1 import vm_pb2
from peewee import Expression, ModelSelect

from ostler_control.database import session
from ostler_control.models import Host, HostCpu, Operation, Vm, VmCpu, tuples
from ostler_control.prepared import Prepared, Value


def record(host_id: str, cpu: vm_pb2.CpuModel) -> None:
    """Records what VMs get on a host; an empty one: every host gives the same. Within the caller's transaction."""
    text = text_of(cpu)
    known = HostCpu.get_or_none(HostCpu.host == host_id)
    if (known.cpu if known is not None else "") == text:
        return
    HostCpu.delete().where(HostCpu.host == host_id).execute()
    if text:
        HostCpu.create(host=host_id, digest=hashlib.sha256(text.encode()).hexdigest()[:16], cpu=text)


def text_of(cpu: vm_pb2.CpuModel) -> str:
    """What is recorded of it; "" for an empty one."""
    return json_format.MessageToJson(cpu, indent=None, sort_keys=True) if cpu.model else ""


@dataclass(frozen=True)
class Common:
    """The unlike CPUs that a VM is to have in common, by digest; empty: it gets its host's."""

    cpus: Mapping[str, str]

    def to_wire(self) -> list[vm_pb2.CpuModel]:
        return [json_format.Parse(text, vm_pb2.CpuModel()) for _, text in sorted(self.cpus.items())]


def _given(value: Value) -> ModelSelect[HostCpu]:
    begun = Operation.select(Operation.create_time).where(Operation.id == value("operation"))
    return HostCpu.select(HostCpu.digest).where(HostCpu.create_time < begun).distinct().limit(2)


_GIVEN = Prepared(_given)


def at_start_of(operation_id: str, host_id: str) -> Common:
    """Those of the host's cluster, as they were known when the operation was recorded: a start that is repeated after a
    crash must send its host the same as before."""
    with session():
        # Mostly the whole fleet gives the same: then no host needs to be looked at.
        if len(_GIVEN.rows(tuple[str], operation=operation_id)) < 2:
            return Common({})
        begun = Operation.select(Operation.create_time).where(Operation.id == operation_id)
        cluster = Host.select(Host.cluster).where(Host.id == host_id)
        query = HostCpu.select(HostCpu.digest, HostCpu.cpu).join(Host).distinct()
        query = query.where(Host.cluster == cluster, ~Host.removed, HostCpu.create_time < begun)
        found = dict(tuples(query, tuple[str, str]))
    return Common(found if len(found) > 1 else {})


def common_of(digests: str) -> Common:
    """What a guest has whose memory was saved when it had what these CPUs have in common, separated by spaces."""
    found = digests.split()
    return Common(dict.fromkeys(found, "") if len(found) > 1 else {})


def keep(vm: Vm, common: Common) -> None:
    """Records what a VM has started with: within the caller's transaction."""
    if vm.last_host_id:  # it has started before
        VmCpu.delete().where(VmCpu.vm == vm.id).execute()
    if common.cpus:
        digests = " ".join(sorted(common.cpus))
        VmCpu.insert(vm=vm.id, digests=digests).on_conflict(
            conflict_target=[VmCpu.vm], update={VmCpu.digests: digests}
        ).execute()


def hosts_for(vm: Vm) -> frozenset[str] | None:
    """Ids of the hosts that can give a running VM the CPU that it has; None: all."""
    return hosts_giving(of_running(vm))


def of_running(vm: Vm) -> frozenset[str]:
    """Digests of the CPUs of which a running VM has what is common, mostly its host's alone; none: every host gives the
    same."""
    with session():
        given = dict(tuples(HostCpu.select(HostCpu.host, HostCpu.digest), tuple[str, str]))
        return _common(VmCpu.vm == vm.id).get(vm.id) or frozenset({given[vm.host_id]} if vm.host_id in given else ())


def hosts_giving(digests: frozenset[str]) -> frozenset[str] | None:
    """Ids of the hosts whose CPU is one of these; None: all, for there are none.

    A host that does not say what it gives counts as one that can.
    """
    if not digests:
        return None
    with session():
        given = dict(tuples(HostCpu.select(HostCpu.host, HostCpu.digest), tuple[str, str]))
        every = [host_id for (host_id,) in tuples(Host.select(Host.id).where(~Host.removed), tuple[str])]
    return frozenset(host_id for host_id in every if host_id not in given or given[host_id] in digests)


@dataclass(frozen=True)
class Names:
    """CPUs by names that tell them apart, for planning. of_hosts: what each host gives, if it says so; of_vms: what
    those have that started with what several CPUs have in common."""

    of_hosts: Mapping[str, str]
    of_vms: Mapping[str, str]
    _common: Mapping[str, frozenset[str]]

    def given_by(self, host_id: str) -> frozenset[str]:
        """All that a host can give: a VM that has one of these may run there."""
        own = self.of_hosts.get(host_id)
        return frozenset({own, *(name for name, parts in self._common.items() if own in parts)} if own else ())


def names(hosts: ModelSelect[Host], vms: ModelSelect[Vm]) -> Names:
    """Those of these hosts and VMs."""
    rows = list(HostCpu.select().where(HostCpu.host.in_(hosts)))
    known = {row.digest: f"{json_format.Parse(row.cpu, vm_pb2.CpuModel()).model} ({row.digest[:6]})" for row in rows}
    of_vms, common = {}, {}
    for vm_id, digests in _common(VmCpu.vm.in_(vms)).items():
        parts = frozenset(known.get(digest, digest) for digest in digests)
        of_vms[vm_id] = "common to " + " and ".join(sorted(parts))
        common[of_vms[vm_id]] = parts
    return Names({row.host_id: known[row.digest] for row in rows}, of_vms, common)


def _common(which: Expression) -> dict[str, frozenset[str]]:
    query = VmCpu.select(VmCpu.vm, VmCpu.digests).where(which)
    return {vm_id: frozenset(digests.split()) for vm_id, digests in tuples(query, tuple[str, str])}
