"""The first schema: a frozen copy of the models, in one file, which never changes after the first release."""

from __future__ import annotations

import datetime
import uuid
from typing import Any

from peewee import (
    BigIntegerField,
    BlobField,
    BooleanField,
    Database,
    DateTimeField,
    DoubleField,
    ForeignKeyField,
    IntegerField,
    Model,
    TextField,
)


def new_id() -> str:
    """A new object's UUID."""
    return str(uuid.uuid4())


def now() -> datetime.datetime:
    """The present moment, UTC, without a zone: how every timestamp is stored."""
    return datetime.datetime.now(datetime.UTC).replace(tzinfo=None)


class BaseModel(Model):
    """Every table: a UUID as text, and when the row was made."""

    id: Any = TextField(primary_key=True, default=new_id)
    create_time: Any = DateTimeField(default=now, index=True)

    class Meta:
        legacy_table_names = False


class Account(BaseModel):
    name: Any = TextField(unique=True)


class User(BaseModel):
    name: Any = TextField(unique=True)
    role: Any = TextField()
    account: Any = ForeignKeyField(Account, on_delete="RESTRICT")


class Certificate(BaseModel):
    serial: Any = TextField(unique=True)
    ca: Any = TextField()
    kind: Any = TextField()
    name: Any = TextField(index=True)
    expire_time: Any = DateTimeField()
    revoke_time: Any = DateTimeField(null=True)


class JoinToken(BaseModel):
    digest: Any = TextField(unique=True)
    cluster_id: Any = TextField()
    host_id: Any = TextField(default="")
    expire_time: Any = DateTimeField()
    use_time: Any = DateTimeField(null=True)


class Zone(BaseModel):
    name: Any = TextField(unique=True)


class Cluster(BaseModel):
    name: Any = TextField()
    zone: Any = ForeignKeyField(Zone, on_delete="RESTRICT")
    hypervisor_type: Any = TextField(default="")
    cpu_overcommit: Any = DoubleField(default=1.0)
    memory_overcommit: Any = DoubleField(default=1.0)
    enabled: Any = BooleanField(default=True)

    class Meta:
        indexes = ((("zone", "name"), True),)


class HypervisorType(BaseModel):
    type: Any = TextField(unique=True)
    display_name: Any = TextField(default="")
    template_formats: Any = TextField(default="")
    functions: Any = TextField(default="")


class Host(BaseModel):
    name: Any = TextField()
    address: Any = TextField()
    cluster: Any = ForeignKeyField(Cluster, on_delete="RESTRICT")
    state: Any = TextField(default="connecting")
    state_reason: Any = TextField(default="")
    state_time: Any = DateTimeField(default=now)
    enabled: Any = BooleanField(default=True)
    maintenance: Any = BooleanField(default=False)
    maintenance_reason: Any = TextField(default="")
    removed: Any = BooleanField(default=False)
    agent_version: Any = TextField(default="")
    hypervisor_type: Any = TextField(default="")
    cpus: Any = IntegerField(default=0)
    memory_bytes: Any = BigIntegerField(default=0)
    volume_encryption: Any = BooleanField(default=False)
    uefi: Any = BooleanField(default=False)
    bridges: Any = TextField(default="")
    template_formats: Any = TextField(default="")
    functions: Any = TextField(default="")
    allocated_cpus: Any = IntegerField(default=0)
    allocated_memory_bytes: Any = BigIntegerField(default=0)
    capabilities: Any = TextField(default="")
    load: Any = TextField(default="")
    smooth_load: Any = TextField(default="")


Host.add_index(Host.index(Host.name, unique=True, where=~Host.removed, name="host_live_name"))


class UnmanagedVm(BaseModel):
    host: Any = ForeignKeyField(Host, on_delete="CASCADE")
    vm_uuid: Any = TextField()
    name: Any = TextField()
    power_state: Any = TextField()
    cpus: Any = IntegerField(default=0)
    memory_bytes: Any = BigIntegerField(default=0)

    class Meta:
        indexes = ((("host", "vm_uuid"), True),)


class Kek(BaseModel):
    name: Any = TextField()
    current: Any = BooleanField(default=False)
    operation_id: Any = TextField(default="")


