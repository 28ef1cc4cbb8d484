"""Service offerings, VMs and their network interfaces."""

from __future__ import annotations

from peewee import BigIntegerField, BlobField, BooleanField, DateTimeField, ForeignKeyField, IntegerField, TextField

from ostler_control.models.base import BaseModel, now
from ostler_control.models.enum_columns import enum_column
from ostler_control.models.people import Account
from ostler_control.models.places import Host, Zone
from ostler_control.models.storage import Passphrase, Template
from ostler_control.states import PowerState, VmState


class ServiceOffering(BaseModel):
    """A size and kind of VM. retire_time: since when it cannot be chosen; VMs that have it keep it."""

    name = TextField()
    cpus = IntegerField()
    memory_bytes = BigIntegerField()
    encrypt_root = BooleanField(default=False)
    retire_time = DateTimeField(null=True)


# The name of a retired offering is free again.
ServiceOffering.add_index(
    ServiceOffering.index(
        ServiceOffering.name,
        unique=True,
        where=ServiceOffering.retire_time.is_null(),
        name="service_offering_live_name",
    )
)


class OfferingMaximum(BaseModel):
    """What VMs of a service offering may get while they run; one without a row: no more than they have."""

    service_offering = ForeignKeyField(ServiceOffering, unique=True, on_delete="CASCADE")
    service_offering_id: str
    cpus = IntegerField()
    memory_bytes = BigIntegerField()


class Vm(BaseModel):
    """A virtual machine.

    state: what Ostler has done with it; power_state: what its host reports;
    hypervisor_type: the type that it was created on, and stays on;
    host: where its capacity is claimed (null: nowhere); last_host: where its definition was last;
    destination: the host whose capacity is claimed too while it migrates;
    operation_id: the operation that holds it, else "";
    drs_skip: DRS leaves it where it is; move_time: when it last arrived by live migration.
    """

    name = TextField()
    account = ForeignKeyField(Account, backref="vms", on_delete="RESTRICT")
    account_id: str
    service_offering = ForeignKeyField(ServiceOffering, on_delete="RESTRICT")
    service_offering_id: str
    template = ForeignKeyField(Template, null=True, on_delete="SET NULL")
    template_id: str | None
    template_name = TextField(default="")
    cpus = IntegerField()
    memory_bytes = BigIntegerField()
    firmware = TextField(default="bios")
    hypervisor_type = TextField(default="")
    state = enum_column(VmState, VmState.CREATING, index=True)
    state_time = DateTimeField(default=now)
    power_state = enum_column(PowerState, PowerState.UNKNOWN)
    attention = TextField(default="")
    host = ForeignKeyField(Host, null=True, backref="vms", on_delete="RESTRICT")
    host_id: str | None
    last_host = ForeignKeyField(Host, null=True, backref="past_vms", on_delete="SET NULL")
    last_host_id: str | None
    destination = ForeignKeyField(Host, null=True, backref="incoming_vms", on_delete="RESTRICT")
    destination_id: str | None
    operation_id = TextField(default="", index=True)
    drs_skip = BooleanField(default=False)
    move_time = DateTimeField(null=True)

    class Meta:
        indexes = ((("account", "name"), True),)


class VmMaximum(BaseModel):
    """What a VM may get while it runs, as it last started; one without a row: no more than it has."""

    vm = ForeignKeyField(Vm, unique=True, on_delete="CASCADE")
    vm_id: str
    cpus = IntegerField()
    memory_bytes = BigIntegerField()


class VmMachine(BaseModel):
    """The machine type that a VM keeps since its first start; one without a row gets the newest at its next."""

    vm = ForeignKeyField(Vm, unique=True, on_delete="CASCADE")
    vm_id: str
    machine = TextField()


class VmTpm(BaseModel):
    """A VM's emulated TPM. passphrase: encrypts its state on the host (the associated data is this row's id)."""

    vm = ForeignKeyField(Vm, unique=True, on_delete="CASCADE")
    vm_id: str
    passphrase = ForeignKeyField(Passphrase, unique=True, on_delete="RESTRICT")
    passphrase_id: str

    @property
    def name(self) -> str:
        """Its VM's."""
        return str(self.vm.name)


class VmFirmwareState(BaseModel):
    """The last copy of what a VM's firmware keeps on its host: UEFI variables, and the state of its TPM.

    state_id: of this copy, for hosts; sealed: encrypted under the passphrase (the associated data of both is the row's
    id); sha256: of what is sealed, hex; overwrite: its next host has none, or an older one; copy_time: when it was
    read.
    """

    vm = ForeignKeyField(Vm, unique=True, on_delete="CASCADE")
    vm_id: str
    passphrase = ForeignKeyField(Passphrase, unique=True, on_delete="RESTRICT")
    passphrase_id: str
    state_id = TextField()
    sealed = BlobField()
    sha256 = TextField()
    overwrite = BooleanField(default=False)
    copy_time = DateTimeField(default=now)

    @property
    def name(self) -> str:
        """Its VM's."""
        return str(self.vm.name)


class VmSighting(BaseModel):
    """A host on which a VM was last seen running although Ostler did not place it there.

    The row stays until that host reports that the VM does not run there any more, whatever Ostler does meanwhile.
    """

    vm = ForeignKeyField(Vm, backref="sightings", on_delete="CASCADE")
    vm_id: str
    host = ForeignKeyField(Host, backref="sightings", on_delete="CASCADE")
    host_id: str

    class Meta:
        indexes = ((("vm", "host"), True),)


class VmAbsence(BaseModel):
    """A VM that a host was last seen not to run, in its answer to a job or question: which moment of the agent."""

    vm = ForeignKeyField(Vm, backref="absences", on_delete="CASCADE")
    vm_id: str
    host = ForeignKeyField(Host, backref="absences", on_delete="CASCADE")
    host_id: str
    life = BigIntegerField()
    number = BigIntegerField()

    class Meta:
        indexes = ((("vm", "host"), True),)


class Network(BaseModel):
    """A bridge on the hosts of a zone. vlan 0: untagged; mtu 0: the bridge's; spoof_filter: hosts drop frames of a VM
    that have another sender; all_accounts: every account may use it, else those of `NetworkAccount`."""

    name = TextField(unique=True)
    zone = ForeignKeyField(Zone, backref="networks", on_delete="RESTRICT")
    zone_id: str
    bridge = TextField()
    vlan = IntegerField(default=0)
    mtu = IntegerField(default=0)
    spoof_filter = BooleanField(default=True)
    all_accounts = BooleanField(default=False)


class NetworkAccount(BaseModel):
    """An account that may use a network."""

    network = ForeignKeyField(Network, backref="allowed", on_delete="CASCADE")
    network_id: str
    account = ForeignKeyField(Account, backref="networks", on_delete="CASCADE")
    account_id: str

    class Meta:
        indexes = ((("network", "account"), True),)


class Nic(BaseModel):
    """A network interface. position: order in the VM, from 0."""

    vm = ForeignKeyField(Vm, backref="nics", on_delete="CASCADE")
    vm_id: str
    position = IntegerField()
    mac = TextField(unique=True)
    network = ForeignKeyField(Network, backref="nics", on_delete="RESTRICT")
    network_id: str
    model = TextField(default="virtio")

    class Meta:
        indexes = ((("vm", "position"), True),)


class NicDown(BaseModel):
    """A network interface whose link is down; one without a row has its link up."""

    nic = ForeignKeyField(Nic, unique=True, on_delete="CASCADE")
    nic_id: str
