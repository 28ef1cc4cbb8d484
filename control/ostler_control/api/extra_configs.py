"""ostler.control.v1.ExtraConfigService."""

from __future__ import annotations

import grpc
from ostler.control.v1 import extra_config_pb2 as pb
from ostler.control.v1 import extra_config_pb2_grpc

from ostler_control.api.caller import caller_of
from ostler_control.api.convert.times import timestamp
from ostler_control.api.resolve import resolve
from ostler_control.api.session import with_sessions
from ostler_control.api.start_operation import admins_only
from ostler_control.models import Vm
from ostler_control.vms import extra_configs


@with_sessions
class ExtraConfigService(extra_config_pb2_grpc.ExtraConfigServiceServicer):
    def SetExtraConfig(self, request: pb.SetExtraConfigRequest, context: grpc.ServicerContext) -> pb.ExtraConfig:
        caller = caller_of(context)
        admins_only(caller, override="yes" if request.override else "")
        vm = resolve(Vm, request.vm, "vm", caller=caller)
        return _message(extra_configs.put(vm, request.name, request.xml, caller.actor, override=request.override))

    def ListExtraConfigs(
        self, request: pb.ListExtraConfigsRequest, context: grpc.ServicerContext
    ) -> pb.ListExtraConfigsResponse:
        vm = resolve(Vm, request.vm, "vm", caller=caller_of(context))
        return pb.ListExtraConfigsResponse(extra_configs=map(_message, extra_configs.list_checked(vm)))

    def RemoveExtraConfig(
        self, request: pb.RemoveExtraConfigRequest, context: grpc.ServicerContext
    ) -> pb.RemoveExtraConfigResponse:
        caller = caller_of(context)
        extra_configs.remove(resolve(Vm, request.vm, "vm", caller=caller), request.name, caller.actor)
        return pb.RemoveExtraConfigResponse()


def _message(checked: extra_configs.Checked) -> pb.ExtraConfig:
    row, refusal = checked.row, checked.refusal
    return pb.ExtraConfig(
        name=row.name,
        xml=row.xml,
        passes=refusal is None,
        refusal=refusal.reason if refusal else "",
        explanation=refusal.message if refusal else "",
        override_by=row.override_by,
        create_time=timestamp(row.create_time),
    )
