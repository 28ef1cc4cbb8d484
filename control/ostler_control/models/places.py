"""Zones, clusters and hosts."""

from __future__ import annotations

from peewee import (
    BigIntegerField,
    BooleanField,
    DateTimeField,
    DoubleField,
    ForeignKeyField,
    IntegerField,
    TextField,
)

from ostler_control.models.base import BaseModel, now
from ostler_control.models.enum_columns import enum_column
from ostler_control.states import HostState, PowerState


class Zone(BaseModel):
    """A place with its own network and storage."""

    name = TextField(unique=True)


class Cluster(BaseModel):
    """A set of like hosts. hypervisor_type: empty until it is given, or the first host joins."""

    name = TextField()
    zone = ForeignKeyField(Zone, backref="clusters", on_delete="RESTRICT")
    zone_id: str
    hypervisor_type = TextField(default="")
    cpu_overcommit = DoubleField(default=1.0)
    memory_overcommit = DoubleField(default=1.0)
    enabled = BooleanField(default=True)

    class Meta:
        indexes = ((("zone", "name"), True),)


class HypervisorType(BaseModel):
    """A type of hypervisor that some host has reported. display_name: as its driver says.

    template_formats and functions (comma-separated): those of any of its hosts.
    """

    type = TextField(unique=True)
    display_name = TextField(default="")
    template_formats = TextField(default="")
    functions = TextField(default="")


class Host(BaseModel):
    """A hypervisor.

    state: connecting | up | disconnected (the watcher's word) | fenced; maintenance and enabled: the operator's.
    capabilities and load: ostler.types.v1 messages as protobuf JSON, "" when not heard yet.
    smooth_load: JSON of `fleet.smoothing`, "" when not heard yet. It and load are written only when it matters
    (`fleet.loads`); the process that watches the fleet knows newer ones (`hosts.loads`).
    allocated_*: running sums of the VMs placed here, changed only by `ostler_control.scheduling.capacity`.
    cpus, memory_bytes, volume_encryption, uefi, bridges, template_formats, functions (the last three
    comma-separated) are copied out of the capabilities because they are asked for at every placement and refusal.
    """

    name = TextField()
    address = TextField()
    cluster = ForeignKeyField(Cluster, backref="hosts", on_delete="RESTRICT")
    cluster_id: str
    state = enum_column(HostState, HostState.CONNECTING)
    state_reason = TextField(default="")
    state_time = DateTimeField(default=now)
    enabled = BooleanField(default=True)
    maintenance = BooleanField(default=False)
    maintenance_reason = TextField(default="")
    removed = BooleanField(default=False)
    agent_version = TextField(default="")
    hypervisor_type = TextField(default="")
    cpus = IntegerField(default=0)
    memory_bytes = BigIntegerField(default=0)
    volume_encryption = BooleanField(default=False)
    uefi = BooleanField(default=False)
    bridges = TextField(default="")
    template_formats = TextField(default="")
    functions = TextField(default="")
    allocated_cpus = IntegerField(default=0)
    allocated_memory_bytes = BigIntegerField(default=0)
    capabilities = TextField(default="")
    load = TextField(default="")
    smooth_load = TextField(default="")


# The name of a host that was removed is free again.
Host.add_index(Host.index(Host.name, unique=True, where=~Host.removed, name="host_live_name"))


class HostFunction(BaseModel):
    """A function that a host has proved, of those that have no column of their own in `Host`: "nic-filter"."""

    host = ForeignKeyField(Host, backref="proved", on_delete="CASCADE")
    host_id: str
    function = TextField()

    class Meta:
        indexes = ((("host", "function"), True),)


class UnmanagedVm(BaseModel):
    """A VM found on a host that Ostler does not manage: shown, never touched."""

    host = ForeignKeyField(Host, backref="unmanaged_vms", on_delete="CASCADE")
    host_id: str
    vm_uuid = TextField()
    name = TextField()
    power_state = enum_column(PowerState)
    cpus = IntegerField(default=0)
    memory_bytes = BigIntegerField(default=0)

    class Meta:
        indexes = ((("host", "vm_uuid"), True),)