Kek.add_index(Kek.index(Kek.current, unique=True, where=Kek.current, name="kek_current"))


class Passphrase(BaseModel):
    kek: Any = ForeignKeyField(Kek, backref="passphrases", on_delete="RESTRICT")
    sealed: Any = BlobField()
    bound_id: Any = TextField(index=True)


class Pool(BaseModel):
    name: Any = TextField(unique=True)
    type: Any = TextField()
    scope: Any = TextField()
    scope_id: Any = TextField(index=True)
    path: Any = TextField(default="")
    source: Any = TextField(default="")
    options: Any = TextField(default="{}")
    shared: Any = BooleanField(default=False)
    encryption: Any = BooleanField(default=False)
    fingerprint: Any = TextField(default="")
    capacity_bytes: Any = BigIntegerField(default=0)
    available_bytes: Any = BigIntegerField(default=0)
    measure_time: Any = DateTimeField(null=True)
    passphrase: Any = ForeignKeyField(Passphrase, null=True, unique=True, on_delete="RESTRICT")


class PoolHost(BaseModel):
    pool: Any = ForeignKeyField(Pool, on_delete="CASCADE")
    host: Any = ForeignKeyField(Host, on_delete="CASCADE")
    reachable: Any = BooleanField(default=False)
    reason: Any = TextField(default="")

    class Meta:
        indexes = ((("pool", "host"), True),)


class Template(BaseModel):
    name: Any = TextField(unique=True)
    format: Any = TextField()
    firmware: Any = TextField(default="bios")
    hypervisor_type: Any = TextField(default="")
    virtual_size_bytes: Any = BigIntegerField()
    file_size_bytes: Any = BigIntegerField()
    sha256: Any = TextField(default="")
    sha512: Any = TextField(default="")
    url: Any = TextField(default="")
    ca_pem: Any = TextField(default="")
    passphrase: Any = ForeignKeyField(Passphrase, null=True, unique=True, on_delete="RESTRICT")


class DiskOffering(BaseModel):
    name: Any = TextField()
    size_bytes: Any = BigIntegerField(default=0)
    encrypt: Any = BooleanField(default=False)
    provisioning: Any = TextField(default="thin")
    format: Any = TextField(default="qcow2")
    retire_time: Any = DateTimeField(null=True)


DiskOffering.add_index(
    DiskOffering.index(
        DiskOffering.name, unique=True, where=DiskOffering.retire_time.is_null(), name="disk_offering_live_name"
    )
)


class Volume(BaseModel):
    name: Any = TextField()
    account: Any = ForeignKeyField(Account, on_delete="RESTRICT")
    pool: Any = ForeignKeyField(Pool, on_delete="RESTRICT")
    file_id: Any = TextField(unique=True)
    disk_offering: Any = ForeignKeyField(DiskOffering, null=True, on_delete="RESTRICT")
    template: Any = ForeignKeyField(Template, null=True, on_delete="SET NULL")
    passphrase: Any = ForeignKeyField(Passphrase, null=True, unique=True, on_delete="RESTRICT")
    state: Any = TextField(default="creating", index=True)
    state_reason: Any = TextField(default="")
    size_bytes: Any = BigIntegerField()
    format: Any = TextField(default="qcow2")
    provisioning: Any = TextField(default="thin")
    encrypt_format: Any = TextField(default="")
    root: Any = BooleanField(default=False)
    vm_id: Any = TextField(default="", index=True)
    slot: Any = IntegerField(default=-1)
    operation_id: Any = TextField(default="")
    update_time: Any = DateTimeField(default=now)

    class Meta:
        indexes = ((("account", "name"), True),)


class VolumeFile(BaseModel):
    volume_id: Any = TextField(index=True)
    role: Any = TextField()
    operation_id: Any = TextField(index=True)
    pool: Any = ForeignKeyField(Pool, on_delete="RESTRICT")
    passphrase: Any = ForeignKeyField(Passphrase, null=True, unique=True, on_delete="RESTRICT")
    format: Any = TextField(default="qcow2")
    provisioning: Any = TextField(default="thin")
    encrypt_format: Any = TextField(default="")
    size_bytes: Any = BigIntegerField()


