"""User data: registered documents, what templates link, what VMs are given."""

from __future__ import annotations

from peewee import BlobField, ForeignKeyField, IntegerField, TextField

from ostler_control.models.base import BaseModel
from ostler_control.models.machines import Nic, Vm
from ostler_control.models.people import Account
from ostler_control.models.storage import Passphrase, Template


class UserData(BaseModel):
    """A registered document.

    sealed: the document, encrypted under its passphrase (the associated data of both is the row's id);
    variables: JSON list of names.
    """

    name = TextField()
    account = ForeignKeyField(Account, backref="user_data", on_delete="RESTRICT")
    account_id: str
    format = TextField()
    size_bytes = IntegerField()
    variables = TextField(default="[]")
    passphrase = ForeignKeyField(Passphrase, unique=True, on_delete="RESTRICT")
    passphrase_id: str
    sealed = BlobField()

    class Meta:
        indexes = ((("account", "name"), True),)


class TemplateUserData(BaseModel):
    """The user data that a template links. policy: ALLOWOVERRIDE | APPEND | DENYOVERRIDE."""

    template = ForeignKeyField(Template, unique=True, on_delete="CASCADE")
    template_id: str
    user_data = ForeignKeyField(UserData, backref="templates", on_delete="RESTRICT")
    user_data_id: str
    policy = TextField()


class VmUserData(BaseModel):
    """What a VM is given, and the finished user data that its guest gets.

    operation_id: the reinstallation that it waits for, "" for what holds now; instance: how often the VM has been
    reinstalled; sealed: what was given, and what came of it, as JSON (see `userdata.vm_user_data`), encrypted under the
    passphrase (the associated data of both is the row's id).
    """

    vm = ForeignKeyField(Vm, backref="user_data", on_delete="CASCADE")
    vm_id: str
    operation_id = TextField(default="")
    instance = IntegerField(default=0)
    passphrase = ForeignKeyField(Passphrase, unique=True, on_delete="RESTRICT")
    passphrase_id: str
    sealed = BlobField()

    class Meta:
        indexes = ((("vm", "operation_id"), True),)

    @property
    def name(self) -> str:
        """Its VM's."""
        return str(self.vm.name)


class NicAddressing(BaseModel):
    """The static addresses of a network interface; one without a row asks DHCP. Each is a JSON list of text.

    addresses: with their prefix ("192.0.2.10/24"); gateways, nameservers: plain.
    """

    nic = ForeignKeyField(Nic, unique=True, on_delete="CASCADE")
    nic_id: str
    addresses = TextField()
    gateways = TextField(default="[]")
    nameservers = TextField(default="[]")
