"""ostler.control.v1.HypervisorService."""

from __future__ import annotations

import grpc
from ostler.control.v1 import hypervisor_pb2 as pb
from ostler.control.v1 import hypervisor_pb2_grpc

from ostler_control.api.convert import core
from ostler_control.api.paging import list_page
from ostler_control.api.session import with_sessions
from ostler_control.hypervisors import listing, rules


@with_sessions
class HypervisorService(hypervisor_pb2_grpc.HypervisorServiceServicer):
    def GetHypervisorType(
        self, request: pb.GetHypervisorTypeRequest, context: grpc.ServicerContext
    ) -> pb.HypervisorType:
        wanted = rules.find(request.hypervisor_type, "hypervisor_type").type
        return next(core.hypervisor_type(row) for row in listing.types() if row.type.type == wanted)

    def ListHypervisorTypes(
        self, request: pb.ListHypervisorTypesRequest, context: grpc.ServicerContext
    ) -> pb.ListHypervisorTypesResponse:
        found = list_page(listing.types(), request)
        return pb.ListHypervisorTypesResponse(
            hypervisor_types=map(core.hypervisor_type, found.rows), next_page_token=found.next_page_token
        )
