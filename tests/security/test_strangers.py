"""A member who asks for another account's things is answered as if they were not there, by every RPC that there is.

The RPCs and their fields come from the server's reflection: one that is added later is walked as well, and a new field
that nobody has classified fails a test.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import grpc
import pytest
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from ostler.control.v1 import event_pb2, userdata_pb2, userdata_pb2_grpc
from ostler_common.errors import from_rpc_error
from ostler_common.tls import TlsFiles
from ostler_control import database, events
from ostler_control.api.authorization import TABLE
from ostler_control.caller import Role
from ostler_control.models import (
    Account,
    AffinityGroup,
    Backup,
    BackupSchedule,
    BaseModel,
    DiskOffering,
    Network,
    NetworkAccount,
    Operation,
    Pool,
    ServiceOffering,
    Snapshot,
    SnapshotSchedule,
    Template,
    User,
    Vm,
    VmExtraConfig,
    VmSnapshot,
    VmSnapshotSchedule,
    Volume,
    Zone,
    now,
)
from ostler_control.server import Control

from tests.fakes.fleet import Fleet, channel

DEADLINE_S = 20
MIB = 1 << 20
OPERATIONS = "google.longrunning.Operations"

# Which kind of thing that accounts own a field names. By the method, where the field's name does not tell.
REFERENCES = {
    "account": "account",
    "backup": "backup",
    "backup_schedule": "backup-schedule",
    "affinity_group": "affinity-group",
    "affinity_groups": "affinity-group",
    "group": "affinity-group",
    "network": "network",
    "resource_id": "vm",
    "schedule": "schedule",
    "snapshot": "snapshot",
    "snapshot_schedule": "schedule",
    "user": "user",
    "user_data": "user-data",
    "vm": "vm",
    "vm_snapshot": "vm-snapshot",
    "vm_snapshot_schedule": "vm-snapshot-schedule",
    "volume": "volume",
}
# The same by the service, where the field's name does not tell.
REFERENCES_BY_SERVICE = {
    ("ostler.control.v1.BackupService", "schedule"): "backup-schedule",
    ("ostler.control.v1.VmSnapshotService", "schedule"): "vm-snapshot-schedule",
}
# Fields that name what everybody may name, or nothing at all.
PLAIN = {
    *("addresses", "gateways", "hosts", "nameservers", "remove"),
    *(
        "cluster",
        "console_text",
        "disk_offering",
        "file_system",
        "filter",
        "guest_user",
        "host",
        "import_plan",
        "import_source",
        "iso",
        "isos",
        "page_token",
        "pool",
        "request_id",
        "selector",
        "service_offering",
        "sha256",
        "store",
    ),
    *("key", "keys", "mac", "model", "name", "ssh_keys", "template", "type", "value", "variables", "xml", "zone"),
}
# Fields of a resource that an update does not read.
OUTPUT_ONLY = "values."


@dataclass(frozen=True)
class Belongings:
    """What one account owns: (id, name) by kind."""

    credentials: TlsFiles
    things: dict[str, tuple[str, str]]


@dataclass(frozen=True)
class Reference:
    """A field of a request that names something owned. path: of field names from the request on."""

    method: MethodDescriptor
    path: tuple[str, ...]
    kind: str

    def __str__(self) -> str:
        return f"{self.method.full_name}({'.'.join(self.path)})"


def string_fields(message: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], FieldDescriptor]]:
    """Every text field of a request, also within its own messages."""
    for field in message.fields:
        here = (*path, field.name)
        if field.type == FieldDescriptor.TYPE_STRING:
            yield here, field
        elif field.message_type is not None and field.message_type.full_name.startswith("ostler."):
            yield from string_fields(field.message_type, here)


def kind_of(method: MethodDescriptor, field: str) -> str:
    return REFERENCES_BY_SERVICE.get((method.containing_service.full_name, field), REFERENCES[field])


def references(method: MethodDescriptor) -> Iterator[Reference]:
    for path, field in string_fields(method.input_type):
        if method.containing_service.full_name == OPERATIONS and field.name == "name":
            if method.name != "ListOperations":
                yield Reference(method, path, "operation")
        elif ".".join(path).startswith(OUTPUT_ONLY) and field.name != "affinity_groups":
            continue
        elif field.name in REFERENCES:
            yield Reference(method, path, kind_of(method, field.name))


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    return Fleet(tmp_path_factory.mktemp("fleet"))


@pytest.fixture(scope="module")
def control(fleet: Fleet) -> Iterator[Control]:
    with fleet.running() as control:
        yield control


@pytest.fixture(scope="module")
def methods(fleet: Fleet, control: Control) -> list[MethodDescriptor]:
    """Every method that members may call, but those of gRPC itself."""
    with channel(control.main_port, fleet.admin) as on:
        reflection = ProtoReflectionDescriptorDatabase(on)
        pool = descriptor_pool.DescriptorPool(reflection)
        served = [
            method
            for name in reflection.get_services()
            if not name.startswith("grpc.")
            for method in pool.FindServiceByName(name).methods
        ]
    return [method for method in served if Role.MEMBER in TABLE[path_of(method)]]


@pytest.fixture(scope="module")
def owner(fleet: Fleet, control: Control) -> Belongings:
    return belongings(fleet, control, "owner")


@pytest.fixture(scope="module")
def stranger(fleet: Fleet, control: Control, owner: Belongings) -> Belongings:
    return belongings(fleet, control, "stranger")


def belongings(fleet: Fleet, control: Control, name: str) -> Belongings:
    """A member with one thing of each kind that an account can own."""
    credentials = fleet.user(name, Role.MEMBER)

    def label(kind: str) -> str:
        # The stranger's names are near to nobody's, so that no hint ("did you mean") tells the answers apart.
        return f"{kind}-of-owner" if name == "owner" else f"{uuid.uuid4().hex[:8]}"

    with channel(control.main_port, credentials) as on:
        request = userdata_pb2.RegisterUserDataRequest(name=label("data"), data=b"#cloud-config\n{}\n")
        data = userdata_pb2_grpc.UserDataServiceStub(on).RegisterUserData(request, timeout=DEADLINE_S)
    with database.transaction():
        account = Account.get(Account.name == name)
        zone = Zone.get_or_none(Zone.name == "z") or Zone.create(name="z")
        pool = Pool.get_or_none() or Pool.create(name="p", type="nfs", path="/p", scope="zone", scope_id=zone.id)
        offering = ServiceOffering.get_or_none() or ServiceOffering.create(name="small", cpus=1, memory_bytes=MIB)
        DiskOffering.get_or_none() or DiskOffering.create(name="disk")
        template = Template.get_or_none() or Template.create(
            name="t", format="qcow2", file_size_bytes=MIB, virtual_size_bytes=MIB, sha256="0" * 64, state="ready"
        )
        vm = Vm.create(
            name=label("vm"), account=account, service_offering=offering, template=template, cpus=1,
            memory_bytes=MIB, state="stopped",
        )  # fmt: skip
        volume = Volume.create(name=label("volume"), account=account, pool=pool, size_bytes=MIB, state="ready")
        snapshot = Snapshot.create(
            name=label("snapshot"), account=account, volume_id=volume.id, pool=pool, size_bytes=MIB, state="ready"
        )
        backup = Backup.create(
            name=label("backup"), account=account, vm_id=vm.id, vm_name=vm.name, pool=pool, definition="{}",
            state="ready",
        )  # fmt: skip
        vm_snapshot = VmSnapshot.create(
            name=label("vm-snapshot"), account=account, vm_id=vm.id, vm_name=vm.name, state="ready"
        )
        schedule = SnapshotSchedule.create(volume=volume, interval="daily", keep=1, next_time=now())
        backup_schedule = BackupSchedule.create(vm=vm, interval="daily", keep_last=1, next_time=now())
        vm_snapshot_schedule = VmSnapshotSchedule.create(vm=vm, interval="daily", keep=1, next_time=now())
        group = AffinityGroup.create(name=label("group"), account=account, kind="affinity")
        network = Network.create(name=label("network"), zone=zone, bridge="br0")
        NetworkAccount.create(network=network, account=account)
        VmExtraConfig.create(vm=vm, name=label("extra"), xml="<pm/>")
        operation = Operation.create(
            verb="vm.start", resource_type="vm", resource_id=vm.id, resource_name=vm.name, account_id=account.id,
            user=name, state="succeeded",
        )  # fmt: skip
        events.record("vm.start", events.Outcome.STARTED, name, "vm", vm.id, vm.name, account_id=account.id)
        user = User.get(User.name == name)
    rows: dict[str, BaseModel] = {
        "account": account,
        "affinity-group": group,
        "backup": backup,
        "network": network,
        "snapshot": snapshot,
        "user": user,
        "vm": vm,
        "vm-snapshot": vm_snapshot,
        "volume": volume,
    }
    things = {kind: (row.id, row.name) for kind, row in rows.items()}  # type: ignore[attr-defined]
    things["user-data"] = (data.id, data.name)
    things["schedule"] = (schedule.id, "")
    things["backup-schedule"] = (backup_schedule.id, "")
    things["vm-snapshot-schedule"] = (vm_snapshot_schedule.id, "")
    things["operation"] = (f"operations/{operation.id}", "")
    return Belongings(credentials, things)


def path_of(method: MethodDescriptor) -> str:
    return f"/{method.containing_service.full_name}/{method.name}"


def request_of(method: MethodDescriptor, own: Belongings) -> Any:
    """A request that names things of the caller's own, and is proper otherwise."""
    request = message_factory.GetMessageClass(method.input_type)()
    fill(request, method, own)
    return request


