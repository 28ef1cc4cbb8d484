"""Operations, and the resources that they answer with."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping

from google.longrunning import operations_pb2
from google.protobuf.message import Message
from ostler.control.v1 import (
    backup_pb2,
    drs_pb2,
    host_pb2,
    import_plan_pb2,
    key_pb2,
    operation_pb2,
    snapshot_pb2,
    template_pb2,
    vm_pb2,
    vm_snapshot_pb2,
    volume_pb2,
    zone_pb2,
)
from ostler_common.errors import to_status

from ostler_control import labels
from ostler_control.api.convert import (
    backups,
    core,
    drs,
    fleet,
    import_plans,
    keys,
    templates,
    vm_snapshots,
    vms,
    volumes,
)
from ostler_control.api.convert.enums import to_enum
from ostler_control.api.convert.lookups import shown_to
from ostler_control.api.convert.times import timestamp
from ostler_control.api.redact import Conceal, concealed
from ostler_control.caller import Caller
from ostler_control.models import (
    Backup,
    DrsPlan,
    Host,
    ImportPlan,
    Operation,
    Snapshot,
    Template,
    Vm,
    VmSnapshot,
    Volume,
    Zone,
)
from ostler_control.operations.records import error_from_json
from ostler_control.states import OperationState

OPERATION_PREFIX = "operations/"
_State = operation_pb2.OperationMetadata


def operations(rows: Iterable[Operation], caller: Caller) -> list[operations_pb2.Operation]:
    """Operations as lists show them: the response has only the resource's id and name, which needs no query."""
    shown = shown_to(caller)
    return [_operation(row, caller, shown, _named) for row in rows]


def operation(row: Operation, caller: Caller) -> operations_pb2.Operation:
    """One operation with the whole resource as its response."""
    return _operation(row, caller, shown_to(caller), lambda row: _response(row, caller))


def _operation(
    row: Operation, caller: Caller, shown: Conceal, respond: Callable[[Operation], Message]
) -> operations_pb2.Operation:
    metadata = operation_pb2.OperationMetadata(
        verb=row.verb,
        resource_type=row.resource_type,
        resource_id=row.resource_id,
        resource_name=row.resource_name,
        state=to_enum(_State.State, "", row.state),
        user=row.user,
        create_time=timestamp(row.create_time),
        end_time=timestamp(row.end_time),
        cancel_requested=row.cancel_requested,
    )
    metadata.progress.phase = shown(row.phase)
    metadata.progress.bytes_done = row.bytes_done
    metadata.progress.bytes_total = row.bytes_total
    metadata.progress.percent = row.percent
    message = operations_pb2.Operation(name=OPERATION_PREFIX + row.id)
    message.metadata.Pack(metadata)
    message.done = row.state.is_over
    if row.error:
        error = error_from_json(row.error)
        message.error.CopyFrom(to_status(error if caller.is_admin else concealed(error, shown)))
    elif message.done:
        message.response.Pack(respond(row))
    return message


def validated(row: Operation, caller: Caller) -> operations_pb2.Operation:
    """The answer to validate_only: done, without a response, because nothing was done. An admin is told the host."""
    inputs = json.loads(row.inputs)
    host = Host.get_or_none(Host.id == inputs.get("destination_id", inputs.get("host_id", "")))
    row.state, row.percent = OperationState.SUCCEEDED, 100
    row.phase = f"on host {host.name}" if host and caller.is_admin else ""
    message = operation(row, caller)
    message.ClearField("name")
    message.ClearField("response")
    message.done = True
    return message


def _named(row: Operation) -> Message:
    """The resource with its id and name only. A version of the key-encryption key is named by its id."""
    match row.resource_type:
        case "volume":
            return volume_pb2.Volume(id=row.resource_id, name=row.resource_name)
        case "snapshot":
            return snapshot_pb2.Snapshot(id=row.resource_id, name=row.resource_name)
        case "vm-snapshot":
            return vm_snapshot_pb2.VmSnapshot(id=row.resource_id, name=row.resource_name)
        case "template":
            return template_pb2.Template(id=row.resource_id, name=row.resource_name)
        case "drs":
            return drs_pb2.DrsPlan(id=row.resource_id, name=row.resource_name)
        case "import-plan":
            return import_plan_pb2.ImportPlan(id=row.resource_id, name=row.resource_name)
        case "key":
            return key_pb2.Key(name=row.resource_id)
        case "zone":
            return zone_pb2.Zone(id=row.resource_id, name=row.resource_name)
        case "host":
            return host_pb2.Host(id=row.resource_id, name=row.resource_name)
        case _:
            return vm_pb2.Vm(id=row.resource_id, name=row.resource_name)


