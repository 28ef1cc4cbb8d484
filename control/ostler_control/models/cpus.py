"""The CPUs that guests see."""

from __future__ import annotations

from peewee import ForeignKeyField, TextField

from ostler_control.models.base import BaseModel
from ostler_control.models.machines import Vm
from ostler_control.models.places import Host


class HostCpu(BaseModel):
    """What a VM gets on a host whose CPU is like the host's. cpu: a CpuModel as JSON; digest: of that. A host of which
    every VM gets the same, as of an emulator, has no row; a row is replaced, not changed."""

    host = ForeignKeyField(Host, unique=True, backref="guest_cpu", on_delete="CASCADE")
    host_id: str
    digest = TextField()
    cpu = TextField()


class VmCpu(BaseModel):
    """A VM that has started with what several CPUs have in common. digests: of those, separated by spaces. A VM without
    a row has the CPU of its host."""

    vm = ForeignKeyField(Vm, unique=True, on_delete="CASCADE")
    vm_id: str
    digests = TextField()
