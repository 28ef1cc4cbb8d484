"""What the watcher reads from the database and writes into it: short calls for its worker thread."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf import json_format
from ostler.types.v1 import host_pb2, vm_pb2
from ostler_common.errors import OstlerError

from ostler_control import events, settings
from ostler_control.database import session, transaction
from ostler_control.fleet.reconcile import HostView, Seen, Verdict, VmRow
from ostler_control.fleet.smoothing import Smooth, smooth
from ostler_control.hypervisors import registry, rules
from ostler_control.models import Cluster, Host, UnmanagedVm, Vm, now

# A row that changed this recently is left alone: what its host told before the change may still be on its way.
SETTLE = datetime.timedelta(seconds=3)
# SQLite and PostgreSQL limit how many values one statement may carry.
_CHUNK = 5000


@dataclass(frozen=True)
class WatchedHost:
    """What the watcher needs to know of a host."""

    host_id: str
    name: str
    address: str
    state: str


def hosts() -> dict[str, WatchedHost]:
    """All hosts of the fleet, by id."""
    with session():
        rows: Any = Host.select(Host.id, Host.name, Host.address, Host.state).where(~Host.removed).tuples()
        return {row[0]: WatchedHost(*row) for row in rows}


def load_interval_s() -> int:
    """How often hosts are to report their load."""
    with session():
        interval: int = settings.agents.AGENT_LOAD_INTERVAL.get()
        return interval


def set_state(host: WatchedHost, state: str, reason: str) -> None:
    """Writes down how we stand with a host; an event tells when it went silent or came back."""
    with transaction():
        before = Host.get_or_none(Host.id == host.host_id)
        if before is None or (before.state, before.state_reason) == (state, reason):
            return
        values: dict[str, Any] = {"state": state, "state_reason": reason}
        if before.state != state:
            values["state_time"] = now()
        Host.update(**values).where(Host.id == host.host_id).execute()
        if before.state == state:
            return
        if state == "disconnected":
            _host_event("host.disconnected", host, f"host {host.name} is silent: {reason}")
        elif state == "up":
            _host_event("host.up", host, f"host {host.name} is up")


def set_facts(host: WatchedHost, agent_version: str, capabilities: host_pb2.Capabilities) -> str:
    """Writes down what a host can do. Returns what is wrong with it for people, "" when nothing."""
    values = {
        "hypervisor_type": capabilities.hypervisor_type,
        "cpus": capabilities.cpus,
        "memory_bytes": capabilities.memory_bytes,
        "volume_encryption": capabilities.volume_encryption,
        "uefi": capabilities.uefi,
        "bridges": ",".join(capabilities.bridges),
        "capabilities": json_format.MessageToJson(capabilities, indent=None),
        **registry.columns(capabilities),
    }
    if agent_version:
        values["agent_version"] = agent_version
    with transaction():
        if not Host.update(**values).where(Host.id == host.host_id).execute() or not capabilities.hypervisor_type:
            return ""
        cluster = Cluster.select().join(Host).where(Host.id == host.host_id).get()
        if registry.is_type(capabilities.hypervisor_type):
            registry.learn(capabilities)
        try:
            rules.admit(cluster, host.name, capabilities.hypervisor_type)
        except OstlerError as error:
            return error.message
    return ""


def set_loads(loads: Mapping[str, vm_pb2.HostLoad]) -> None:
    """Writes down the last load of many hosts, by id, in one transaction, and what it comes to on average."""
    texts = {host_id: json_format.MessageToJson(load, indent=None) for host_id, load in loads.items()}
    now_s = now().replace(tzinfo=datetime.UTC).timestamp()
    with transaction():
        query: Any = Host.select(Host.id, Host.smooth_load).where(Host.id.in_(list(texts))).order_by(Host.id)
        for host_id, before in query.tuples():
            after = smooth(Smooth.from_json(before), loads[host_id], now_s)
            Host.update(load=texts[host_id], smooth_load=after.to_json()).where(Host.id == host_id).execute()


def vm_rows(host_ids: Sequence[str] | None = None, vm_ids: Iterable[str] = ()) -> list[VmRow]:
    """VMs whose home is one of these hosts, or that have one of these ids; all VMs when host_ids is None."""
    query: Any = Vm.select(
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
    ).order_by(Vm.id)
    with session():
        if host_ids is None:
            found = {row[0]: row for row in query.tuples()}
        else:
            home = Vm.host.in_(host_ids) | (Vm.host.is_null() & Vm.last_host.in_(host_ids))
            found = {row[0]: row for row in query.where(home).tuples()}
            others = sorted(set(vm_ids) - set(found))
            for begin in range(0, len(others), _CHUNK):
                found.update({row[0]: row for row in query.where(Vm.id.in_(others[begin : begin + _CHUNK])).tuples()})
    settled_before = now() - SETTLE
    return [_vm_row(row, settled_before) for row in found.values()]


def _vm_row(row: Any, settled_before: datetime.datetime) -> VmRow:
    vm_id, name, account_id, state, power_state, attention, host, last_host, operation_id, state_time = row
    settled = operation_id == "" and state_time < settled_before
    return VmRow(vm_id, name, account_id, state, power_state, attention, host or last_host or "", settled)


def apply(verdicts: Sequence[Verdict]) -> None:
    """Writes verdicts, each only if its row is still as it was judged: no operation holds it and it has not moved."""
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


def set_unmanaged(host: HostView, found: Mapping[str, Seen]) -> None:
    """Writes down the VMs on a host that are not Ostler's; an event tells which came, and one which went."""
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
        watched = WatchedHost(host.host_id, host.name, "", "")
        came = [seen.name for vm_id, seen in sorted(found.items()) if vm_id not in before]
        if came:
            _host_event("host.vm.appeared", watched, f"not Ostler's, on host {host.name}: {_listed(came)}")
        if gone:
            names = [row.name for row in gone]
            _host_event("host.vm.vanished", watched, f"not Ostler's, gone from host {host.name}: {_listed(names)}")


def _listed(names: list[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _host_event(event: str, host: WatchedHost, message: str) -> None:
    events.record(event, events.Outcome.NOTICED, events.SYSTEM, "host", host.host_id, host.name, message)