def _response(row: Operation, caller: Caller) -> Message:
    """The resource as it is now; only its id and name once it is deleted."""
    respond = _RESPONSES.get(row.resource_type, _vm)
    return respond(row, caller)


def _volume(row: Operation, caller: Caller) -> Message:
    found = Volume.get_or_none(Volume.id == row.resource_id)
    if found is not None:
        return volumes.volume(found, caller)
    return volume_pb2.Volume(id=row.resource_id, name=row.resource_name, state=volume_pb2.Volume.DELETING, slot=-1)


def _snapshot(row: Operation, caller: Caller) -> Message:
    found = Snapshot.get_or_none(Snapshot.id == row.resource_id)
    if found is not None:
        return volumes.snapshot(found, caller)
    gone = snapshot_pb2.Snapshot.DELETING
    return snapshot_pb2.Snapshot(id=row.resource_id, name=row.resource_name, state=gone)


def _vm_snapshot(row: Operation, caller: Caller) -> Message:
    found = VmSnapshot.get_or_none(VmSnapshot.id == row.resource_id)
    if found is not None:
        return vm_snapshots.vm_snapshot(found, caller)
    gone = vm_snapshot_pb2.VmSnapshot.DELETING
    return vm_snapshot_pb2.VmSnapshot(id=row.resource_id, name=row.resource_name, state=gone)


def _backup(row: Operation, caller: Caller) -> Message:
    found = Backup.get_or_none(Backup.id == row.resource_id)
    if found is not None:
        return backups.backup(found, caller)
    return backup_pb2.Backup(id=row.resource_id, name=row.resource_name, state=backup_pb2.Backup.DELETING)


def _template(row: Operation, caller: Caller) -> Message:
    found = Template.get_or_none(Template.id == row.resource_id)
    return templates.template(found, caller) if found is not None else template_pb2.Template(name=row.resource_name)


def _plan(row: Operation, caller: Caller) -> Message:
    found = DrsPlan.get_or_none(DrsPlan.id == row.resource_id)
    return drs.plan(found) if found is not None else drs_pb2.DrsPlan(id=row.resource_id, name=row.resource_name)


def _import_plan(row: Operation, caller: Caller) -> Message:
    found = ImportPlan.get_or_none(ImportPlan.id == row.resource_id)
    if found is not None:
        return import_plans.plans([found])[0]
    return import_plan_pb2.ImportPlan(id=row.resource_id, name=row.resource_name)


def _key(row: Operation, caller: Caller) -> Message:
    return keys.key_after(row.resource_id)


def _host(row: Operation, caller: Caller) -> Message:
    found = Host.get_or_none(Host.id == row.resource_id)
    if found is not None:
        return fleet.hosts([found], whole=False)[0]
    return host_pb2.Host(id=row.resource_id, name=row.resource_name)


def _zone(row: Operation, caller: Caller) -> Message:
    found = Zone.get_or_none(Zone.id == row.resource_id)
    if found is not None:
        return core.zone(found, labels.of_objects(Zone, [found.id]).get(found.id, {}))
    return zone_pb2.Zone(id=row.resource_id, name=row.resource_name)


def _vm(row: Operation, caller: Caller) -> Message:
    found = Vm.get_or_none(Vm.id == row.resource_id)
    if found is not None:
        return vms.vm(found, caller)
    return vm_pb2.Vm(id=row.resource_id, name=row.resource_name, state=vm_pb2.Vm.DELETING)


_RESPONSES: Mapping[str, Callable[[Operation, Caller], Message]] = {
    "volume": _volume,
    "snapshot": _snapshot,
    "vm-snapshot": _vm_snapshot,
    "backup": _backup,
    "template": _template,
    "drs": _plan,
    "import-plan": _import_plan,
    "key": _key,
    "host": _host,
    "zone": _zone,
}
