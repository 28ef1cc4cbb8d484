"""The watcher's reads and writes in the database: short calls for its worker thread."""

from __future__ import annotations

import datetime
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from google.protobuf import json_format
from ostler.types.v1 import host_pb2, vm_pb2
from ostler_common import versions
from ostler_common.errors import OstlerError
from ostler_common.hypervisors import Function
from peewee import JOIN, ModelSelect

from ostler_control import events, settings
from ostler_control.agents import reports
from ostler_control.database import session, transaction
from ostler_control.fleet.loads import Loads
from ostler_control.fleet.reconcile import HostView, Seen, Verdict, VmRow
from ostler_control.fleet.smoothing import Smooth
from ostler_control.hosts import cpus
from ostler_control.hosts.rows import record_heard
from ostler_control.hypervisors import registry, rules
from ostler_control.models import (
    Cluster,
    Host,
    HostCpu,
    HostFence,
    HostFunction,
    HostSilence,
    HostState,
    PowerState,
    UnmanagedVm,
    Vm,
    VmSighting,
    VmState,
    now,
    tuples,
)
from ostler_control.prepared import Prepared, Value

# A row that changed this recently is left alone: what its host reported before the change may still be in flight.
QUIET_TIME = datetime.timedelta(seconds=3)
# The columns of a host's row that its capabilities are copied to.
_FACTS = (
    *("hypervisor_type", "cpus", "memory_bytes", "volume_encryption", "uefi", "bridges", "capabilities"),
    *("agent_version", "template_formats", "functions"),
)
# SQLite and PostgreSQL limit how many values one statement may carry.
_CHUNK = 5000


@dataclass(frozen=True)
class WatchedHost:
    """What the watcher needs to know of a host."""

    host_id: str
    name: str
    address: str
    state: HostState


def hosts() -> dict[str, WatchedHost]:
    """All hosts of the fleet, by id."""
    with session():
        query = Host.select(Host.id, Host.name, Host.address, Host.state).where(~Host.removed)
        return {row[0]: WatchedHost(*row) for row in tuples(query, tuple[str, str, str, HostState])}


def load_interval_s() -> int:
    """How often hosts are to report their load."""
    with session():
        interval: int = settings.agents.AGENT_LOAD_INTERVAL.get()
        return interval


_STATE = Prepared(lambda value: Host.select(Host.state, Host.state_reason).where(Host.id == value("host")))


def set_state(host: WatchedHost, state: HostState, reason: str) -> None:
    """Records a host's state; an event tells when it falls silent or comes back.

    A fenced host stays fenced: only whether it is heard is recorded, and high availability gives it back.
    """
    with session():
        # After a restart of the control plane most hosts are as they were: nobody waits for his turn to write.
        if _STATE.first(tuple[str, str], host=host.host_id) == (state, reason):
            return
    with transaction(lasting=state is not HostState.UP):
        before = Host.select(Host.state, Host.state_reason).where(Host.id == host.host_id).first()
        if before is None or (before.state, before.state_reason) == (state, reason):
            return
        if before.state is HostState.FENCED:
            _set_fenced(host, state, reason)
            return
        values: dict[str, object] = {"state": state, "state_reason": reason}
        if before.state is not state:
            values["state_time"] = now()
        # Only if nobody has begun to fence the host meanwhile.
        written = Host.update(**values).where(Host.id == host.host_id, Host.state == before.state).execute()
        if before.state is state or not written:
            return
        if state is HostState.DISCONNECTED:
            _host_event("host.disconnected", host, f"host {host.name} is silent: {reason}")
        elif state is HostState.UP:
            _host_event("host.up", host, f"host {host.name} is up")


