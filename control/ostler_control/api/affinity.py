"""ostler.control.v1.AffinityService."""

from __future__ import annotations

import grpc
from ostler.control.v1 import affinity_pb2 as pb
from ostler.control.v1 import affinity_pb2_grpc
from ostler_common.errors import PermissionDeniedError

from ostler_control.api.caller import caller_of
from ostler_control.api.convert import drs
from ostler_control.api.convert.enums import from_enum
from ostler_control.api.labels import select
from ostler_control.api.paging import page
from ostler_control.api.requests import once
from ostler_control.api.resolve import resolve, visible
from ostler_control.api.session import with_sessions
from ostler_control.api.start_operation import account_for
from ostler_control.models import AffinityGroup, Host
from ostler_control.scheduling import affinity


@with_sessions
class AffinityService(affinity_pb2_grpc.AffinityServiceServicer):
    def CreateAffinityGroup(
        self, request: pb.CreateAffinityGroupRequest, context: grpc.ServicerContext
    ) -> pb.AffinityGroup:
        caller = caller_of(context)
        kind = from_enum(pb.AffinityGroup.Kind, "", request.kind, "kind")
        account = account_for(caller, request.account)
        if (request.hosts or kind in (affinity.RUN_ON, affinity.NOT_RUN_ON)) and not caller.is_admin:
            raise PermissionDeniedError("only an admin creates groups that name hosts", "ADMIN_ONLY")
        hosts = [resolve(Host, host, "hosts") for host in request.hosts]

        def make() -> AffinityGroup:
            return affinity.create(request.name, account, kind, not request.preferred, caller.actor, hosts)

        return drs.affinity_groups([once(AffinityGroup, caller, request, make)], caller)[0]

    def GetAffinityGroup(self, request: pb.GetAffinityGroupRequest, context: grpc.ServicerContext) -> pb.AffinityGroup:
        caller = caller_of(context)
        return drs.affinity_groups([resolve(AffinityGroup, request.group, "group", caller=caller)], caller)[0]

    def ListAffinityGroups(
        self, request: pb.ListAffinityGroupsRequest, context: grpc.ServicerContext
    ) -> pb.ListAffinityGroupsResponse:
        caller = caller_of(context)
        query = select(visible(AffinityGroup, caller), AffinityGroup, request.selector)
        found = page(query, AffinityGroup, request, scope=caller.actor)
        groups = drs.affinity_groups(found.rows, caller)
        return pb.ListAffinityGroupsResponse(affinity_groups=groups, next_page_token=found.next_page_token)

    def SetAffinityGroupHosts(
        self, request: pb.SetAffinityGroupHostsRequest, context: grpc.ServicerContext
    ) -> pb.AffinityGroup:
        caller = caller_of(context)
        group = resolve(AffinityGroup, request.group, "group", caller=caller)
        hosts = [resolve(Host, host, "hosts") for host in request.hosts]
        return drs.affinity_groups([affinity.set_hosts(group, hosts, caller.actor)], caller)[0]

    def DeleteAffinityGroup(
        self, request: pb.DeleteAffinityGroupRequest, context: grpc.ServicerContext
    ) -> pb.DeleteAffinityGroupResponse:
        caller = caller_of(context)
        group = resolve(AffinityGroup, request.group, "group", caller=caller)
        if group.kind in (affinity.RUN_ON, affinity.NOT_RUN_ON) and not caller.is_admin:
            raise PermissionDeniedError("only an admin deletes groups that name hosts", "ADMIN_ONLY")
        affinity.delete(group, caller.actor)
        return pb.DeleteAffinityGroupResponse()
