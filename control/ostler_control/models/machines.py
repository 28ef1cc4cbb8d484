"""Service offerings, VMs and their network interfaces."""

from __future__ import annotations

from typing import Any

from peewee import BigIntegerField, BooleanField, DateTimeField, ForeignKeyField, IntegerField, TextField

from ostler_control.models.base import BaseModel, now
from ostler_control.models.people import Account
from ostler_control.models.places import Host
from ostler_control.models.storage import Template


class ServiceOffering(BaseModel):
    """A size and kind of VM. retire_time: since when it cannot be chosen; VMs that have it keep it."""

    name: Any = TextField()
    cpus: Any = IntegerField()
    memory_bytes: Any = BigIntegerField()
    encrypt_root: Any = BooleanField(default=False)
    retire_time: Any = DateTimeField(null=True)


# The name of a retired offering is free again.
ServiceOffering.add_index(
    ServiceOffering.index(
        ServiceOffering.name,
        unique=True,
        where=ServiceOffering.retire_time.is_null(),
        name="service_offering_live_name",
    )
)


class Vm(BaseModel):
    """A virtual machine.

    state: creating | stopped | starting | running | stopping | migrating | deleting |
      failed: where Ostler has brought it;
    power_state: stopped | running | paused | crashed | absent, "" when not heard: what its host says;
    hypervisor_type: what it was made on, and stays on;
    host: where its capacity is claimed (null: nowhere); last_host: where its definition was last;
    destination: the host whose capacity is claimed too while it migrates;
    operation_id: the operation that holds it, else "";
    drs_skip: DRS leaves it where it is; move_time: when it last arrived by live migration.
    """

    name: Any = TextField()
    account: Any = ForeignKeyField(Account, backref="vms", on_delete="RESTRICT")
    service_offering: Any = ForeignKeyField(ServiceOffering, on_delete="RESTRICT")
    template: Any = ForeignKeyField(Template, null=True, on_delete="SET NULL")
    template_name: Any = TextField(default="")
    cpus: Any = IntegerField()
    memory_bytes: Any = BigIntegerField()
    firmware: Any = TextField(default="bios")
    hypervisor_type: Any = TextField(default="")
    state: Any = TextField(default="creating", index=True)
    state_time: Any = DateTimeField(default=now)
    power_state: Any = TextField(default="")
    attention: Any = TextField(default="")
    host: Any = ForeignKeyField(Host, null=True, backref="vms", on_delete="RESTRICT")
    last_host: Any = ForeignKeyField(Host, null=True, backref="past_vms", on_delete="SET NULL")
    destination: Any = ForeignKeyField(Host, null=True, backref="incoming_vms", on_delete="RESTRICT")
    operation_id: Any = TextField(default="")
    drs_skip: Any = BooleanField(default=False)
    move_time: Any = DateTimeField(null=True)

    class Meta:
        indexes = ((("account", "name"), True),)


class Nic(BaseModel):
    """A network interface. position: order in the VM, from 0."""

    vm: Any = ForeignKeyField(Vm, backref="nics", on_delete="CASCADE")
    position: Any = IntegerField()
    mac: Any = TextField(unique=True)
    bridge: Any = TextField()
    model: Any = TextField(default="virtio")

    class Meta:
        indexes = ((("vm", "position"), True),)
