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
from ostler_control.labels.kinds import KINDS, OF_FIELD
from ostler_control.models import BaseModel

_Row = TypeVar("_Row", bound=BaseModel)


@with_sessions
class LabelService(label_pb2_grpc.LabelServiceServicer):
    def UpdateLabels(self, request: pb.UpdateLabelsRequest, context: grpc.ServicerContext) -> pb.UpdateLabelsResponse:
        caller = caller_of(context)
        row = _object(request, caller)
        return pb.UpdateLabelsResponse(labels=labels.update(row, dict(request.set), request.remove, caller.actor))


def select(query: ModelSelect[_Row], model: type[_Row], selector: str) -> ModelSelect[_Row]:
    """The query with only what a request's selector selects. Raises InvalidArgumentError INVALID_SELECTOR."""
    return labels.selected(query, model, labels.parse(selector))


def _object(request: pb.UpdateLabelsRequest, caller: Caller) -> BaseModel:
    field = request.WhichOneof("object")
    if field is None:
        *most, last = (kind.field for kind in KINDS)
        raise bad_field("object", f"is required: a {', '.join(most)} or {last}", "REQUIRED")
    kind = OF_FIELD[field]
    if not kind.of_account and not caller.is_admin:
        raise PermissionDeniedError("only admins may label what no account owns", "ADMINS_ONLY_FIELD")
    return resolve(kind.model, getattr(request, field), field, caller=caller if kind.of_account else None)
