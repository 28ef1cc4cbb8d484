"""Labels, a table for each kind of object that has them, and descriptions of VMs."""

from __future__ import annotations

from peewee import ForeignKeyField, TextField

from ostler_control.models.backups import Backup
from ostler_control.models.base import BaseModel
from ostler_control.models.isos import Iso
from ostler_control.models.machines import Network, Vm
from ostler_control.models.places import Cluster, Host, Zone
from ostler_control.models.storage import Pool, Snapshot, Template, Volume
from ostler_control.models.vm_snapshots import VmSnapshot


class VmDescription(BaseModel):
    """What people say about a VM; a VM without a description has no row."""

    vm = ForeignKeyField(Vm, unique=True, on_delete="CASCADE")
    vm_id: str
    text = TextField()


class VmLabel(BaseModel):
    """A label of a VM."""

    object = ForeignKeyField(Vm, backref="labels", on_delete="CASCADE")
    object_id: str
    key = TextField()
    value = TextField()

    class Meta:
        indexes = ((("object", "key"), True), (("key", "value"), False))


class VolumeLabel(BaseModel):
    """A label of a volume."""

    object = ForeignKeyField(Volume, backref="labels", on_delete="CASCADE")
    object_id: str
    key = TextField()
    value = TextField()

    class Meta:
        indexes = ((("object", "key"), True), (("key", "value"), False))


class HostLabel(BaseModel):
    """A label of a host."""

    object = ForeignKeyField(Host, backref="labels", on_delete="CASCADE")
    object_id: str
    key = TextField()
    value = TextField()

    class Meta:
        indexes = ((("object", "key"), True), (("key", "value"), False))


class TemplateLabel(BaseModel):
    """A label of a template."""

    object = ForeignKeyField(Template, backref="labels", on_delete="CASCADE")
    object_id: str
    key = TextField()
    value = TextField()

    class Meta:
        indexes = ((("object", "key"), True), (("key", "value"), False))


class ClusterLabel(BaseModel):
    """A label of a cluster."""

    object = ForeignKeyField(Cluster, backref="labels", on_delete="CASCADE")
    object_id: str
    key = TextField()
    value = TextField()

    class Meta:
        indexes = ((("object", "key"), True), (("key", "value"), False))


class NetworkLabel(BaseModel):
    """A label of a network."""

    object = ForeignKeyField(Network, backref="labels", on_delete="CASCADE")
    object_id: str
    key = TextField()
    value = TextField()

    class Meta:
        indexes = ((("object", "key"), True), (("key", "value"), False))


class PoolLabel(BaseModel):
    """A label of a pool."""

    object = ForeignKeyField(Pool, backref="labels", on_delete="CASCADE")
    object_id: str
    key = TextField()
    value = TextField()

    class Meta:
        indexes = ((("object", "key"), True), (("key", "value"), False))


class SnapshotLabel(BaseModel):
    """A label of a snapshot."""

    object = ForeignKeyField(Snapshot, backref="labels", on_delete="CASCADE")
    object_id: str
    key = TextField()
    value = TextField()

    class Meta:
        indexes = ((("object", "key"), True), (("key", "value"), False))


class VmSnapshotLabel(BaseModel):
    """A label of a VM's snapshot."""

    object = ForeignKeyField(VmSnapshot, backref="labels", on_delete="CASCADE")
    object_id: str
    key = TextField()
    value = TextField()

    class Meta:
        indexes = ((("object", "key"), True), (("key", "value"), False))


class ZoneLabel(BaseModel):
    """A label of a zone."""

    object = ForeignKeyField(Zone, backref="labels", on_delete="CASCADE")
    object_id: str
    key = TextField()
    value = TextField()

    class Meta:
        indexes = ((("object", "key"), True), (("key", "value"), False))


class IsoLabel(BaseModel):
    """A label of an ISO image."""

    object = ForeignKeyField(Iso, backref="labels", on_delete="CASCADE")
    object_id: str
    key = TextField()
    value = TextField()

    class Meta:
        indexes = ((("object", "key"), True), (("key", "value"), False))


class BackupLabel(BaseModel):
    """A label of a backup."""

    object = ForeignKeyField(Backup, backref="labels", on_delete="CASCADE")
    object_id: str
    key = TextField()
    value = TextField()

    class Meta:
        indexes = ((("object", "key"), True), (("key", "value"), False))
