"""ostler.control.v1.UserDataService."""

from __future__ import annotations

import grpc
from ostler.control.v1 import userdata_pb2 as pb
from ostler.control.v1 import userdata_pb2_grpc

from ostler_control.api.caller import caller_of
from ostler_control.api.convert import userdata as convert
from ostler_control.api.labels import select
from ostler_control.api.paging import page
from ostler_control.api.requests import once
from ostler_control.api.resolve import optional, resolve, visible
from ostler_control.api.session import with_sessions
from ostler_control.api.start_operation import account_for
from ostler_control.keys import Keyring
from ostler_control.models import Template, UserData, Vm
from ostler_control.userdata import registered, vm_user_data


@with_sessions
class UserDataService(userdata_pb2_grpc.UserDataServiceServicer):
    def __init__(self, keys: Keyring) -> None:
        self._keys = keys

    def RegisterUserData(self, request: pb.RegisterUserDataRequest, context: grpc.ServicerContext) -> pb.UserData:
        caller = caller_of(context)
        account = account_for(caller, request.account)

        def make() -> UserData:
            names = list(request.variables)
            return registered.register(request.name, account, request.data, names, caller.actor, self._keys)

        return convert.user_data([once(UserData, caller, request, make)], caller)[0]

    def GetUserData(self, request: pb.GetUserDataRequest, context: grpc.ServicerContext) -> pb.UserData:
        caller = caller_of(context)
        row = resolve(UserData, request.user_data, "user_data", caller=caller)
        return convert.user_data([row], caller, registered.load(row, self._keys).data)[0]

    def ListUserData(self, request: pb.ListUserDataRequest, context: grpc.ServicerContext) -> pb.ListUserDataResponse:
        caller = caller_of(context)
        query = select(visible(UserData, caller), UserData, request.selector)
        found = page(query, UserData, request, scope=caller.actor)
        rows = convert.user_data(found.rows, caller)
        return pb.ListUserDataResponse(user_data=rows, next_page_token=found.next_page_token)

    def DeleteUserData(
        self, request: pb.DeleteUserDataRequest, context: grpc.ServicerContext
    ) -> pb.DeleteUserDataResponse:
        caller = caller_of(context)
        registered.delete(resolve(UserData, request.user_data, "user_data", caller=caller), caller.actor)
        return pb.DeleteUserDataResponse()

    def RenderUserData(
        self, request: pb.RenderUserDataRequest, context: grpc.ServicerContext
    ) -> pb.RenderUserDataResponse:
        caller = caller_of(context)
        vm = optional(Vm, request.vm, "vm", caller=caller)
        template = optional(Template, request.template, "template")
        if vm and not template and not request.HasField("user_data"):
            return convert.rendered(vm_user_data.seed_of(vm, self._keys))
        given = None
        if request.HasField("user_data"):
            account_id, name = (vm.account_id, vm.name) if vm else (caller.account_id, vm_user_data.NEW_VM)
            given = convert.given(request.user_data, account_id, self._keys, name)
        if vm and not template:
            template = vm.template
        return convert.rendered(vm_user_data.preview(vm, given, template, self._keys))