SAMPLES: dict[str, object] = {
    "name": "fresh",
    "template": "t",
    "service_offering": "small",
    "disk_offering": "disk",
    "size_bytes": 4 * MIB,
    "validate_only": True,
    "stopped": True,
    "keep": 1,
    "kind": 1,
    "interval": 1,
    "xml": "<pm/>",
}


def fill(message: Any, method: MethodDescriptor, own: Belongings) -> None:
    for field in message.DESCRIPTOR.fields:
        if field.name in REFERENCES and not field.is_repeated and field.type == FieldDescriptor.TYPE_STRING:
            setattr(message, field.name, own.things[kind_of(method, field.name)][0])
        elif field.name == "keep" and field.message_type is not None:
            message.keep.last = 1
        elif field.name in SAMPLES and not field.is_repeated:
            setattr(message, field.name, SAMPLES[field.name])
        elif field.name == "header":
            fill(message.header, method, own)
        elif field.name == "update_mask":
            message.update_mask.paths.append("affinity_groups")
    if method.containing_service.full_name == OPERATIONS and method.name != "ListOperations":
        message.name = own.things["operation"][0]


def with_reference(method: MethodDescriptor, own: Belongings, path: tuple[str, ...], value: str) -> Message:
    request: Any = request_of(method, own)
    inner = request
    if "update_mask" in method.input_type.fields_by_name and len(path) > 1:
        request.update_mask.paths[:] = [path[1] if path[0] == "values" else path[0]]
    for name in path[:-1]:
        repeated = inner.DESCRIPTOR.fields_by_name[name].is_repeated
        inner = getattr(inner, name).add() if repeated else getattr(inner, name)
    field = inner.DESCRIPTOR.fields_by_name[path[-1]]
    if field.is_repeated:
        getattr(inner, path[-1]).append(value)
        return cast("Message", request)
    for oneof in (other for other in inner.DESCRIPTOR.oneofs if field in other.fields):
        inner.ClearField(inner.WhichOneof(oneof.name) or path[-1])
    # A volume's and a snapshot's reference exclude each other.
    for rival in {"volume": ["snapshot"], "snapshot": ["volume"]}.get(path[-1], []):
        if rival in inner.DESCRIPTOR.fields_by_name:
            inner.ClearField(rival)
    setattr(inner, path[-1], value)
    return cast("Message", request)