def _set_fenced(host: WatchedHost, state: HostState, reason: str) -> None:
    """Within the caller's transaction. The watcher says the same again and again: nearly always nothing is written."""
    if state is HostState.UP:
        record_heard(host.host_id)
        return
    if state is not HostState.DISCONNECTED:
        HostSilence.delete().where(HostSilence.host == host.host_id).execute()
        return
    if not HostSilence(host=host.host_id).insert_unless_taken():
        return
    if HostFence.select().where(HostFence.host == host.host_id, HostFence.has_returned()).exists():
        text = (
            f"host {host.name}, which was proved off and had returned, is silent again before it was given back: "
            f"its VMs wait until it is heard or proved off anew ({reason})"
        )
        _host_event("host.disconnected", host, text)


def set_facts(host: WatchedHost, agent_version: str, capabilities: host_pb2.Capabilities) -> str:
    """Records what a host can do. Returns what is wrong with it, for people; "" when nothing is.

    agent_version: "" when this report does not tell; then the recorded one counts. A report with a wrong value is not
    recorded at all.
    """
    if wrong := reports.find_wrong(capabilities):
        return reports.complaint(wrong)
    reports.clean(capabilities)
    agent_version = reports.clean_text(agent_version)
    values = {
        "hypervisor_type": capabilities.hypervisor_type,
        "cpus": capabilities.cpus,
        "memory_bytes": capabilities.memory_bytes,
        "volume_encryption": capabilities.volume_encryption,
        "uefi": capabilities.uefi,
        "bridges": ",".join(capabilities.bridges),
        "capabilities": json_format.MessageToJson(capabilities, indent=None),
        "agent_version": agent_version,
        **registry.columns(capabilities),
    }
    with session():
        if _is_recorded(host.host_id, values, capabilities):
            return versions.mismatch(versions.own_version(), agent_version)
    with transaction(lasting=False):
        before = Host.select(*(getattr(Host, name) for name in values)).where(Host.id == host.host_id).first()
        if before is None:
            return ""
        values["agent_version"] = agent_version or before.agent_version
        wrong_version = versions.mismatch(versions.own_version(), str(values["agent_version"]))
        if any(getattr(before, name) != value for name, value in values.items()):
            Host.update(**values).where(Host.id == host.host_id).execute()
        if not capabilities.hypervisor_type:
            return wrong_version
        _set_proved(host.host_id, _proved(capabilities))
        cpus.record(host.host_id, capabilities.guest_cpu)
        cluster = Cluster.select().join(Host).where(Host.id == host.host_id).get()
        if registry.is_type(capabilities.hypervisor_type):
            registry.learn(capabilities, (before.template_formats, before.functions))
        try:
            rules.admit(cluster, host.name, capabilities.hypervisor_type)
        except OstlerError as error:
            return error.message
    return wrong_version


def _recorded(value: Value) -> ModelSelect[Host]:
    columns = [getattr(Host, name) for name in _FACTS]
    query = Host.select(*columns, HostCpu.cpu, Cluster.hypervisor_type).join(Cluster).switch(Host)
    query = query.join(HostCpu, JOIN.LEFT_OUTER, on=HostCpu.host == Host.id)
    return query.where(Host.id == value("host"))


_RECORDED = Prepared(_recorded)
_PROVED = Prepared(lambda value: HostFunction.select(HostFunction.function).where(HostFunction.host == value("host")))


def _is_recorded(host_id: str, facts: Mapping[str, object], capabilities: host_pb2.Capabilities) -> bool:
    """Whether nothing is to be written. After a restart of the control plane all hosts report what is known."""
    row = _RECORDED.first(tuple[object, ...], host=host_id)
    if row is None:
        return False
    *recorded, cpu, cluster_type = row
    known = {function for (function,) in _PROVED.rows(tuple[str], host=host_id)}
    return (
        dict(zip(_FACTS, recorded, strict=True)) == facts
        and cluster_type == capabilities.hypervisor_type != ""
        and (cpu or "") == cpus.text_of(capabilities.guest_cpu)
        and known == _proved(capabilities)
        and registry.is_known(capabilities, (str(facts["template_formats"]), str(facts["functions"])))
    )


def _proved(capabilities: host_pb2.Capabilities) -> set[str]:
    """The functions that a host has proved, of those that have no column of their own."""
    able = {
        Function.NIC_FILTER: capabilities.nic_filter,
        Function.TPM: capabilities.tpm,
        Function.SECURE_BOOT: _boots_securely(capabilities),
    }
    return {str(function) for function, is_proved in able.items() if is_proved}


