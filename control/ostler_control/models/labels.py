"""Labels, a table for each kind of object that has them, and descriptions of VMs."""

from __future__ import annotations

from peewee import ForeignKeyField, TextField

from ostler_control.models.backups import Backup, BackupSchedule
from ostler_control.models.base import BaseModel
from ostler_control.models.drs import AffinityGroup
from ostler_control.models.import_plans import ImportPlan
from ostler_control.models.imports import ImportSource
from ostler_control.models.isos import Iso
from ostler_control.models.machines import Network, ServiceOffering, Vm
from ostler_control.models.people import Account, User
from ostler_control.models.places import Cluster, Host, Zone
from ostler_control.models.storage import DiskOffering, Kek, Pool, Snapshot, SnapshotSchedule, Template, Volume
from ostler_control.models.userdata import UserData
from ostler_control.models.vm_snapshots import VmSnapshot, VmSnapshotSchedule


class VmDescription(BaseModel):
    """What people say about a VM; a VM without a description has no row."""

    vm = ForeignKeyField(Vm, unique=True, on_delete="CASCADE")
    vm_id: str
    text = TextField()


class Label(BaseModel):
    """What the table of each kind has."""

    object: ForeignKeyField[BaseModel]
    object_id: str
    key: TextField[str]
    value: TextField[str]

    class Meta:
        indexes = ((("object", "key"), True), (("key", "value"), False))


class VmLabel(Label):
    """A label of a VM."""

    object = ForeignKeyField(Vm, backref="labels", on_delete="CASCADE")
    key = TextField()
    value = TextField()


class VolumeLabel(Label):
    """A label of a volume."""

    object = ForeignKeyField(Volume, backref="labels", on_delete="CASCADE")
    key = TextField()
    value = TextField()


class HostLabel(Label):
    """A label of a host."""

    object = ForeignKeyField(Host, backref="labels", on_delete="CASCADE")
    key = TextField()
    value = TextField()


class TemplateLabel(Label):
    """A label of a template."""

    object = ForeignKeyField(Template, backref="labels", on_delete="CASCADE")
    key = TextField()
    value = TextField()


class ClusterLabel(Label):
    """A label of a cluster."""

    object = ForeignKeyField(Cluster, backref="labels", on_delete="CASCADE")
    key = TextField()
    value = TextField()


class NetworkLabel(Label):
    """A label of a network."""

    object = ForeignKeyField(Network, backref="labels", on_delete="CASCADE")
    key = TextField()
    value = TextField()


class PoolLabel(Label):
    """A label of a pool."""

    object = ForeignKeyField(Pool, backref="labels", on_delete="CASCADE")
    key = TextField()
    value = TextField()


class SnapshotLabel(Label):
    """A label of a snapshot."""

    object = ForeignKeyField(Snapshot, backref="labels", on_delete="CASCADE")
    key = TextField()
    value = TextField()


class VmSnapshotLabel(Label):
    """A label of a VM's snapshot."""

    object = ForeignKeyField(VmSnapshot, backref="labels", on_delete="CASCADE")
    key = TextField()
    value = TextField()


class ZoneLabel(Label):
    """A label of a zone."""

    object = ForeignKeyField(Zone, backref="labels", on_delete="CASCADE")
    key = TextField()
    value = TextField()


class IsoLabel(Label):
    """A label of an ISO image."""

    object = ForeignKeyField(Iso, backref="labels", on_delete="CASCADE")
    key = TextField()
    value = TextField()


class BackupLabel(Label):
    """A label of a backup."""

    object = ForeignKeyField(Backup, backref="labels", on_delete="CASCADE")
    key = TextField()
    value = TextField()


class ServiceOfferingLabel(Label):
    """A label of a service offering."""

    object = ForeignKeyField(ServiceOffering, backref="labels", on_delete="CASCADE")
    key = TextField()
    value = TextField()


class DiskOfferingLabel(Label):
    """A label of a disk offering."""

    object = ForeignKeyField(DiskOffering, backref="labels", on_delete="CASCADE")
    key = TextField()
    value = TextField()


class UserDataLabel(Label):
    """A label of registered user data."""

    object = ForeignKeyField(UserData, backref="labels", on_delete="CASCADE")
    key = TextField()
    value = TextField()


class AffinityGroupLabel(Label):
    """A label of an affinity group."""

    object = ForeignKeyField(AffinityGroup, backref="labels", on_delete="CASCADE")
    key = TextField()
    value = TextField()


class SnapshotScheduleLabel(Label):
    """A label of a schedule of snapshots."""

    object = ForeignKeyField(SnapshotSchedule, backref="labels", on_delete="CASCADE")
    key = TextField()
    value = TextField()


class VmSnapshotScheduleLabel(Label):
    """A label of a schedule of snapshots of a VM."""

    object = ForeignKeyField(VmSnapshotSchedule, backref="labels", on_delete="CASCADE")
    key = TextField()
    value = TextField()


class BackupScheduleLabel(Label):
    """A label of a schedule of backups."""

    object = ForeignKeyField(BackupSchedule, backref="labels", on_delete="CASCADE")
    key = TextField()
    value = TextField()


class ImportSourceLabel(Label):
    """A label of an import source."""

    object = ForeignKeyField(ImportSource, backref="labels", on_delete="CASCADE")
    key = TextField()
    value = TextField()


class ImportPlanLabel(Label):
    """A label of an import plan."""

    object = ForeignKeyField(ImportPlan, backref="labels", on_delete="CASCADE")
    key = TextField()
    value = TextField()


class AccountLabel(Label):
    """A label of an account."""

    object = ForeignKeyField(Account, backref="labels", on_delete="CASCADE")
    key = TextField()
    value = TextField()


class UserLabel(Label):
    """A label of a user."""

    object = ForeignKeyField(User, backref="labels", on_delete="CASCADE")
    key = TextField()
    value = TextField()


class KekLabel(Label):
    """A label of a version of the key-encryption key."""

    object = ForeignKeyField(Kek, backref="labels", on_delete="CASCADE")
    key = TextField()
    value = TextField()