class SnapshotSchedule(BaseModel):
    volume: Any = ForeignKeyField(Volume, on_delete="CASCADE")
    interval: Any = TextField()
    minute: Any = IntegerField(default=0)
    hour: Any = IntegerField(default=0)
    day: Any = IntegerField(default=1)
    keep: Any = IntegerField()
    next_time: Any = DateTimeField(index=True)
    last_error: Any = TextField(default="")


class Snapshot(BaseModel):
    name: Any = TextField()
    account: Any = ForeignKeyField(Account, on_delete="RESTRICT")
    volume_id: Any = TextField(index=True)
    schedule: Any = ForeignKeyField(SnapshotSchedule, null=True, on_delete="SET NULL")
    pool: Any = ForeignKeyField(Pool, on_delete="RESTRICT")
    passphrase: Any = ForeignKeyField(Passphrase, null=True, unique=True, on_delete="RESTRICT")
    state: Any = TextField(default="creating", index=True)
    state_reason: Any = TextField(default="")
    size_bytes: Any = BigIntegerField()
    format: Any = TextField(default="qcow2")
    encrypt_format: Any = TextField(default="")
    online: Any = BooleanField(default=False)
    operation_id: Any = TextField(default="")

    class Meta:
        indexes = ((("account", "name"), True),)


class ServiceOffering(BaseModel):
    name: Any = TextField()
    cpus: Any = IntegerField()
    memory_bytes: Any = BigIntegerField()
    encrypt_root: Any = BooleanField(default=False)
    retire_time: Any = DateTimeField(null=True)


ServiceOffering.add_index(
    ServiceOffering.index(
        ServiceOffering.name,
        unique=True,
        where=ServiceOffering.retire_time.is_null(),
        name="service_offering_live_name",
    )
)


class Vm(BaseModel):
    name: Any = TextField()
    account: Any = ForeignKeyField(Account, on_delete="RESTRICT")
    service_offering: Any = ForeignKeyField(ServiceOffering, on_delete="RESTRICT")
    template: Any = ForeignKeyField(Template, null=True, on_delete="SET NULL")
    template_name: Any = TextField(default="")
    cpus: Any = IntegerField()
    memory_bytes: Any = BigIntegerField()
    firmware: Any = TextField(default="bios")
    hypervisor_type: Any = TextField(default="")
    state: Any = TextField(default="creating", index=True)
    state_time: Any = DateTimeField(default=now)
    power_state: Any = TextField(default="")
    attention: Any = TextField(default="")
    host: Any = ForeignKeyField(Host, null=True, on_delete="RESTRICT")
    last_host: Any = ForeignKeyField(Host, null=True, on_delete="SET NULL")
    destination: Any = ForeignKeyField(Host, null=True, on_delete="RESTRICT")
    operation_id: Any = TextField(default="")
    drs_skip: Any = BooleanField(default=False)
    move_time: Any = DateTimeField(null=True)

    class Meta:
        indexes = ((("account", "name"), True),)


class Nic(BaseModel):
    vm: Any = ForeignKeyField(Vm, on_delete="CASCADE")
    position: Any = IntegerField()
    mac: Any = TextField(unique=True)
    bridge: Any = TextField()
    model: Any = TextField(default="virtio")

    class Meta:
        indexes = ((("vm", "position"), True),)


class AffinityGroup(BaseModel):
    name: Any = TextField()
    account: Any = ForeignKeyField(Account, on_delete="RESTRICT")
    kind: Any = TextField()
    strict: Any = BooleanField(default=True)

    class Meta:
        indexes = ((("account", "name"), True),)


class AffinityMember(BaseModel):
    group: Any = ForeignKeyField(AffinityGroup, on_delete="CASCADE")
    vm: Any = ForeignKeyField(Vm, on_delete="CASCADE")

    class Meta:
        indexes = ((("group", "vm"), True),)


class DrsPlan(BaseModel):
    name: Any = TextField(unique=True)
    cluster: Any = ForeignKeyField(Cluster, on_delete="CASCADE")
    type: Any = TextField()
    mode: Any = TextField()
    state: Any = TextField(default="under_review")
    state_time: Any = DateTimeField(default=now)
    user: Any = TextField()
    algorithm: Any = TextField(default="")
    explanation: Any = TextField(default="")
    outcome: Any = TextField(default="")
    imbalance_before: Any = DoubleField(default=0.0)
    imbalance_after: Any = DoubleField(default=0.0)
    host_id: Any = TextField(default="")
    operation_id: Any = TextField(default="")
    report: Any = TextField(default="{}")


