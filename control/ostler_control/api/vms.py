"""ostler.control.v1.VmService."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import grpc
from google.longrunning.operations_pb2 import Operation as LongRunning
from ostler.control.v1 import vm_pb2 as pb
from ostler.control.v1 import vm_pb2_grpc
from ostler.types.v1 import guest_pb2
from ostler.types.v1 import vm_pb2 as types_pb2
from ostler_common.errors import bad_field
from ostler_common.secret import Secret

from ostler_control import vms
from ostler_control.agents import Agents
from ostler_control.api.caller import caller_of
from ostler_control.api.convert import userdata
from ostler_control.api.convert import vms as convert_vms
from ostler_control.api.convert.enums import from_enum
from ostler_control.api.labels import select
from ostler_control.api.masks import paths
from ostler_control.api.paging import page
from ostler_control.api.redact import redact_errors_for
from ostler_control.api.resolve import optional, resolve, visible
from ostler_control.api.session import lasting, with_sessions
from ostler_control.api.start_operation import account_for, admins_only, start_operation, started_earlier
from ostler_control.caller import Caller
from ostler_control.database import session
from ostler_control.hosts.rows import address
from ostler_control.keys import Keyring
from ostler_control.models import (
    Account,
    AffinityGroup,
    Cluster,
    Host,
    Iso,
    Network,
    Pool,
    ServiceOffering,
    Template,
    Vm,
    Zone,
)
from ostler_control.userdata.seed import Addressing
from ostler_control.userdata.vm_user_data import Given
from ostler_control.vms.console import (
    console,
    console_log,
    idle_timeout_s,
    log_host,
    record_console,
    screen,
    screen_host,
    screenshot,
    send_key,
)
from ostler_control.vms.guest import guest_info, set_guest_password, set_guest_ssh_keys, sync_guest_time
from ostler_control.vms.isos import MAX_DRIVES
from ostler_control.vms.rows import running_host

FIELDS = ("name", "description", "drs_skip", "affinity_groups", "details", "user_data")


@with_sessions
class VmService(vm_pb2_grpc.VmServiceServicer):
    def __init__(self, agents: Agents, keys: Keyring) -> None:
        self._agents = agents
        self._keys = keys

    def CreateVm(self, request: pb.CreateVmRequest, context: grpc.ServicerContext) -> LongRunning:
        caller = caller_of(context)
        wanted = _wanted(request, caller, self._keys)
        return start_operation(caller, request, lambda: vms.create(wanted, caller.actor, self._keys))

    def GetVm(self, request: pb.GetVmRequest, context: grpc.ServicerContext) -> pb.Vm:
        caller = caller_of(context)
        row = resolve(Vm, request.vm, "vm", caller=caller)
        found = convert_vms.vm(row, caller)
        if request.read_addresses:
            found.seen_addresses.extend(vms.read_addresses(self._agents, row))
        return found

    def ListVms(self, request: pb.ListVmsRequest, context: grpc.ServicerContext) -> pb.ListVmsResponse:
        caller = caller_of(context)
        admins_only(caller, host=request.host)
        query = visible(Vm, caller)
        if request.account:
            query = query.where(Vm.account == resolve(Account, request.account, "account", caller=caller))
        if request.host:
            query = query.where(Vm.host == resolve(Host, request.host, "host"))
        if request.state:
            query = query.where(Vm.state == from_enum(pb.Vm.State, "", request.state, "state"))
        query = select(query, Vm, request.selector)
        found = page(query, Vm, request, scope=caller.actor)
        return pb.ListVmsResponse(vms=convert_vms.vms(found.rows, caller), next_page_token=found.next_page_token)

    def UpdateVm(self, request: pb.UpdateVmRequest, context: grpc.ServicerContext) -> pb.Vm:
        caller, fields = caller_of(context), paths(request.update_mask, FIELDS)
        row = resolve(Vm, request.vm, "vm", caller=caller)
        values = request.values
        row = vms.update(
            row,
            caller.actor,
            drs_skip=values.drs_skip if "drs_skip" in fields else None,
            groups=_groups(values.affinity_groups, row.account_id) if "affinity_groups" in fields else None,
            new_details=dict(values.details) if "details" in fields else None,
            given=self._given(request, row) if "user_data" in fields else None,
            keys=self._keys,
            name=values.name if "name" in fields else None,
            description=values.description if "description" in fields else None,
        )
        return convert_vms.vm(row, caller)

    def StartVm(self, request: pb.StartVmRequest, context: grpc.ServicerContext) -> LongRunning:
        caller = caller_of(context)
        admins_only(caller, host=request.host)
        row = resolve(Vm, request.vm, "vm", caller=caller)
        host = optional(Host, request.host, "host")
        return start_operation(caller, request, lambda: vms.start(row, caller.actor, host))

    def StopVm(self, request: pb.StopVmRequest, context: grpc.ServicerContext) -> LongRunning:
        caller = caller_of(context)
        row = resolve(Vm, request.vm, "vm", caller=caller)
        return start_operation(caller, request, lambda: vms.stop(row, caller.actor, request.timeout_s, request.force))

    def ResizeVm(self, request: pb.ResizeVmRequest, context: grpc.ServicerContext) -> LongRunning:
        caller = caller_of(context)
        row = resolve(Vm, request.vm, "vm", caller=caller)
        offering = resolve(ServiceOffering, request.service_offering, "service_offering")
        return start_operation(caller, request, lambda: vms.resize(row, offering, caller.actor))

    def SetFirmware(self, request: pb.SetFirmwareRequest, context: grpc.ServicerContext) -> LongRunning:
        caller = caller_of(context)
        row = resolve(Vm, request.vm, "vm", caller=caller)
        firmware = from_enum(types_pb2.Firmware, "FIRMWARE_", request.firmware, "firmware", default="")
        tpm = request.tpm if request.HasField("tpm") else None
        return start_operation(caller, request, lambda: vms.set_firmware(row, caller.actor, firmware, tpm))

    def RebootVm(self, request: pb.RebootVmRequest, context: grpc.ServicerContext) -> LongRunning:
        caller = caller_of(context)
        row = resolve(Vm, request.vm, "vm", caller=caller)
        return start_operation(caller, request, lambda: vms.reboot(row, caller.actor, request.hard))

    def MigrateVm(self, request: pb.MigrateVmRequest, context: grpc.ServicerContext) -> LongRunning:
        caller = caller_of(context)
        row = resolve(Vm, request.vm, "vm", caller=caller)
        host, pool = optional(Host, request.host, "host"), optional(Pool, request.pool, "pool")
        return start_operation(
            caller, request, lambda: vms.migrate(row, caller.actor, host, request.with_storage, pool)
        )

    def ReinstallVm(self, request: pb.ReinstallVmRequest, context: grpc.ServicerContext) -> LongRunning:
        caller = caller_of(context)
        row = resolve(Vm, request.vm, "vm", caller=caller)
        template = optional(Template, request.template, "template")
        given = self._given(request, row) if request.HasField("user_data") else None
        return start_operation(caller, request, lambda: vms.reinstall(row, caller.actor, self._keys, template, given))

    def CloneVm(self, request: pb.CloneVmRequest, context: grpc.ServicerContext) -> LongRunning:
        caller = caller_of(context)
        row = resolve(Vm, request.vm, "vm", caller=caller)
        copied = request.copy_firmware_state
        return start_operation(
            caller,
            request,
            lambda: vms.clone(row, request.name, caller.actor, self._keys, copy_firmware_state=copied),
        )

    def DeleteVm(self, request: pb.DeleteVmRequest, context: grpc.ServicerContext) -> LongRunning:
        caller = caller_of(context)
        row = resolve(Vm, request.vm, "vm", caller=caller)
        return start_operation(caller, request, lambda: vms.delete(row, caller.actor, request.force))

    @lasting  # the host may take a while to describe the VM
    def AdoptVm(self, request: pb.AdoptVmRequest, context: grpc.ServicerContext) -> LongRunning:
        caller = caller_of(context)
        with session():
            # By then the VM is a VM of the fleet, which a host describes otherwise.
            if (earlier := started_earlier(caller, request)) is not None:
                return earlier
            wanted = _adopted(request, caller)
        found = vms.inspect_vm(wanted, self._agents)
        with session():
            return start_operation(caller, request, lambda: vms.adopt(wanted, found, caller.actor))

    def UnmanageVm(self, request: pb.UnmanageVmRequest, context: grpc.ServicerContext) -> LongRunning:
        caller = caller_of(context)
        row = resolve(Vm, request.vm, "vm", caller=caller)
        return start_operation(caller, request, lambda: vms.unmanage(row, caller.actor))

    def AddNic(self, request: pb.AddNicRequest, context: grpc.ServicerContext) -> LongRunning:
        caller = caller_of(context)
        row = resolve(Vm, request.vm, "vm", caller=caller)
        nic = _nic(request.nic, "nic", caller)
        return start_operation(caller, request, lambda: vms.add_nic(row, nic, caller.actor))

    def RemoveNic(self, request: pb.RemoveNicRequest, context: grpc.ServicerContext) -> LongRunning:
        caller = caller_of(context)
        row = resolve(Vm, request.vm, "vm", caller=caller)
        return start_operation(caller, request, lambda: vms.remove_nic(row, request.mac, caller.actor))

    def SetNicLink(self, request: pb.SetNicLinkRequest, context: grpc.ServicerContext) -> LongRunning:
        caller = caller_of(context)
        row = resolve(Vm, request.vm, "vm", caller=caller)
        return start_operation(caller, request, lambda: vms.set_link(row, request.mac, request.up, caller.actor))

    def UpgradeMachine(self, request: pb.UpgradeMachineRequest, context: grpc.ServicerContext) -> pb.Vm:
        caller = caller_of(context)
        row = resolve(Vm, request.vm, "vm", caller=caller)
        return convert_vms.vm(vms.upgrade_machine(row, caller.actor), caller)

    def AttachIso(self, request: pb.AttachIsoRequest, context: grpc.ServicerContext) -> LongRunning:
        caller = caller_of(context)
        row = resolve(Vm, request.vm, "vm", caller=caller)
        iso = resolve(Iso, request.iso, "iso")
        return start_operation(caller, request, lambda: vms.attach_iso(row, iso, request.boot_first, caller.actor))

    def EjectIso(self, request: pb.EjectIsoRequest, context: grpc.ServicerContext) -> LongRunning:
        caller = caller_of(context)
        row = resolve(Vm, request.vm, "vm", caller=caller)
        iso = optional(Iso, request.iso, "iso")
        return start_operation(caller, request, lambda: vms.eject_iso(row, iso, caller.actor))

    def FindHosts(self, request: pb.FindHostsRequest, context: grpc.ServicerContext) -> pb.FindHostsResponse:
        row = resolve(Vm, request.vm, "vm", caller=caller_of(context))
        return pb.FindHostsResponse(candidates=map(convert_vms.candidate, vms.find_hosts(row)))

    def Console(
        self, request_iterator: Iterator[pb.ConsoleInput], context: grpc.ServicerContext
    ) -> Iterator[pb.ConsoleOutput]:
        caller = caller_of(context)
        first = next(request_iterator, None)
        if first is None:
            raise bad_field("vm", "must be in the first message", "REQUIRED")
        with redact_errors_for(caller, first):
            with session():
                row = resolve(Vm, first.vm, "vm", caller=caller)
                host, idle_s = address(running_host(row)), idle_timeout_s(row)
                record_console(row, caller.actor, first.force)
            typed = _after(first.data, (request.data for request in request_iterator))
            for data in console(self._agents, row.id, host, typed, first.force, idle_s, context):
                yield pb.ConsoleOutput(data=data)

    def Screen(
        self, request_iterator: Iterator[pb.ConsoleInput], context: grpc.ServicerContext
    ) -> Iterator[pb.ConsoleOutput]:
        caller = caller_of(context)
        first = next(request_iterator, None)
        if first is None:
            raise bad_field("vm", "must be in the first message", "REQUIRED")
        with redact_errors_for(caller, first):
            with session():
                row = resolve(Vm, first.vm, "vm", caller=caller)
                host, idle_s = address(screen_host(row)), idle_timeout_s(row)
                record_console(row, caller.actor, first.force, "vm.screen")
            sent = _after(first.data, (request.data for request in request_iterator))
            for data in screen(self._agents, row.id, host, sent, first.force, idle_s, context):
                yield pb.ConsoleOutput(data=data)

    def ReadConsoleLog(
        self, request: pb.ReadConsoleLogRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.ConsoleOutput]:
        caller = caller_of(context)
        with redact_errors_for(caller, request):
            with session():
                row = resolve(Vm, request.vm, "vm", caller=caller)
                host = address(log_host(row))
            for data in console_log(self._agents, row.id, host, request.lines, request.follow, context):
                yield pb.ConsoleOutput(data=data)

    def SendKey(self, request: pb.SendKeyRequest, context: grpc.ServicerContext) -> pb.SendKeyResponse:
        caller = caller_of(context)
        row = resolve(Vm, request.vm, "vm", caller=caller)
        with redact_errors_for(caller, request):
            send_key(self._agents, row, request.keys, caller.actor)
        return pb.SendKeyResponse()

    def ReadGuestInfo(self, request: pb.ReadGuestInfoRequest, context: grpc.ServicerContext) -> guest_pb2.GuestInfo:
        caller = caller_of(context)
        row = resolve(Vm, request.vm, "vm", caller=caller)
        with redact_errors_for(caller, request):
            return guest_info(self._agents, row)

    def SyncGuestTime(
        self, request: pb.SyncGuestTimeRequest, context: grpc.ServicerContext
    ) -> pb.SyncGuestTimeResponse:
        caller = caller_of(context)
        row = resolve(Vm, request.vm, "vm", caller=caller)
        with redact_errors_for(caller, request):
            sync_guest_time(self._agents, row, caller.actor)
        return pb.SyncGuestTimeResponse()

    def SetGuestPassword(
        self, request: pb.SetGuestPasswordRequest, context: grpc.ServicerContext
    ) -> pb.SetGuestPasswordResponse:
        caller = caller_of(context)
        row = resolve(Vm, request.vm, "vm", caller=caller)
        with redact_errors_for(caller, request):
            set_guest_password(self._agents, row, request.guest_user, Secret(request.password), caller.actor)
        return pb.SetGuestPasswordResponse()

    def SetGuestSshKeys(
        self, request: pb.SetGuestSshKeysRequest, context: grpc.ServicerContext
    ) -> pb.SetGuestSshKeysResponse:
        caller = caller_of(context)
        row = resolve(Vm, request.vm, "vm", caller=caller)
        keys, keep = request.ssh_keys, request.keep_others
        with redact_errors_for(caller, request):
            set_guest_ssh_keys(self._agents, row, request.guest_user, keys, caller.actor, keep_others=keep)
        return pb.SetGuestSshKeysResponse()

    def Screenshot(self, request: pb.ScreenshotRequest, context: grpc.ServicerContext) -> pb.ScreenshotResponse:
        caller = caller_of(context)
        row = resolve(Vm, request.vm, "vm", caller=caller)
        with redact_errors_for(caller, request):
            return pb.ScreenshotResponse(png=screenshot(self._agents, row))

    def _given(self, request: pb.UpdateVmRequest | pb.ReinstallVmRequest, vm: Vm) -> Given:
        return userdata.given(request.user_data, vm.account_id, self._keys, vm.name)


def _adopted(request: pb.AdoptVmRequest, caller: Caller) -> vms.NewVmAdoption:
    return vms.NewVmAdoption(
        host=resolve(Host, request.host, "host"),
        vm=request.vm,
        account=account_for(caller, request.account),
        name=request.name,
        offering=optional(ServiceOffering, request.service_offering, "service_offering"),
        accept_losses=request.accept_losses,
    )


def _wanted(request: pb.CreateVmRequest, caller: Caller, keys: Keyring) -> vms.NewVm:
    admins_only(caller, cluster=request.cluster, host=request.host, pool=request.pool)
    account = account_for(caller, request.account)
    return vms.NewVm(
        name=request.name,
        account=account,
        template=optional(Template, request.template, "template"),
        offering=resolve(ServiceOffering, request.service_offering, "service_offering"),
        root_size_bytes=request.root_size_bytes,
        zone=optional(Zone, request.zone, "zone"),
        cluster=optional(Cluster, request.cluster, "cluster"),
        host=optional(Host, request.host, "host"),
        pool=optional(Pool, request.pool, "pool"),
        nics=_nics(request.nics, caller),
        stopped=request.stopped,
        affinity_groups=_groups(request.affinity_groups, account.id),
        details=dict(request.details),
        labels=dict(request.labels),
        user_data=userdata.given(request.user_data, account.id, keys, request.name),
        isos=_isos(request.isos),
        firmware=from_enum(types_pb2.Firmware, "FIRMWARE_", request.firmware, "firmware", default=""),
        tpm=request.tpm,
    )


def _isos(refs: Sequence[str]) -> list[Iso]:
    return [resolve(Iso, ref, f"isos[{number}]") for number, ref in enumerate(refs[: MAX_DRIVES + 1])]


def _nics(messages: Iterable[pb.VmNic], caller: Caller) -> list[vms.NewNic]:
    return [_nic(message, f"nics[{number}]", caller) for number, message in enumerate(messages)]


def _nic(message: pb.VmNic, path: str, caller: Caller) -> vms.NewNic:
    admins_only(caller, **{f"{path}.mac": message.mac})
    addressing = Addressing(tuple(message.addresses), tuple(message.gateways), tuple(message.nameservers))
    network = resolve(Network, message.network, f"{path}.network", caller=caller)
    return vms.NewNic(network, message.mac, message.model, addressing)


def _groups(refs: Iterable[str], account_id: str) -> list[AffinityGroup]:
    """Affinity groups of this account."""
    found: dict[str, AffinityGroup] = {}
    for ref in refs:
        group = resolve(AffinityGroup, ref, "affinity_groups", account_id=account_id)
        found[str(group.id)] = group
    return list(found.values())


def _after(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    if first:
        yield first
    yield from rest
