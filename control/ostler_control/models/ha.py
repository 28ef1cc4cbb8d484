"""High availability: fence devices, hosts that are fenced, VMs that restart, and priorities."""

from __future__ import annotations

from peewee import BooleanField, DateTimeField, Expression, FloatField, ForeignKeyField, IntegerField, TextField

from ostler_control.models.base import BaseModel, now
from ostler_control.models.enum_columns import enum_column
from ostler_control.models.machines import ServiceOffering, Vm
from ostler_control.models.places import Host
from ostler_control.models.storage import Passphrase
from ostler_control.states import FenceState, GuardState, Priority, SwitchState


class FenceDevice(BaseModel):
    """What switches a host's power: a BMC or a power strip, and the fence agent that speaks its protocol.

    options: JSON object of text, see `ha.fence_agents`; passphrase: the device's password (the associated data is the
    row's id); power_on: whether a fenced host is switched on again; test_*: the last answer to a test, test_error: ""
    when it answered.
    """

    host = ForeignKeyField(Host, unique=True, on_delete="CASCADE")
    host_id: str
    agent = TextField()
    address = TextField()
    username = TextField()
    options = TextField(default="{}")
    power_on = BooleanField(default=False)
    passphrase = ForeignKeyField(Passphrase, unique=True, on_delete="RESTRICT")
    passphrase_id: str
    test_time = DateTimeField(null=True)
    test_power = TextField(default="")
    test_error = TextField(default="")

    @property
    def name(self) -> str:
        """Its host's."""
        return self.host.name


class HostFence(BaseModel):
    """A host that is being fenced or proved off (`Host.state` is fenced then), or whose fencing has failed.

    operation_id: the latest that fenced it; heard: it has been heard again, as far as the watcher knows; proof:
    device | lease | admin, "" until it is proved off; attempts: how often fencing has failed; reason: why it failed
    last.

    A proof is of the time before it began. It says nothing of any VM there once the host was heard, and nothing of a VM
    that has a `LateStart` there. `HostSilence` tells whether the host answers now, for `Host.state` says fenced in any
    case; how long it has not, each replica measures by its own clock (`ha.facts.Silence`). So a host that is proved off
    is fenced anew when its proof does not cover all, and it is silent.
    """

    host = ForeignKeyField(Host, unique=True, on_delete="CASCADE")
    host_id: str
    state = enum_column(FenceState, FenceState.FENCING)
    state_time = DateTimeField(default=now)
    operation_id = TextField()
    heard = BooleanField(default=False)
    proof = TextField(default="")
    attempts = IntegerField(default=0)
    reason = TextField(default="")

    @classmethod
    def is_off(cls) -> Expression:
        """The condition that the host is proved off and was not heard since: silence alone says no more."""
        found: Expression = (cls.state == FenceState.OFF) & ~cls.heard
        return found

    @classmethod
    def has_returned(cls) -> Expression:
        """The condition that the host was proved off and was heard since, whether or not it answers now."""
        found: Expression = (cls.state == FenceState.OFF) & cls.heard
        return found


class HostSilence(BaseModel):
    """A fenced host that does not answer, which its state does not tell. time: since when."""

    host = ForeignKeyField(Host, unique=True, on_delete="CASCADE")
    host_id: str
    time = DateTimeField(default=now)


class LateStart(BaseModel):
    """A VM that may have been started on a fenced host, or arrived there, since it was proved off (see
    `hosts.late_starts`). job_id: the host's job that did it, if it did."""

    vm = ForeignKeyField(Vm, on_delete="CASCADE")
    vm_id: str
    host = ForeignKeyField(Host, on_delete="CASCADE")
    host_id: str
    job_id = TextField()

    class Meta:
        indexes = ((("vm", "host", "job_id"), True),)


class HostGuard(BaseModel):
    """How a host's guardian stood when the host was last asked. Without a row it was never to guard anything.

    term: names one life of the guardian, "" unless it guards; pool_id: the pool of the lease; ends_within_s: how soon
    after its last sign of life the VMs are ended; reason: why it does not guard, for people.
    """

    host = ForeignKeyField(Host, unique=True, on_delete="CASCADE")
    host_id: str
    state = enum_column(GuardState, GuardState.OFF)
    term = TextField(default="")
    pool_id = TextField(default="")
    ends_within_s = FloatField(default=0.0)
    reason = TextField(default="")


class HostPower(BaseModel):
    """A host that is switched off to save power, or is about to be, or is about to return; it is in maintenance.

    automatic: nobody asked for it, so nobody has to end its maintenance; operation_id: the latest that empties or
    switches it.
    """

    host = ForeignKeyField(Host, unique=True, on_delete="CASCADE")
    host_id: str
    state = enum_column(SwitchState, SwitchState.SWITCHING_OFF)
    state_time = DateTimeField(default=now)
    automatic = BooleanField(default=False)
    operation_id = TextField(default="")


class VmPriority(BaseModel):
    """A VM's own priority; without a row its service offering's counts."""

    vm = ForeignKeyField(Vm, unique=True, on_delete="CASCADE")
    vm_id: str
    priority = enum_column(Priority)


class OfferingPriority(BaseModel):
    """The priority of the VMs of a service offering; without a row they are not protected."""

    service_offering = ForeignKeyField(ServiceOffering, unique=True, on_delete="CASCADE")
    service_offering_id: str
    priority = enum_column(Priority)


class VmRestart(BaseModel):
    """A protected VM whose host was proved off, until it runs again.

    lost_host_id: that host; operation_id: of the latest start; attempts: starts that failed; reason: why it waits.
    """

    vm = ForeignKeyField(Vm, unique=True, on_delete="CASCADE")
    vm_id: str
    lost_host_id = TextField()
    priority = enum_column(Priority)
    operation_id = TextField(default="")
    attempts = IntegerField(default=0)
    next_time = DateTimeField(default=now)
    reason = TextField(default="")
