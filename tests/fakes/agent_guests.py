"""The calls that reach guests: consoles, screens, guest agents."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import grpc
from ostler.agent.v1 import (
    vm_pb2,
)
from ostler.types.v1 import guest_pb2
from ostler.types.v1 import vm_pb2 as types_vm_pb2
from ostler_common.errors import FailedPreconditionError, NotFoundError

from tests.fakes.agent_machines import AgentMachines
from tests.fakes.faults import Errors


class GuestCalls(AgentMachines):
    """Of VmService."""

    def ReadVmAddresses(
        self, request: vm_pb2.ReadVmAddressesRequest, context: grpc.ServicerContext
    ) -> vm_pb2.ReadVmAddressesResponse:
        return vm_pb2.ReadVmAddressesResponse(addresses=self.claims)

    def Console(
        self, request_iterator: Iterator[vm_pb2.ConsoleInput], context: grpc.ServicerContext
    ) -> Iterator[vm_pb2.ConsoleOutput]:
        with Errors(context):
            first = next(request_iterator)
            self._machine(first.vm_id)
            yield vm_pb2.ConsoleOutput()
            for request in request_iterator:
                yield vm_pb2.ConsoleOutput(data=b"echo " + request.data)

    def Screen(
        self, request_iterator: Iterator[vm_pb2.ConsoleInput], context: grpc.ServicerContext
    ) -> Iterator[vm_pb2.ConsoleOutput]:
        """Of a VNC server at `screen`, the same for all VMs; without one it is black and silent."""
        with Errors(context):
            first = next(request_iterator)
            self._machine(first.vm_id)
            yield vm_pb2.ConsoleOutput()
            if self.screen is None:
                for request in request_iterator:
                    yield vm_pb2.ConsoleOutput(data=b"drawn " + request.data)
                return
            with socket.socket(socket.AF_UNIX) as connected:
                connected.connect(str(self.screen))
                context.add_callback(lambda: connected.shutdown(socket.SHUT_RDWR))
                threading.Thread(target=_send_all, args=(connected, request_iterator), daemon=True).start()
                while data := connected.recv(1 << 16):
                    yield vm_pb2.ConsoleOutput(data=data)

    def ReadConsoleLog(
        self, request: vm_pb2.ReadConsoleLogRequest, context: grpc.ServicerContext
    ) -> Iterator[vm_pb2.ConsoleOutput]:
        with Errors(context):
            if request.vm_id not in self.vms:
                raise NotFoundError(f"VM {request.vm_id} is not on {self.name}", "VM_NOT_FOUND")
            yield vm_pb2.ConsoleOutput(data=f"{self.name} last {request.lines}\n".encode())
            while request.follow and context.is_active():
                time.sleep(0.05)

    def SendKey(self, request: vm_pb2.SendKeyRequest, context: grpc.ServicerContext) -> vm_pb2.SendKeyResponse:
        with Errors(context):
            self._machine(request.vm_id)
            self.pressed.append(request.keys)
        return vm_pb2.SendKeyResponse()

    def ReadFirmwareState(
        self, request: vm_pb2.ReadFirmwareStateRequest, context: grpc.ServicerContext
    ) -> types_vm_pb2.FirmwareState:
        with Errors(context):
            self.fail_now("ReadFirmwareState")
        found = self.tpms.get(request.vm_id)
        return types_vm_pb2.FirmwareState(tpm=found.passphrase + b"|" + found.content if found else b"")

    def ReadGuestInfo(self, request: vm_pb2.ReadGuestInfoRequest, context: grpc.ServicerContext) -> guest_pb2.GuestInfo:
        with Errors(context):
            return self._guest(request.vm_id)
        raise AssertionError

    def SyncGuestTime(
        self, request: vm_pb2.SyncGuestTimeRequest, context: grpc.ServicerContext
    ) -> vm_pb2.SyncGuestTimeResponse:
        with Errors(context):
            self._guest(request.vm_id)
            self.asked_guests.append("time")
        return vm_pb2.SyncGuestTimeResponse()

    def SetGuestPassword(
        self, request: vm_pb2.SetGuestPasswordRequest, context: grpc.ServicerContext
    ) -> vm_pb2.SetGuestPasswordResponse:
        with Errors(context):
            self._guest(request.vm_id)
            self.asked_guests.append(f"password of {request.guest_user}: {request.password.decode()}")
        return vm_pb2.SetGuestPasswordResponse()

    def SetGuestSshKeys(
        self, request: vm_pb2.SetGuestSshKeysRequest, context: grpc.ServicerContext
    ) -> vm_pb2.SetGuestSshKeysResponse:
        with Errors(context):
            self._guest(request.vm_id)
            self.asked_guests.append(f"keys of {request.guest_user}: {', '.join(request.ssh_keys)}")
        return vm_pb2.SetGuestSshKeysResponse()

    def _guest(self, vm_id: str) -> guest_pb2.GuestInfo:
        self._machine(vm_id)
        if self.guest is None:
            raise FailedPreconditionError("no guest agent is connected", "GUEST_AGENT_MISSING")
        return self.guest

    def Screenshot(self, request: vm_pb2.ScreenshotRequest, context: grpc.ServicerContext) -> vm_pb2.ScreenshotResponse:
        return vm_pb2.ScreenshotResponse(png=b"\x89PNG")


def _send_all(connected: socket.socket, requests: Iterator[vm_pb2.ConsoleInput]) -> None:
    try:
        for request in requests:
            connected.sendall(request.data)
    except (grpc.RpcError, OSError):
        pass  # the call has ended