def answer(on: grpc.Channel, method: MethodDescriptor, request: Message, ref: str = "\0") -> tuple[str, ...]:
    """All that a caller learns from a call, but for what was asked for, `ref`."""
    told = _without(ref)
    streams = (method.client_streaming, method.server_streaming)
    kind = f"{'stream' if streams[0] else 'unary'}_{'stream' if streams[1] else 'unary'}"
    call = getattr(on, kind)(path_of(method), request_serializer=lambda message: message.SerializeToString())
    try:
        response = call(iter([request]) if streams[0] else request, timeout=DEADLINE_S)
        data = next(response, b"") if streams[1] else response
        if method.name == "WatchEvents":
            # A sign of life comes first, and tells how long the fleet's log is by now.
            seen = event_pb2.WatchEventsResponse.FromString(data)
            seen.ClearField("sequence")
            data = seen.SerializeToString()
        return ("OK", told(repr(data)))
    except grpc.RpcError as raised:
        error = from_rpc_error(raised)
        return (error.code, error.reason, told(repr((error.message, sorted(error.metadata.items()), error.violations))))


def _without(ref: str) -> Callable[[str], str]:
    bare = ref.removeprefix("operations/")
    return lambda text: text.replace(ref, "REF").replace(bare, "REF")


def test_every_field_is_classified(methods: list[MethodDescriptor]) -> None:
    unknown = {
        f"{method.name}.{'.'.join(path)}"
        for method in methods
        for path, field in string_fields(method.input_type)
        if field.name not in REFERENCES and field.name not in PLAIN and not ".".join(path).startswith(OUTPUT_ONLY)
    }
    assert unknown == set()


