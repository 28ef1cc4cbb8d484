"""Adds labels of offerings, user data, affinity groups, schedules, import sources and plans, accounts, users, keys."""

from __future__ import annotations

import datetime
import uuid
from typing import Any

from peewee import DateTimeField, ForeignKeyField, Model, TextField


class Base(Model):
    id: Any = TextField(primary_key=True, default=lambda: str(uuid.uuid4()))
    create_time: Any = DateTimeField(
        default=lambda: datetime.datetime.now(datetime.UTC).replace(tzinfo=None), index=True
    )

    class Meta:
        legacy_table_names = False


class ServiceOffering(Base):
    pass


class DiskOffering(Base):
    pass


class UserData(Base):
    pass


class AffinityGroup(Base):
    pass


class SnapshotSchedule(Base):
    pass


class VmSnapshotSchedule(Base):
    pass


class BackupSchedule(Base):
    pass


class ImportSource(Base):
    pass


class ImportPlan(Base):
    pass


class Account(Base):
    pass


class User(Base):
    pass


class Kek(Base):
    pass


class ServiceOfferingLabel(Base):
    object: Any = ForeignKeyField(ServiceOffering, on_delete="CASCADE")
    key: Any = TextField()
    value: Any = TextField()

    class Meta:
        indexes = ((("object", "key"), True), (("key", "value"), False))


class DiskOfferingLabel(Base):
    object: Any = ForeignKeyField(DiskOffering, on_delete="CASCADE")
    key: Any = TextField()
    value: Any = TextField()

    class Meta:
        indexes = ((("object", "key"), True), (("key", "value"), False))


class UserDataLabel(Base):
    object: Any = ForeignKeyField(UserData, on_delete="CASCADE")
    key: Any = TextField()
    value: Any = TextField()

    class Meta:
        indexes = ((("object", "key"), True), (("key", "value"), False))


class AffinityGroupLabel(Base):
    object: Any = ForeignKeyField(AffinityGroup, on_delete="CASCADE")
    key: Any = TextField()
    value: Any = TextField()

    class Meta:
        indexes = ((("object", "key"), True), (("key", "value"), False))


class SnapshotScheduleLabel(Base):
    object: Any = ForeignKeyField(SnapshotSchedule, on_delete="CASCADE")
    key: Any = TextField()
    value: Any = TextField()

    class Meta:
        indexes = ((("object", "key"), True), (("key", "value"), False))


class VmSnapshotScheduleLabel(Base):
    object: Any = ForeignKeyField(VmSnapshotSchedule, on_delete="CASCADE")
    key: Any = TextField()
    value: Any = TextField()

    class Meta:
        indexes = ((("object", "key"), True), (("key", "value"), False))


class BackupScheduleLabel(Base):
    object: Any = ForeignKeyField(BackupSchedule, on_delete="CASCADE")
    key: Any = TextField()
    value: Any = TextField()

    class Meta:
        indexes = ((("object", "key"), True), (("key", "value"), False))


class ImportSourceLabel(Base):
    object: Any = ForeignKeyField(ImportSource, on_delete="CASCADE")
    key: Any = TextField()
    value: Any = TextField()

    class Meta:
        indexes = ((("object", "key"), True), (("key", "value"), False))


class ImportPlanLabel(Base):
    object: Any = ForeignKeyField(ImportPlan, on_delete="CASCADE")
    key: Any = TextField()
    value: Any = TextField()

    class Meta:
        indexes = ((("object", "key"), True), (("key", "value"), False))


class AccountLabel(Base):
    object: Any = ForeignKeyField(Account, on_delete="CASCADE")
    key: Any = TextField()
    value: Any = TextField()

    class Meta:
        indexes = ((("object", "key"), True), (("key", "value"), False))


class UserLabel(Base):
    object: Any = ForeignKeyField(User, on_delete="CASCADE")
    key: Any = TextField()
    value: Any = TextField()

    class Meta:
        indexes = ((("object", "key"), True), (("key", "value"), False))


class KekLabel(Base):
    object: Any = ForeignKeyField(Kek, on_delete="CASCADE")
    key: Any = TextField()
    value: Any = TextField()

    class Meta:
        indexes = ((("object", "key"), True), (("key", "value"), False))


OLD = (
    ServiceOffering,
    DiskOffering,
    UserData,
    AffinityGroup,
    SnapshotSchedule,
    VmSnapshotSchedule,
    BackupSchedule,
    ImportSource,
    ImportPlan,
    Account,
    User,
    Kek,
)
NEW = (
    ServiceOfferingLabel,
    DiskOfferingLabel,
    UserDataLabel,
    AffinityGroupLabel,
    SnapshotScheduleLabel,
    VmSnapshotScheduleLabel,
    BackupScheduleLabel,
    ImportSourceLabel,
    ImportPlanLabel,
    AccountLabel,
    UserLabel,
    KekLabel,
)


# Any: Peewee's database, whichever it is.
def up(migrator: object, db: Any) -> None:
    with db.bind_ctx((*OLD, *NEW)):
        db.create_tables(NEW, safe=False)
