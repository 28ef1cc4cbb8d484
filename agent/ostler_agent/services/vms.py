"""VmService."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial

import grpc
import structlog
from google.protobuf.message import Message
from ostler.agent.v1 import vm_pb2, vm_pb2_grpc
from ostler.types.v1 import guest_pb2, job_pb2
from ostler.types.v1 import vm_pb2 as types_pb2
from ostler_common import io_limits
from ostler_common.errors import bad_field
from ostler_common.hypervisors import Function
from ostler_common.secret import Secret

from ostler_agent.hypervisors.base import Console, Hypervisor, Paths, Screenshot, need
from ostler_agent.isos import Isos
from ostler_agent.jobs import JobContext, Jobs, interrupted
from ostler_agent.journal import Record
from ostler_agent.looks import LOOKS
from ostler_agent.seeds import SEEDS, Seeds
from ostler_agent.services import convert, guest_convert
from ostler_agent.spec import PowerState, VmInfo, VmSpec, VolumeRef
from ostler_agent.vms import (
    addresses,
    cdroms,
    console_log,
    continuing,
    disks,
    firmware,
    guest,
    keyboard,
    nic_link,
    nics,
    power,
    resizing,
    screen,
)

log = structlog.get_logger(__name__)

Updates = Iterator[job_pb2.JobUpdate]


class VmService(vm_pb2_grpc.VmServiceServicer):
    """paths: where a volume's file is (`Pools.volume_path`); unmap_if_unused: called with detached volumes; may_start:
    raises when no VM may start here now (`Guards.check_may_start`)."""

    def __init__(
        self,
        jobs: Jobs,
        driver: Hypervisor,
        paths: Paths,
        unmap_if_unused: Callable[[str], None],
        isos: Isos,
        seeds: Seeds = SEEDS,
        may_start: Callable[[], None] = lambda: None,
    ) -> None:
        self._jobs = jobs
        self._may_start = may_start
        self._isos = isos
        self._driver = driver
        self._paths = paths
        self._seeds = seeds
        self._release_volume = unmap_if_unused
        jobs.on_recover("vm.start", self._recover_start)
        jobs.on_recover("vm.stop", self._recover_stop)
        jobs.on_recover("vm.delete", self._recover_delete)
        jobs.on_recover("vm.attach", self._recover_attach)
        jobs.on_recover("vm.detach", self._recover_detach)
        jobs.on_recover("vm.resize", self._recover_resize)

    def DefineVm(self, request: vm_pb2.DefineVmRequest, context: grpc.ServicerContext) -> Updates:
        spec = convert.vm_spec(request.spec)
        return self._jobs.run(
            request.operation,
            "vm.define",
            request,
            lambda job: convert.vm_info(
                power.define(self._driver, self._paths, self._isos.name(spec), job, self._seeds)
            ),
        )

    def StartVm(self, request: vm_pb2.StartVmRequest, context: grpc.ServicerContext) -> Updates:
        spec = convert.vm_spec(request.spec)
        memory = convert.volume_ref(request.memory, "memory") if request.HasField("memory") else None
        return self._jobs.run(
            request.operation,
            "vm.start",
            request,
            lambda job: convert.vm_info(self._start(spec, job, memory)),
        )

    def StopVm(self, request: vm_pb2.StopVmRequest, context: grpc.ServicerContext) -> Updates:
        vm_id = convert.uuid_field(request.vm_id, "vm_id")
        if request.timeout_s < 0:
            raise bad_field("timeout_s", "must not be negative")
        return self._jobs.run(
            request.operation,
            "vm.stop",
            request,
            lambda job: self._stop(vm_id, request.timeout_s, job),
        )

    def RebootVm(self, request: vm_pb2.RebootVmRequest, context: grpc.ServicerContext) -> Updates:
        vm_id = convert.uuid_field(request.vm_id, "vm_id")
        return self._jobs.run(
            request.operation,
            "vm.reboot",
            request,
            lambda job: convert.vm_info(power.reboot(self._driver, vm_id, request.hard)),
        )

    def DeleteVm(self, request: vm_pb2.DeleteVmRequest, context: grpc.ServicerContext) -> Updates:
        vm_id = convert.uuid_field(request.vm_id, "vm_id")
        return self._jobs.run(
            request.operation,
            "vm.delete",
            request,
            lambda job: convert.vm_info(power.delete(self._driver, vm_id, self._seeds)),
        )

    def AttachVolume(self, request: vm_pb2.AttachVolumeRequest, context: grpc.ServicerContext) -> Updates:
        vm_id, disk = convert.uuid_field(request.vm_id, "vm_id"), convert.disk_spec(request.disk)
        return self._jobs.run(
            request.operation,
            "vm.attach",
            request,
            lambda job: convert.vm_info(disks.attach(self._driver, self._paths, vm_id, disk, job)),
        )

    def DetachVolume(self, request: vm_pb2.DetachVolumeRequest, context: grpc.ServicerContext) -> Updates:
        vm_id, volume_id = (
            convert.uuid_field(request.vm_id, "vm_id"),
            convert.uuid_field(request.volume_id, "volume_id"),
        )
        key_id = convert.uuid_field(request.key_id, "key_id") if request.key_id else None
        return self._jobs.run(
            request.operation,
            "vm.detach",
            request,
            lambda job: convert.vm_info(self._detach(vm_id, volume_id, key_id, job)),
        )

    def AttachNic(self, request: vm_pb2.AttachNicRequest, context: grpc.ServicerContext) -> Updates:
        vm_id, nic = convert.uuid_field(request.vm_id, "vm_id"), convert.nic_spec(request.nic)
        return self._jobs.run(
            request.operation,
            "vm.attach-nic",
            request,
            lambda job: convert.vm_info(nics.attach(self._driver, vm_id, nic, job)),
        )

    def DetachNic(self, request: vm_pb2.DetachNicRequest, context: grpc.ServicerContext) -> Updates:
        vm_id = convert.uuid_field(request.vm_id, "vm_id")
        return self._jobs.run(
            request.operation,
            "vm.detach-nic",
            request,
            lambda job: convert.vm_info(nics.detach(self._driver, vm_id, request.mac, job)),
        )

    def SetNicLink(self, request: vm_pb2.SetNicLinkRequest, context: grpc.ServicerContext) -> Updates:
        vm_id = convert.uuid_field(request.vm_id, "vm_id")
        return self._jobs.run(
            request.operation,
            "vm.set-nic-link",
            request,
            lambda job: convert.vm_info(nic_link.set_link(self._driver, vm_id, request.mac, request.up, job)),
        )

    def ChangeCdrom(self, request: vm_pb2.ChangeCdromRequest, context: grpc.ServicerContext) -> Updates:
        vm_id, drive = convert.uuid_field(request.vm_id, "vm_id"), convert.cdrom_drive(request.drive, "drive")
        cdrom = convert.cdrom(request.cdrom, "cdrom") if request.HasField("cdrom") else None
        return self._jobs.run(
            request.operation,
            "vm.change-cdrom",
            request,
            lambda job: convert.vm_info(cdroms.change(self._driver, self._isos, vm_id, drive, cdrom, job)),
        )

    def ReadVmAddresses(
        self, request: vm_pb2.ReadVmAddressesRequest, context: grpc.ServicerContext
    ) -> vm_pb2.ReadVmAddressesResponse:
        found = addresses.read(self._driver, convert.uuid_field(request.vm_id, "vm_id"))
        return vm_pb2.ReadVmAddressesResponse(addresses=map(convert.seen_address, found))

    def LimitDisk(self, request: vm_pb2.LimitDiskRequest, context: grpc.ServicerContext) -> Updates:
        vm_id = convert.uuid_field(request.vm_id, "vm_id")
        volume_id = convert.uuid_field(request.volume_id, "volume_id")
        limits = io_limits.from_message(request.limits)
        return self._jobs.run(
            request.operation,
            "vm.limit-disk",
            request,
            lambda job: convert.vm_info(disks.limit(self._driver, vm_id, volume_id, limits, job)),
        )

    def ResizeVm(self, request: vm_pb2.ResizeVmRequest, context: grpc.ServicerContext) -> Updates:
        vm_id, size = convert.uuid_field(request.vm_id, "vm_id"), convert.vm_size(request)
        return self._jobs.run(
            request.operation,
            "vm.resize",
            request,
            lambda job: convert.vm_info(resizing.resize(self._driver, vm_id, *size, job)),
        )

    def GetVm(self, request: vm_pb2.GetVmRequest, context: grpc.ServicerContext) -> types_pb2.VmInfo:
        return self._seen(convert.uuid_field(request.vm_id, "vm_id"))

    def ListVms(self, request: vm_pb2.ListVmsRequest, context: grpc.ServicerContext) -> vm_pb2.ListVmsResponse:
        return vm_pb2.ListVmsResponse(vms=[convert.vm_info(info) for info in self._driver.vms()])

    def Console(
        self, request_iterator: Iterator[vm_pb2.ConsoleInput], context: grpc.ServicerContext
    ) -> Iterator[vm_pb2.ConsoleOutput]:
        return _converse(self._driver.console, request_iterator, context)

    def Screen(
        self, request_iterator: Iterator[vm_pb2.ConsoleInput], context: grpc.ServicerContext
    ) -> Iterator[vm_pb2.ConsoleOutput]:
        return _converse(partial(screen.open_screen, self._driver), request_iterator, context)

    def ReadConsoleLog(
        self, request: vm_pb2.ReadConsoleLogRequest, context: grpc.ServicerContext
    ) -> Iterator[vm_pb2.ConsoleOutput]:
        vm_id, ended = convert.uuid_field(request.vm_id, "vm_id"), threading.Event()
        if not context.add_callback(ended.set):
            return
        for data in console_log.read(self._driver, vm_id, request.lines, ended if request.follow else None):
            yield vm_pb2.ConsoleOutput(data=data)

    def SendKey(self, request: vm_pb2.SendKeyRequest, context: grpc.ServicerContext) -> vm_pb2.SendKeyResponse:
        keyboard.send_key(self._driver, convert.uuid_field(request.vm_id, "vm_id"), request.keys)
        return vm_pb2.SendKeyResponse()

    def ReadGuestInfo(self, request: vm_pb2.ReadGuestInfoRequest, context: grpc.ServicerContext) -> guest_pb2.GuestInfo:
        return guest_convert.guest_info(guest.read_info(self._driver, convert.uuid_field(request.vm_id, "vm_id")))

    def SyncGuestTime(
        self, request: vm_pb2.SyncGuestTimeRequest, context: grpc.ServicerContext
    ) -> vm_pb2.SyncGuestTimeResponse:
        guest.sync_time(self._driver, convert.uuid_field(request.vm_id, "vm_id"))
        return vm_pb2.SyncGuestTimeResponse()

    def SetGuestPassword(
        self, request: vm_pb2.SetGuestPasswordRequest, context: grpc.ServicerContext
    ) -> vm_pb2.SetGuestPasswordResponse:
        vm_id = convert.uuid_field(request.vm_id, "vm_id")
        guest.set_password(self._driver, vm_id, request.guest_user, Secret(request.password))
        return vm_pb2.SetGuestPasswordResponse()

    def SetGuestSshKeys(
        self, request: vm_pb2.SetGuestSshKeysRequest, context: grpc.ServicerContext
    ) -> vm_pb2.SetGuestSshKeysResponse:
        vm_id = convert.uuid_field(request.vm_id, "vm_id")
        guest.set_ssh_keys(self._driver, vm_id, request.guest_user, request.ssh_keys, keep_others=request.keep_others)
        return vm_pb2.SetGuestSshKeysResponse()

    def ReadFirmwareState(
        self, request: vm_pb2.ReadFirmwareStateRequest, context: grpc.ServicerContext
    ) -> types_pb2.FirmwareState:
        return convert.firmware_state(firmware.read_state(self._driver, convert.uuid_field(request.vm_id, "vm_id")))

    def Screenshot(self, request: vm_pb2.ScreenshotRequest, context: grpc.ServicerContext) -> vm_pb2.ScreenshotResponse:
        need(self._driver, Function.SCREENSHOT)
        assert isinstance(self._driver, Screenshot)
        return vm_pb2.ScreenshotResponse(png=self._driver.screenshot(convert.uuid_field(request.vm_id, "vm_id")))

    def _start(self, spec: VmSpec, job: JobContext, memory: VolumeRef | None) -> VmInfo:
        self._may_start()
        if not spec.cdroms or self._driver.running(spec.vm_id):
            return self._start_or_continue(spec, job, memory)
        need(self._driver, Function.ISO)
        with self._isos.hold(spec, job) as held:
            return self._start_or_continue(held, job, memory)

    def _start_or_continue(self, spec: VmSpec, job: JobContext, memory: VolumeRef | None) -> VmInfo:
        if memory is None:
            return power.start(self._driver, self._paths, spec, job, self._seeds)
        return continuing.start(self._driver, self._paths, spec, memory, job, self._seeds)

    def _stop(self, vm_id: str, timeout_s: float, job: JobContext) -> types_pb2.VmInfo:
        power.stop(self._driver, vm_id, timeout_s, job)
        return self._seen(vm_id)

    def _seen(self, vm_id: str) -> types_pb2.VmInfo:
        """The VM as it is now, newer than all that was reported of it before."""
        look = LOOKS.next()
        return convert.vm_info(self._driver.vm(vm_id), look)

    def _detach(self, vm_id: str, volume_id: str, key_id: str | None, job: JobContext) -> VmInfo:
        info = disks.detach(self._driver, vm_id, volume_id, key_id, job)
        self._release_volume(volume_id)
        return info

    # -- resolve interrupted jobs by the hypervisor's current state

    def _recover_start(self, record: Record) -> Message:
        return self._resolve_power_state(record.request_as(vm_pb2.StartVmRequest).spec.vm_id, running=True)

    def _recover_stop(self, record: Record) -> Message:
        return self._resolve_power_state(record.request_as(vm_pb2.StopVmRequest).vm_id, running=False)

    def _recover_delete(self, record: Record) -> Message:
        info = self._driver.vm(record.request_as(vm_pb2.DeleteVmRequest).vm_id)
        if info.power_state is not PowerState.ABSENT:
            raise interrupted()
        return convert.vm_info(info)

    def _recover_attach(self, record: Record) -> Message:
        request = record.request_as(vm_pb2.AttachVolumeRequest)
        info = self._driver.vm(request.vm_id)
        # The definition changes before the running VM: what the VM has now, the definition has too.
        if request.disk.volume.volume_id not in info.volume_ids:
            raise interrupted()
        return convert.vm_info(info)

    def _recover_detach(self, record: Record) -> Message:
        """Completes a detach whose guest has released the disk: the rest needs no waiting."""
        request = record.request_as(vm_pb2.DetachVolumeRequest)
        if request.volume_id in self._driver.vm(request.vm_id).volume_ids:
            raise interrupted()
        context = JobContext(record.id)
        return convert.vm_info(
            disks.detach(self._driver, request.vm_id, request.volume_id, request.key_id or None, context)
        )

    def _recover_resize(self, record: Record) -> Message:
        request = record.request_as(vm_pb2.ResizeVmRequest)
        info = self._driver.vm(request.vm_id)
        if (info.cpus, info.memory_bytes) != (request.cpus, request.memory_bytes):
            raise interrupted()
        return convert.vm_info(info)

    def _resolve_power_state(self, vm_id: str, *, running: bool) -> Message:
        if self._driver.running(vm_id) is not running:
            raise interrupted()
        return self._seen(vm_id)


def _converse(
    open_console: Callable[[str, bool], Console],
    inputs: Iterator[vm_pb2.ConsoleInput],
    context: grpc.ServicerContext,
) -> Iterator[vm_pb2.ConsoleOutput]:
    """Joins a call to a console or screen until one of both ends."""
    first = next(inputs, vm_pb2.ConsoleInput())
    console = open_console(convert.uuid_field(first.vm_id, "vm_id"), first.force)
    # Release the console however the call ends; False: it has ended already.
    if not context.add_callback(console.close):
        console.close()
    threading.Thread(target=_forward_input, args=(console, first, inputs), name="console", daemon=True).start()
    yield vm_pb2.ConsoleOutput()  # tells the caller that it holds the console now
    while data := console.read():
        yield vm_pb2.ConsoleOutput(data=data)


def _forward_input(console: Console, first: vm_pb2.ConsoleInput, rest: Iterator[vm_pb2.ConsoleInput]) -> None:
    """Forwards the caller's input to the guest. At the end of the input, the console stays open for reading."""
    try:
        console.write(first.data)
        for message in rest:
            console.write(message.data)
    except grpc.RpcError:
        pass  # the call has ended
    except Exception:
        log.exception("cannot write to the console")
