"""Zones, clusters and hosts."""

from __future__ import annotations

from typing import Any

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


class Zone(BaseModel):
    """A place with its own network and storage."""

    name: Any = TextField(unique=True)


class Cluster(BaseModel):
    """A set of like hosts. hypervisor_type: empty until it is given, or the first host joins."""

    name: Any = TextField()
    zone: Any = ForeignKeyField(Zone, backref="clusters", on_delete="RESTRICT")
    hypervisor_type: Any = TextField(default="")
    cpu_overcommit: Any = DoubleField(default=1.0)
    memory_overcommit: Any = DoubleField(default=1.0)
    enabled: Any = BooleanField(default=True)

    class Meta:
        indexes = ((("zone", "name"), True),)


class HypervisorType(BaseModel):
    """A type of hypervisor that some host has reported. display_name: as its driver says.

    template_formats and functions (comma-separated): those of any of its hosts.
    """

    type: Any = TextField(unique=True)
    display_name: Any = TextField(default="")
    template_formats: Any = TextField(default="")
    functions: Any = TextField(default="")


class Host(BaseModel):
    """A hypervisor.

    state: connecting | up | disconnected (the watcher's word); maintenance and enabled: the operator's.
    capabilities and load: ostler.types.v1 messages as protobuf JSON, "" when not heard yet.
    smooth_load: JSON of `fleet.smoothing`, "" when not heard yet.
    allocated_*: running sums of the VMs placed here, changed only by `ostler_control.capacity`.
    cpus, memory_bytes, volume_encryption, uefi, bridges, template_formats, functions (the last three
    comma-separated) are copied out of the capabilities because they are asked for at every placement and refusal.
    """

    name: Any = TextField()
    address: Any = TextField()
    cluster: Any = ForeignKeyField(Cluster, backref="hosts", on_delete="RESTRICT")
    state: Any = TextField(default="connecting")
    state_reason: Any = TextField(default="")
    state_time: Any = DateTimeField(default=now)
    enabled: Any = BooleanField(default=True)
    maintenance: Any = BooleanField(default=False)
    maintenance_reason: Any = TextField(default="")
    removed: Any = BooleanField(default=False)
    agent_version: Any = TextField(default="")
    hypervisor_type: Any = TextField(default="")
    cpus: Any = IntegerField(default=0)
    memory_bytes: Any = BigIntegerField(default=0)
    volume_encryption: Any = BooleanField(default=False)
    uefi: Any = BooleanField(default=False)
    bridges: Any = TextField(default="")
    template_formats: Any = TextField(default="")
    functions: Any = TextField(default="")
    allocated_cpus: Any = IntegerField(default=0)
    allocated_memory_bytes: Any = BigIntegerField(default=0)
    capabilities: Any = TextField(default="")
    load: Any = TextField(default="")
    smooth_load: Any = TextField(default="")


# The name of a host that was removed is free again.
Host.add_index(Host.index(Host.name, unique=True, where=~Host.removed, name="host_live_name"))


class UnmanagedVm(BaseModel):
    """A VM found on a host that Ostler does not manage: shown, never touched."""

    host: Any = ForeignKeyField(Host, backref="unmanaged_vms", on_delete="CASCADE")
    vm_uuid: Any = TextField()
    name: Any = TextField()
    power_state: Any = TextField()
    cpus: Any = IntegerField(default=0)
    memory_bytes: Any = BigIntegerField(default=0)

    class Meta:
        indexes = ((("host", "vm_uuid"), True),)
