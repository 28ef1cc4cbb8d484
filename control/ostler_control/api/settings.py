"""ostler.control.v1.SettingService."""

from __future__ import annotations

import grpc
from ostler.control.v1 import setting_pb2 as pb
from ostler.control.v1 import setting_pb2_grpc

from ostler_control import settings
from ostler_control.api.caller import caller_of
from ostler_control.api.convert import core
from ostler_control.api.paging import list_page
from ostler_control.api.resolve import optional
from ostler_control.api.session import with_sessions
from ostler_control.models import Cluster


@with_sessions
class SettingService(setting_pb2_grpc.SettingServiceServicer):
    def ListSettings(self, request: pb.ListSettingsRequest, context: grpc.ServicerContext) -> pb.ListSettingsResponse:
        cluster = optional(Cluster, request.cluster, "cluster")
        found = list_page(list(settings.SETTINGS.values()), request)
        rows = settings.in_force(found.rows, cluster.id if cluster else None)
        return pb.ListSettingsResponse(settings=map(core.setting, rows), next_page_token=found.next_page_token)

    def GetSetting(self, request: pb.GetSettingRequest, context: grpc.ServicerContext) -> pb.Setting:
        return _setting(request.name, optional(Cluster, request.cluster, "cluster"))

    def UpdateSetting(self, request: pb.UpdateSettingRequest, context: grpc.ServicerContext) -> pb.Setting:
        cluster = optional(Cluster, request.cluster, "cluster")
        settings.change(request.name, request.value, caller_of(context).actor, cluster)
        return _setting(request.name, cluster)

    def ResetSetting(self, request: pb.ResetSettingRequest, context: grpc.ServicerContext) -> pb.Setting:
        cluster = optional(Cluster, request.cluster, "cluster")
        settings.reset(request.name, caller_of(context).actor, cluster)
        return _setting(request.name, cluster)


def _setting(name: str, cluster: Cluster | None) -> pb.Setting:
    return core.setting(settings.in_force([settings.find(name)], cluster.id if cluster else None)[0])
