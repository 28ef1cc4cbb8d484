"""ostler.control.v1.OfferingService."""

from __future__ import annotations

import grpc
from ostler.control.v1 import offering_pb2 as pb
from ostler.control.v1 import offering_pb2_grpc
from ostler.types.v1 import volume_pb2
from ostler_common import io_limits

from ostler_control.api.caller import caller_of
from ostler_control.api.convert import core
from ostler_control.api.convert.enums import from_enum
from ostler_control.api.labels import select
from ostler_control.api.masks import paths
from ostler_control.api.paging import page
from ostler_control.api.requests import once
from ostler_control.api.resolve import resolve, visible
from ostler_control.api.session import with_sessions
from ostler_control.catalog import driver_details, offerings
from ostler_control.catalog.sizes import Size
from ostler_control.models import DiskOffering, ServiceOffering


@with_sessions
class OfferingService(offering_pb2_grpc.OfferingServiceServicer):
    def CreateServiceOffering(
        self, request: pb.CreateServiceOfferingRequest, context: grpc.ServicerContext
    ) -> pb.ServiceOffering:
        caller = caller_of(context)

        def make() -> ServiceOffering:
            return offerings.create_service(
                request.name,
                request.cpus,
                request.memory_bytes,
                request.encrypt_root,
                caller.actor,
                dict(request.extra_configs),
                dict(request.details),
                Size(request.max_cpus, request.max_memory_bytes),
            )

        return core.service_offerings([once(ServiceOffering, caller, request, make)], caller)[0]

    def GetServiceOffering(
        self, request: pb.GetServiceOfferingRequest, context: grpc.ServicerContext
    ) -> pb.ServiceOffering:
        row = resolve(ServiceOffering, request.service_offering, "service_offering")
        return core.service_offerings([row], caller_of(context))[0]

    def ListServiceOfferings(
        self, request: pb.ListServiceOfferingsRequest, context: grpc.ServicerContext
    ) -> pb.ListServiceOfferingsResponse:
        query = visible(ServiceOffering, None)
        if request.HasField("encrypt_root"):
            query = query.where(ServiceOffering.encrypt_root == request.encrypt_root)
        query = select(query, ServiceOffering, request.selector)
        found = page(query, ServiceOffering, request)
        rows = core.service_offerings(found.rows, caller_of(context))
        return pb.ListServiceOfferingsResponse(service_offerings=rows, next_page_token=found.next_page_token)

    def UpdateServiceOffering(
        self, request: pb.UpdateServiceOfferingRequest, context: grpc.ServicerContext
    ) -> pb.ServiceOffering:
        caller = caller_of(context)
        row = resolve(ServiceOffering, request.service_offering, "service_offering")
        paths(request.update_mask, ("details",))
        driver_details.replace_of_offering(row, dict(request.values.details), caller.actor)
        return core.service_offerings([row], caller)[0]

    def DeleteServiceOffering(
        self, request: pb.DeleteServiceOfferingRequest, context: grpc.ServicerContext
    ) -> pb.DeleteServiceOfferingResponse:
        offering = resolve(ServiceOffering, request.service_offering, "service_offering")
        offerings.retire(offering, caller_of(context).actor)
        return pb.DeleteServiceOfferingResponse()

    def CreateDiskOffering(
        self, request: pb.CreateDiskOfferingRequest, context: grpc.ServicerContext
    ) -> pb.DiskOffering:
        caller = caller_of(context)
        provisioning = from_enum(
            volume_pb2.Provisioning, "PROVISIONING_", request.provisioning, "provisioning", default="thin"
        )
        format = from_enum(volume_pb2.DiskFormat, "DISK_FORMAT_", request.format, "format", default="qcow2")

        limits = io_limits.from_message(request.limits)

        def make() -> DiskOffering:
            return offerings.create_disk(
                request.name,
                request.size_bytes,
                request.encrypt,
                provisioning,
                format,
                caller.actor,
                limits,
                request.ignore_discard,
            )

        return core.disk_offerings([once(DiskOffering, caller, request, make)])[0]

    def GetDiskOffering(self, request: pb.GetDiskOfferingRequest, context: grpc.ServicerContext) -> pb.DiskOffering:
        return core.disk_offerings([resolve(DiskOffering, request.disk_offering, "disk_offering")])[0]

    def ListDiskOfferings(
        self, request: pb.ListDiskOfferingsRequest, context: grpc.ServicerContext
    ) -> pb.ListDiskOfferingsResponse:
        query = visible(DiskOffering, None)
        if request.HasField("encrypt"):
            query = query.where(DiskOffering.encrypt == request.encrypt)
        query = select(query, DiskOffering, request.selector)
        found = page(query, DiskOffering, request)
        rows = core.disk_offerings(found.rows)
        return pb.ListDiskOfferingsResponse(disk_offerings=rows, next_page_token=found.next_page_token)

    def DeleteDiskOffering(
        self, request: pb.DeleteDiskOfferingRequest, context: grpc.ServicerContext
    ) -> pb.DeleteDiskOfferingResponse:
        offerings.retire(resolve(DiskOffering, request.disk_offering, "disk_offering"), caller_of(context).actor)
        return pb.DeleteDiskOfferingResponse()