def _set_proved(host_id: str, proved: set[str]) -> None:
    known = {row.function for row in HostFunction.select().where(HostFunction.host == host_id)}
    for function in proved - known:
        HostFunction.create(host=host_id, function=function)
    for function in known - proved:
        HostFunction.delete().where(HostFunction.host == host_id, HostFunction.function == function).execute()


def _boots_securely(capabilities: host_pb2.Capabilities) -> bool:
    """An agent of an older release does not tell: then its firmware and what its driver states count."""
    if capabilities.HasField("secure_boot"):
        return capabilities.secure_boot
    return capabilities.uefi and Function.SECURE_BOOT in capabilities.functions


def record_bad_report(host: WatchedHost, complaint: str) -> None:
    """Records that a host began to report what cannot be."""
    with transaction():
        if Host.select().where(Host.id == host.host_id).exists():
            _host_event("host.report.bad", host, f"host {host.name} {complaint}")


def set_loads(heard: Mapping[str, vm_pb2.HostLoad], loads: Loads) -> int:
    """Adds the latest load of many hosts, by id, to what is kept of them, and writes the rows for which it matters, in
    one transaction. Returns how many."""
    if unknown := loads.unknown(heard):
        with session():
            query = Host.select(Host.id, Host.smooth_load).where(Host.id.in_(unknown))
            loads.resume({row_id: Smooth.from_json(text) for row_id, text in tuples(query, tuple[str, str])})
    records = loads.add(heard, now().replace(tzinfo=datetime.UTC).timestamp())
    if records:
        with transaction(lasting=False):
            for host_id, record in sorted(records.items()):
                text = json_format.MessageToJson(record.load, indent=None)
                Host.update(load=text, smooth_load=record.average.to_json()).where(Host.id == host_id).execute()
    loads.written(records)
    return len(records)


def vm_rows(host_ids: Sequence[str] | None = None, vm_ids: Iterable[str] = ()) -> list[VmRow]:
    """VMs whose home is one of these hosts, or that have one of these ids; all VMs when host_ids is None."""
    query = Vm.select(
        Vm.id,
        Vm.name,
        Vm.account,
        Vm.state,
        Vm.power_state,
        Vm.attention,
        Vm.host,
        Vm.last_host,
        Vm.operation_id,
        Vm.state_time,
    )
    with session():
        seen_on = _sightings()
        if host_ids is None:
            found = {row[0]: row for row in _rows(query)}
        else:
            home = Vm.host.in_(host_ids) | (Vm.host.is_null() & Vm.last_host.in_(host_ids))
            found = {row[0]: row for row in _rows(query.where(home))}
            named = {*vm_ids, *(vm_id for vm_id, hosts in seen_on.items() if not hosts.isdisjoint(host_ids))}
            others = sorted(named - set(found))
            for begin in range(0, len(others), _CHUNK):
                chunk = query.where(Vm.id.in_(others[begin : begin + _CHUNK]))
                found.update({row[0]: row for row in _rows(chunk)})
    quiet_since = now() - QUIET_TIME
    return [_vm_row(row, quiet_since, seen_on.get(row[0], frozenset())) for row in found.values()]


_Row = tuple[str, str, str, VmState, PowerState, str, str | None, str | None, str, datetime.datetime]


def _rows(query: ModelSelect[Vm]) -> list[_Row]:
    return tuples(query, tuple[str, str, str, VmState, PowerState, str, str | None, str | None, str, datetime.datetime])


