"""Where VMs are imported from, and the imports under way."""

from __future__ import annotations

from peewee import BigIntegerField, BooleanField, ForeignKeyField, IntegerField, TextField

from ostler_control.models.base import BaseModel
from ostler_control.models.machines import Vm
from ostler_control.models.storage import Passphrase, Pool


class ImportSource(BaseModel):
    """A server that VMs are imported from.

    type: "vmware" or "kvm"; address: host name or address, ":port" if it is not 443, for ssh 22, for libvirt's TLS
    16514; username: "" for TLS; ca_pem or thumbprint (SHA-256, hex): how its certificate is verified, "" for ssh (see
    `KvmSource`); passphrase: the password or private key (the associated data is the source's id).
    """

    name = TextField(unique=True)
    type = TextField()
    address = TextField()
    username = TextField()
    ca_pem = TextField(default="")
    thumbprint = TextField(default="")
    passphrase = ForeignKeyField(Passphrase, unique=True, on_delete="RESTRICT")
    passphrase_id: str


class KvmSource(BaseModel):
    """A source whose libvirt is reached through ssh. known_hosts: its host keys, as lines of ssh's known_hosts file."""

    source = ForeignKeyField(ImportSource, backref="kvm", unique=True, on_delete="CASCADE")
    source_id: str
    known_hosts = TextField()


class KvmTlsSource(BaseModel):
    """A source whose libvirt is reached through TLS. client_certificate: shown there, PEM with its chain."""

    source = ForeignKeyField(ImportSource, backref="kvm_tls", unique=True, on_delete="CASCADE")
    source_id: str
    client_certificate = TextField()


class VmImport(BaseModel):
    """An import under way: its hold on the source's VM and on space in the staging pool. It goes with its end.

    id: the operation's, and the staging directory's name; source: None for an import of files; source_ref: the source's
    id of the VM ("vm-12"), for files the operation's id;
    host_id: the host that converts; claimed_bytes: space that the exported files may take, 0 when nothing is staged.
    """

    source = ForeignKeyField(ImportSource, backref="imports", on_delete="RESTRICT", null=True)
    source_id: str | None
    source_ref = TextField()
    vm_id = TextField(index=True)
    pool = ForeignKeyField(Pool, backref="imports", on_delete="RESTRICT")
    pool_id: str
    host_id = TextField()
    claimed_bytes = BigIntegerField()

    class Meta:
        indexes = ((("source", "source_ref"), True),)


class ImportFile(BaseModel):
    """A file of an import that is whole in the staging pool, so that a later attempt need not fetch it again."""

    vm_import = ForeignKeyField(VmImport, backref="files", on_delete="CASCADE")
    vm_import_id: str
    name = TextField()
    size_bytes = BigIntegerField()
    sha1 = TextField()
    sha256 = TextField()

    class Meta:
        indexes = ((("vm_import", "name"), True),)


class ImportDiskPassphrase(BaseModel):
    """What opens a disk that LUKS encrypts at its source, until it is copied. disk_key: see `SourceVm`."""

    vm_import = ForeignKeyField(VmImport, backref="disk_passphrases", on_delete="CASCADE")
    vm_import_id: str
    disk_key = IntegerField()
    passphrase = ForeignKeyField(Passphrase, unique=True, on_delete="RESTRICT")
    passphrase_id: str

    class Meta:
        indexes = ((("vm_import", "disk_key"), True),)

    @property
    def name(self) -> str:
        """What it is called in reports."""
        return f"disk {self.disk_key} of import {self.vm_import_id}"


class WarmImport(BaseModel):
    """What a warm import has done at its source, and whether its cut-over was asked for.

    enabled_tracking: Ostler turned changed block tracking on; shut_down: Ostler shuts, or has shut, the guest down,
    and starts it again if the import fails.
    """

    vm_import = ForeignKeyField(VmImport, backref="warm", unique=True, on_delete="CASCADE")
    vm_import_id: str
    cut_over = BooleanField(default=False)
    enabled_tracking = BooleanField(default=False)
    shut_down = BooleanField(default=False)


class VmOrigin(BaseModel):
    """Where an imported VM came from, and what its source knew of the guest.

    source_name, source_vm, source_ref: of the import source, the VM there and its id; guest_id: VMware's word
    ("ubuntu64Guest"); guest_os: Ostler's ("ubuntu").
    """

    vm = ForeignKeyField(Vm, backref="origins", unique=True, on_delete="CASCADE")
    vm_id: str
    source_name = TextField()
    source_vm = TextField()
    source_ref = TextField()
    guest_id = TextField(default="")
    guest_os = TextField(default="")
