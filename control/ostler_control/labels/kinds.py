"""The kinds of objects that have labels: the one list that the API, the rows of labels and their events read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ostler_control.models import (
    Account,
    AccountLabel,
    AffinityGroup,
    AffinityGroupLabel,
    Backup,
    BackupLabel,
    BackupSchedule,
    BackupScheduleLabel,
    BaseModel,
    Cluster,
    ClusterLabel,
    DiskOffering,
    DiskOfferingLabel,
    Host,
    HostLabel,
    ImportPlan,
    ImportPlanLabel,
    ImportSource,
    ImportSourceLabel,
    Iso,
    IsoLabel,
    Kek,
    KekLabel,
    Label,
    Network,
    NetworkLabel,
    Pool,
    PoolLabel,
    ServiceOffering,
    ServiceOfferingLabel,
    Snapshot,
    SnapshotLabel,
    SnapshotSchedule,
    SnapshotScheduleLabel,
    Template,
    TemplateLabel,
    User,
    UserData,
    UserDataLabel,
    UserLabel,
    Vm,
    VmLabel,
    VmSnapshot,
    VmSnapshotLabel,
    VmSnapshotSchedule,
    VmSnapshotScheduleLabel,
    Volume,
    VolumeLabel,
    Zone,
    ZoneLabel,
)


@dataclass(frozen=True)
class Kind:
    """One kind.

    table: its labels, which go with the object; field: of UpdateLabelsRequest's `object`; noun: of its events;
    of_account: whether an account owns it, whose members label it then; others are for admins; subject: the column of
    what its name and account are those of, "": itself.
    """

    model: type[BaseModel]
    table: type[Label]
    field: str
    noun: str
    of_account: bool = False
    subject: str = ""

    @property
    def not_found(self) -> str:
        """The reason code for one that is gone."""
        return "KEK_NOT_FOUND" if self.model is Kek else f"{self.field.upper()}_NOT_FOUND"


KINDS = (
    Kind(Vm, VmLabel, "vm", "vm", of_account=True),
    Kind(Volume, VolumeLabel, "volume", "volume", of_account=True),
    Kind(Snapshot, SnapshotLabel, "snapshot", "snapshot", of_account=True),
    Kind(VmSnapshot, VmSnapshotLabel, "vm_snapshot", "vm-snapshot", of_account=True),
    Kind(Backup, BackupLabel, "backup", "backup", of_account=True),
    Kind(Host, HostLabel, "host", "host"),
    Kind(Template, TemplateLabel, "template", "template"),
    Kind(Iso, IsoLabel, "iso", "iso"),
    Kind(Pool, PoolLabel, "pool", "pool"),
    Kind(Network, NetworkLabel, "network", "network"),
    Kind(Cluster, ClusterLabel, "cluster", "cluster"),
    Kind(Zone, ZoneLabel, "zone", "zone"),
    Kind(ImportSource, ImportSourceLabel, "import_source", "import-source"),
    Kind(ImportPlan, ImportPlanLabel, "import_plan", "import-plan"),
    Kind(Account, AccountLabel, "account", "account"),
    Kind(User, UserLabel, "user", "user"),
    Kind(Kek, KekLabel, "key", "key"),
    Kind(ServiceOffering, ServiceOfferingLabel, "service_offering", "service_offering"),
    Kind(DiskOffering, DiskOfferingLabel, "disk_offering", "disk_offering"),
    Kind(
        *(SnapshotSchedule, SnapshotScheduleLabel, "snapshot_schedule", "snapshot_schedule"),
        of_account=True,
        subject="volume",
    ),
    Kind(
        *(VmSnapshotSchedule, VmSnapshotScheduleLabel, "vm_snapshot_schedule", "vm_snapshot_schedule"),
        of_account=True,
        subject="vm",
    ),
    Kind(
        *(BackupSchedule, BackupScheduleLabel, "backup_schedule", "backup_schedule"),
        of_account=True,
        subject="vm",
    ),
    Kind(UserData, UserDataLabel, "user_data", "userdata", of_account=True),
    Kind(AffinityGroup, AffinityGroupLabel, "affinity_group", "affinity_group", of_account=True),
)
OF_MODEL: Mapping[type[BaseModel], Kind] = {kind.model: kind for kind in KINDS}
OF_FIELD: Mapping[str, Kind] = {kind.field: kind for kind in KINDS}
