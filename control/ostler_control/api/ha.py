"""ostler.control.v1.HaService."""

from __future__ import annotations

import grpc
from google.longrunning.operations_pb2 import Operation as LongRunning
from ostler.control.v1 import ha_pb2 as pb
from ostler.control.v1 import ha_pb2_grpc
from ostler_common.errors import bad_field
from ostler_common.secret import Secret

from ostler_control.api.caller import caller_of
from ostler_control.api.convert import ha as convert
from ostler_control.api.convert.enums import from_enum
from ostler_control.api.paging import page
from ostler_control.api.resolve import resolve, visible
from ostler_control.api.start_operation import start_operation
from ostler_control.database import session
from ostler_control.ha import devices, priorities, switching
from ostler_control.ha.fence import fence
from ostler_control.ha.fence_agents import Device
from ostler_control.ha.status import status
from ostler_control.keys import Keyring
from ostler_control.models import Cluster, FenceDevice, Host, Operation, Priority, ServiceOffering, Vm, new_id


class HaService(ha_pb2_grpc.HaServiceServicer):
    """Handlers that ask a fence device hold no database connection meanwhile."""

    def __init__(self, keys: Keyring) -> None:
        self._keys = keys

    def SetPriority(self, request: pb.SetPriorityRequest, context: grpc.ServicerContext) -> pb.SetPriorityResponse:
        if bool(request.vm) == bool(request.service_offering):
            raise bad_field("vm", "give either a VM or a service offering", "INVALID_FIELD")
        word = from_enum(pb.Priority, convert.PREFIX, request.priority, "priority", "")
        wanted = Priority(word) if word else None
        actor = caller_of(context).actor
        with session():
            if request.vm:
                vm = resolve(Vm, request.vm, "vm")
                priorities.set_vm(vm, wanted, actor)
                return pb.SetPriorityResponse(priority=convert.priority(priorities.of_vms([vm.id])[vm.id]))
            offering = resolve(ServiceOffering, request.service_offering, "service_offering")
            priorities.set_offering(offering, wanted, actor)
            return pb.SetPriorityResponse(priority=convert.priority(wanted or Priority.OFF))

    def GetHaStatus(self, request: pb.GetHaStatusRequest, context: grpc.ServicerContext) -> pb.HaStatus:
        with session():
            return convert.status(status(resolve(Cluster, request.cluster, "cluster")))

    def AddFenceDevice(self, request: pb.AddFenceDeviceRequest, context: grpc.ServicerContext) -> pb.FenceDevice:
        with session():
            host = resolve(Host, request.host, "host")
        given = Device(request.agent, request.address, request.username, dict(request.options))
        new = devices.NewDevice(new_id(), given, Secret(request.password), request.power_on)
        power = devices.prove(new)
        with session():
            return convert.device(devices.create(host, new, power, caller_of(context).actor, self._keys))

    def ListFenceDevices(
        self, request: pb.ListFenceDevicesRequest, context: grpc.ServicerContext
    ) -> pb.ListFenceDevicesResponse:
        with session():
            found = page(visible(FenceDevice, None), FenceDevice, request)
            return pb.ListFenceDevicesResponse(
                fence_devices=map(convert.device, found.rows), next_page_token=found.next_page_token
            )

    def TestFenceDevice(self, request: pb.TestFenceDeviceRequest, context: grpc.ServicerContext) -> pb.FenceDevice:
        with session():
            row = devices.of_host(resolve(Host, request.host, "host"))
        tested = devices.test(row, self._keys)
        with session():
            return convert.device(tested)

    def RemoveFenceDevice(
        self, request: pb.RemoveFenceDeviceRequest, context: grpc.ServicerContext
    ) -> pb.RemoveFenceDeviceResponse:
        with session():
            devices.delete(resolve(Host, request.host, "host"), caller_of(context).actor)
        return pb.RemoveFenceDeviceResponse()

    def PowerOffHost(self, request: pb.PowerOffHostRequest, context: grpc.ServicerContext) -> LongRunning:
        caller = caller_of(context)
        with session():
            host = resolve(Host, request.host, "host")
            return start_operation(caller, request, lambda: switching.power_off(host, caller.actor))

    def PowerOnHost(self, request: pb.PowerOnHostRequest, context: grpc.ServicerContext) -> LongRunning:
        caller = caller_of(context)
        with session():
            host = resolve(Host, request.host, "host")
            return start_operation(caller, request, lambda: switching.power_on(host, caller.actor))

    def DeclareHostDead(self, request: pb.DeclareHostDeadRequest, context: grpc.ServicerContext) -> LongRunning:
        caller = caller_of(context)
        with session():
            host = resolve(Host, request.host, "host")
            if request.confirm != host.name:
                raise bad_field("confirm", f"must be the host's name, {host.name}", "NOT_CONFIRMED")
            has_device = FenceDevice.select().where(FenceDevice.host == host.id).exists()

            def make() -> Operation:
                device = has_device and not request.without_fencing
                return fence(host, caller.actor, device=device, automatic=False)

            return start_operation(caller, request, make)
