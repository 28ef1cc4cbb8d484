"""ostler.control.v1.LabelService, and the selectors of lists."""

from __future__ import annotations

from typing import TypeVar

import grpc
from ostler.control.v1 import label_pb2 as pb
from ostler.control.v1 import label_pb2_grpc
from ostler_common.errors import PermissionDeniedError, bad_field
from peewee import ModelSelect

from ostler_control import labels
from ostler_control.api.caller import caller_of
from ostler_control.api.resolve import resolve
from ostler_control.api.session import with_sessions
from ostler_control.caller import Caller
from ostler_control.labels.store import Labeled
from ostler_control.models import (
    Backup,
    BaseModel,
    Cluster,
    Host,
    Iso,
    Network,
    Pool,
    Snapshot,
    Template,
    Vm,
    VmSnapshot,
    Volume,
    Zone,
)

_Row = TypeVar("_Row", bound=BaseModel)
_OF_MEMBERS = frozenset({"vm", "volume", "snapshot", "vm_snapshot", "backup"})  # what an account owns


@with_sessions
class LabelService(label_pb2_grpc.LabelServiceServicer):
    def UpdateLabels(self, request: pb.UpdateLabelsRequest, context: grpc.ServicerContext) -> pb.UpdateLabelsResponse:
        caller = caller_of(context)
        row = _object(request, caller)
        return pb.UpdateLabelsResponse(labels=labels.update(row, dict(request.set), request.remove, caller.actor))


def select(query: ModelSelect[_Row], model: type[_Row], selector: str) -> ModelSelect[_Row]:
    """The query with only what a request's selector selects. Raises InvalidArgumentError INVALID_SELECTOR."""
    return labels.selected(query, model, labels.parse(selector))


def _object(request: pb.UpdateLabelsRequest, caller: Caller) -> Labeled:
    kind = request.WhichOneof("object")
    if kind not in _OF_MEMBERS and kind is not None and not caller.is_admin:
        raise PermissionDeniedError("only admins may label what no account owns", "ADMINS_ONLY_FIELD")
    match kind:
        case "vm":
            return resolve(Vm, request.vm, "vm", caller=caller)
        case "volume":
            return resolve(Volume, request.volume, "volume", caller=caller)
        case "snapshot":
            return resolve(Snapshot, request.snapshot, "snapshot", caller=caller)
        case "vm_snapshot":
            return resolve(VmSnapshot, request.vm_snapshot, "vm_snapshot", caller=caller)
        case "host":
            return resolve(Host, request.host, "host")
        case "template":
            return resolve(Template, request.template, "template")
        case "pool":
            return resolve(Pool, request.pool, "pool")
        case "network":
            return resolve(Network, request.network, "network")
        case "cluster":
            return resolve(Cluster, request.cluster, "cluster")
        case "backup":
            return resolve(Backup, request.backup, "backup", caller=caller)
        case "iso":
            return resolve(Iso, request.iso, "iso")
        case "zone":
            return resolve(Zone, request.zone, "zone")
    raise bad_field(
        "object",
        "is required: a vm, volume, snapshot, vm_snapshot, backup, host, template, iso, pool, network, cluster or zone",
        "REQUIRED",
    )