def test_not_yours_is_not_there(
    methods: list[MethodDescriptor], control: Control, owner: Belongings, stranger: Belongings
) -> None:
    walked = [reference for method in methods for reference in references(method)]
    assert {reference.kind for reference in walked} == owner.things.keys()
    with channel(control.main_port, stranger.credentials) as on:
        for reference in walked:
            by_id, by_name = owner.things[reference.kind]
            absent = {by_id: str(uuid.uuid4()), by_name: "x" * len(by_name)}
            if reference.kind == "operation":
                absent[by_id] = f"operations/{uuid.uuid4()}"
            for foreign in filter(None, (by_id, by_name)):
                method, path = reference.method, reference.path
                not_yours = answer(on, method, with_reference(method, stranger, path, foreign), foreign)
                missing = absent[foreign]
                not_there = answer(on, method, with_reference(method, stranger, path, missing), missing)
                assert not_yours == not_there, (str(reference), foreign)
                # The request got as far as the reference, and was refused for it; or it was only a filter.
                # Labels of a network are refused without a look at it.
                before = ("OTHER_ACCOUNT", "NOT_YOURSELF", "ADMINS_ONLY_FIELD")
                refused = not_yours[1].endswith("_NOT_FOUND") or not_yours[1] in before
                assert refused or not_yours == ("OK", repr(b"")), (str(reference), not_yours)


def test_the_owner_is_answered_otherwise(
    methods: list[MethodDescriptor], control: Control, owner: Belongings, stranger: Belongings
) -> None:
    """The walk above compares two refusals: here the same requests get past them."""
    got_past: dict[str, int] = {}
    with channel(control.main_port, owner.credentials) as mine, channel(control.main_port, stranger.credentials) as on:
        for reference in (reference for method in methods for reference in references(method)):
            method, path = reference.method, reference.path
            if method.name.startswith(("Get", "List")) and not method.server_streaming:
                own = answer(mine, method, with_reference(method, owner, path, owner.things[reference.kind][0]))
                assert own[0] == "OK", (str(reference), own)
                theirs = with_reference(method, stranger, path, owner.things[reference.kind][0])
                got_past[reference.kind] = got_past.get(reference.kind, 0) + (own != answer(on, method, theirs))
    assert {kind for kind, count in got_past.items() if count} >= {
        *("account", "affinity-group", "network", "operation", "snapshot", "user-data", "vm", "volume"),
    }


def test_no_list_shows_another_accounts_things(
    methods: list[MethodDescriptor], control: Control, owner: Belongings, stranger: Belongings
) -> None:
    secrets = {word for pair in owner.things.values() for word in pair if word}
    secrets |= {"extra-of-owner", owner.things["operation"][0].removeprefix("operations/")}
    lists = [method for method in methods if method.name.startswith("List")]
    assert len(lists) > 8
    with channel(control.main_port, stranger.credentials) as on, channel(control.main_port, owner.credentials) as mine:
        shown: set[str] = set()
        for method in lists:
            request = message_factory.GetMessageClass(method.input_type)()
            told = " ".join(answer(on, method, request))
            assert not [word for word in secrets if word in told], method.full_name
            told = " ".join(answer(mine, method, request))
            shown |= {word for word in secrets if word in told}
    assert {owner.things["vm"][1], owner.things["volume"][1], owner.things["user-data"][1]} <= shown
