"""ostler.control.v1.SettingService."""

from __future__ import annotations

from typing import Protocol

import grpc
from ostler.control.v1 import setting_pb2 as pb
from ostler.control.v1 import setting_pb2_grpc
from ostler_common.errors import InvalidArgumentError

from ostler_control import settings
from ostler_control.api.caller import caller_of
from ostler_control.api.convert import setting as convert
from ostler_control.api.paging import list_page
from ostler_control.api.resolve import optional
from ostler_control.api.session import with_sessions
from ostler_control.models import Account, Cluster, Zone


class PlaceRequest(Protocol):
    """What every request about settings may name."""

    zone: str
    cluster: str
    account: str


@with_sessions
class SettingService(setting_pb2_grpc.SettingServiceServicer):
    def ListSettings(self, request: pb.ListSettingsRequest, context: grpc.ServicerContext) -> pb.ListSettingsResponse:
        at = _place(request)
        found = list_page(list(settings.SETTINGS.values()), request)
        rows = convert.settings(settings.in_force(found.rows, at))
        return pb.ListSettingsResponse(settings=rows, next_page_token=found.next_page_token)

    def GetSetting(self, request: pb.GetSettingRequest, context: grpc.ServicerContext) -> pb.Setting:
        return _setting(request.name, _place(request))

    def UpdateSetting(self, request: pb.UpdateSettingRequest, context: grpc.ServicerContext) -> pb.Setting:
        owner = _owner(request)
        settings.change(request.name, request.value, caller_of(context).actor, owner)
        return _setting(request.name, owner.at)

    def ResetSetting(self, request: pb.ResetSettingRequest, context: grpc.ServicerContext) -> pb.Setting:
        owner = _owner(request)
        settings.reset(request.name, caller_of(context).actor, owner)
        return _setting(request.name, owner.at)


def _setting(name: str, at: settings.At) -> pb.Setting:
    return convert.settings(settings.in_force([settings.find(name)], at))[0]


def _rows(request: PlaceRequest) -> tuple[Zone | None, Cluster | None, Account | None]:
    return (
        optional(Zone, request.zone, "zone"),
        optional(Cluster, request.cluster, "cluster"),
        optional(Account, request.account, "account"),
    )


def _place(request: PlaceRequest) -> settings.At:
    zone, cluster, account = (row.id if row else "" for row in _rows(request))
    return settings.At(zone, cluster, account)


def _owner(request: PlaceRequest) -> settings.Owner:
    given = [row for row in _rows(request) if row]
    if len(given) > 1:
        raise InvalidArgumentError(
            "a value belongs to one zone, one cluster or one account: name only one of them", "AMBIGUOUS_SCOPE"
        )
    return settings.Owner.of(given[0]) if given else settings.GLOBAL