def _sightings() -> dict[str, frozenset[str]]:
    """By VM the hosts where it was last seen running although Ostler did not place it there; mostly there are none."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for vm_id, host_id in tuples(VmSighting.select(VmSighting.vm, VmSighting.host), tuple[str, str]):
        found[vm_id].add(host_id)
    return {vm_id: frozenset(host_ids) for vm_id, host_ids in found.items()}


def _vm_row(row: _Row, quiet_since: datetime.datetime, seen_on: frozenset[str]) -> VmRow:
    vm_id, name, account_id, state, power_state, attention, host, last_host, operation_id, state_time = row
    quiet = operation_id == "" and state_time < quiet_since
    return VmRow(vm_id, name, account_id, state, power_state, attention, host or last_host or "", quiet, seen_on)


def apply(verdicts: Sequence[Verdict]) -> None:
    """Records verdicts, each only if its row is still as it was judged: no operation holds it and it has not moved."""
    if not verdicts:
        return
    with transaction():
        for verdict in verdicts:
            row = verdict.row
            home = (Vm.host == row.home) | (Vm.host.is_null() & (Vm.last_host == row.home))
            written = (
                Vm.update(power_state=verdict.power_state, attention=verdict.attention)
                .where(
                    Vm.id == row.vm_id,
                    Vm.operation_id == "",
                    Vm.state == row.state,
                    Vm.power_state == row.power_state,
                    Vm.attention == row.attention,
                    home if row.home else Vm.host.is_null() & Vm.last_host.is_null(),
                )
                .execute()
            )
            if written == 1:
                _record_sightings(row, verdict.seen_on)
            if written == 1 and verdict.event:
                events.record(
                    verdict.event,
                    events.Outcome.NOTICED,
                    events.SYSTEM,
                    "vm",
                    row.vm_id,
                    row.name,
                    verdict.message,
                    account_id=row.account_id,
                )


def _record_sightings(row: VmRow, seen_on: frozenset[str]) -> None:
    gone = row.seen_on - seen_on
    if gone:
        VmSighting.delete().where(VmSighting.vm == row.vm_id, VmSighting.host.in_(sorted(gone))).execute()
    for host_id in sorted(seen_on - row.seen_on):
        VmSighting.insert(vm=row.vm_id, host=host_id).on_conflict_ignore().execute()


def having_unmanaged(host_ids: Sequence[str]) -> set[str]:
    """Those of these hosts of which VMs are recorded that Ostler does not manage."""
    with session():
        query = UnmanagedVm.select(UnmanagedVm.host).where(UnmanagedVm.host.in_(host_ids)).distinct()
        return {host_id for (host_id,) in tuples(query, tuple[str])}


def set_unmanaged(host: HostView, found: Mapping[str, Seen]) -> None:
    """Records the VMs on a host that Ostler does not manage; an event tells which appeared, another which vanished."""
    with transaction():
        if not Host.select().where(Host.id == host.host_id).exists():
            return
        before = {row.vm_uuid: row for row in UnmanagedVm.select().where(UnmanagedVm.host == host.host_id)}
        for vm_id, seen in sorted(found.items()):
            values = {
                "name": seen.name,
                "power_state": seen.power_state,
                "cpus": seen.cpus,
                "memory_bytes": seen.memory_bytes,
            }
            row = before.get(vm_id)
            if row is None:
                UnmanagedVm.create(host=host.host_id, vm_uuid=vm_id, **values)
            elif any(getattr(row, key) != value for key, value in values.items()):
                UnmanagedVm.update(**values).where(UnmanagedVm.id == row.id).execute()
        gone = [row for vm_id, row in before.items() if vm_id not in found]
        for row in gone:
            row.delete_instance()
        watched = WatchedHost(host.host_id, host.name, "", HostState.UP)
        came = [seen.name for vm_id, seen in sorted(found.items()) if vm_id not in before]
        if came:
            _host_event("host.vm.appeared", watched, f"unmanaged VMs appeared on host {host.name}: {_listed(came)}")
        if gone:
            names = [row.name for row in gone]
            _host_event("host.vm.vanished", watched, f"unmanaged VMs vanished from host {host.name}: {_listed(names)}")


def _listed(names: list[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _host_event(event: str, host: WatchedHost, message: str) -> None:
    events.record(event, events.Outcome.NOTICED, events.SYSTEM, "host", host.host_id, host.name, message)
