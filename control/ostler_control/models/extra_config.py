"""What people attach to VMs and service offerings: details, and extra configuration."""

from __future__ import annotations

from peewee import ForeignKeyField, TextField

from ostler_control.models.base import BaseModel
from ostler_control.models.machines import ServiceOffering, Vm
from ostler_control.models.storage import Template


class VmDetail(BaseModel):
    """A key with a value that Ostler keeps for people and their tools."""

    vm = ForeignKeyField(Vm, backref="details", on_delete="CASCADE")
    vm_id: str
    key = TextField()
    value = TextField()

    class Meta:
        indexes = ((("vm", "key"), True),)


class VmExtraConfig(BaseModel):
    """A fragment of libvirt's XML for a VM. override_by: the admin who lets it pass whatever the rules say, else ""."""

    vm = ForeignKeyField(Vm, backref="extra_configs", on_delete="CASCADE")
    vm_id: str
    name = TextField()
    xml = TextField()
    override_by = TextField(default="")

    class Meta:
        indexes = ((("vm", "name"), True),)


class OfferingExtraConfig(BaseModel):
    """Extra configuration for DPDK that every VM of a service offering gets. name: says what it is, see `dpdk`."""

    service_offering = ForeignKeyField(ServiceOffering, backref="extra_configs", on_delete="CASCADE")
    service_offering_id: str
    name = TextField()
    value = TextField()

    class Meta:
        indexes = ((("service_offering", "name"), True),)


class TemplateDetail(BaseModel):
    """A detail for drivers that every VM from a template gets. key: without "driver."."""

    template = ForeignKeyField(Template, backref="details", on_delete="CASCADE")
    template_id: str
    key = TextField()
    value = TextField()

    class Meta:
        indexes = ((("template", "key"), True),)


class OfferingDetail(BaseModel):
    """A detail for drivers that every VM of a service offering gets. key: without "driver."."""

    service_offering = ForeignKeyField(ServiceOffering, backref="details", on_delete="CASCADE")
    service_offering_id: str
    key = TextField()
    value = TextField()

    class Meta:
        indexes = ((("service_offering", "key"), True),)