DrsPlan.add_index(
    DrsPlan.index(
        DrsPlan.cluster, unique=True, where=DrsPlan.state.in_(("ready", "in_progress")), name="drs_plan_active"
    )
)


class DrsMove(BaseModel):
    plan: Any = ForeignKeyField(DrsPlan, on_delete="CASCADE")
    position: Any = IntegerField()
    vm_id: Any = TextField(index=True)
    vm_name: Any = TextField()
    source_id: Any = TextField()
    source_name: Any = TextField()
    destination_id: Any = TextField()
    destination_name: Any = TextField()
    state: Any = TextField(default="pending")
    state_reason: Any = TextField(default="")
    reason: Any = TextField(default="")
    gain: Any = DoubleField(default=0.0)
    cost: Any = DoubleField(default=0.0)
    cost_bytes: Any = BigIntegerField(default=0)
    imbalance_before: Any = DoubleField(default=0.0)
    imbalance_after: Any = DoubleField(default=0.0)
    storage_motion: Any = BooleanField(default=False)
    considered: Any = TextField(default="[]")
    needs: Any = TextField(default="[]")
    swap: Any = IntegerField(default=-1)
    operation_id: Any = TextField(default="")
    end_time: Any = DateTimeField(null=True)

    class Meta:
        indexes = ((("plan", "position"), True),)


class Operation(BaseModel):
    verb: Any = TextField()
    resource_type: Any = TextField()
    resource_id: Any = TextField(index=True)
    resource_name: Any = TextField(default="")
    account_id: Any = TextField(default="", index=True)
    user: Any = TextField()
    state: Any = TextField(default="pending", index=True)
    inputs: Any = TextField(default="{}")
    error: Any = TextField(default="")
    phase: Any = TextField(default="")
    bytes_done: Any = BigIntegerField(default=0)
    bytes_total: Any = BigIntegerField(default=0)
    percent: Any = IntegerField(default=0)
    attempt: Any = IntegerField(default=0)
    replica: Any = TextField(default="")
    cancel_requested: Any = BooleanField(default=False)
    end_time: Any = DateTimeField(null=True)


class Event(BaseModel):
    type: Any = TextField(index=True)
    outcome: Any = TextField()
    actor: Any = TextField()
    resource_type: Any = TextField()
    resource_id: Any = TextField(index=True)
    resource_name: Any = TextField(default="")
    account_id: Any = TextField(default="", index=True)
    message: Any = TextField(default="")
    operation_id: Any = TextField(default="")


class SettingValue(BaseModel):
    name: Any = TextField()
    cluster_id: Any = TextField(default="")
    value: Any = TextField()

    class Meta:
        indexes = ((("name", "cluster_id"), True),)


class Request(BaseModel):
    user: Any = TextField()
    request_id: Any = TextField()
    method: Any = TextField()
    digest: Any = TextField()
    resource_id: Any = TextField(default="")

    class Meta:
        indexes = ((("user", "request_id"), True),)


class Replica(BaseModel):
    address: Any = TextField(default="")
    kek_ids: Any = TextField(default="")
    heartbeat_time: Any = DateTimeField(default=now)


ALL = (
    Account,
    User,
    Certificate,
    JoinToken,
    Zone,
    Cluster,
    HypervisorType,
    Host,
    UnmanagedVm,
    Pool,
    PoolHost,
    Kek,
    Passphrase,
    Template,
    DiskOffering,
    Volume,
    VolumeFile,
    SnapshotSchedule,
    Snapshot,
    ServiceOffering,
    Vm,
    Nic,
    AffinityGroup,
    AffinityMember,
    DrsPlan,
    DrsMove,
    Operation,
    Event,
    SettingValue,
    Request,
    Replica,
)


def up(migrator: Any, db: Database) -> None:
    """Makes every table."""
    with db.bind_ctx(ALL):
        db.create_tables(ALL, safe=False)
