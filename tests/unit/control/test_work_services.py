"""The services of operations, templates, volumes and VMs, called as the server calls them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from google.longrunning import operations_pb2
from google.protobuf.duration_pb2 import Duration
from ostler.control.v1 import event_pb2, operation_pb2, template_pb2, vm_pb2, volume_pb2
from ostler.types.v1 import guest_pb2
from ostler.types.v1 import vm_pb2 as types_vm_pb2
from ostler.types.v1 import volume_pb2 as types_volume_pb2
from ostler_common.errors import FailedPreconditionError, OstlerError
from ostler_control import settings
from ostler_control.api.events import EventService
from ostler_control.api.operations import OperationService
from ostler_control.api.templates import TemplateService
from ostler_control.api.vms import VmService
from ostler_control.api.volumes import VolumeService
from ostler_control.caller import Caller
from ostler_control.models import Account, Event, Operation, Template, Vm, Volume, new_id
from ostler_control.operations import Engine, waiting
from ostler_control.templates.store import sweep
from ostler_control.volumes import wire

from tests import databases
from tests.fakes.working_agent import Fault, wait_until
from tests.sites import MIB, Site, site_at_work
from tests.unit.control import calls

Metadata = operation_pb2.OperationMetadata


class Context:
    """Beside who calls, what streams and waits ask of a context."""

    def __init__(self, caller: Caller) -> None:
        self._ostler_call = calls.context(caller)._ostler_call  # type: ignore[attr-defined]

    def time_remaining(self) -> None:
        return None

    def is_active(self) -> bool:
        return True

    def add_callback(self, callback: Callable[[], None]) -> bool:
        return True


@dataclasses.dataclass
class Api:
    """The services, and callers of them."""

    site: Site
    engine: Engine
    operations: OperationService
    templates: TemplateService
    volumes: VolumeService
    vms: VmService
    admin: grpc.ServicerContext
    member: grpc.ServicerContext
    stranger: grpc.ServicerContext

    def done(self, operation: Any, context: grpc.ServicerContext | None = None) -> Any:
        """The operation, waited for."""
        request = operations_pb2.WaitOperationRequest(name=operation.name, timeout=Duration(seconds=30))
        answer = self.operations.WaitOperation(request, context or self.admin)
        assert answer.done
        return answer


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    state_dir = tmp_path / "api"
    state_dir.mkdir()
    with databases.bound(f"sqlite:///{state_dir}/ostler.sqlite") as url, site_at_work(url, state_dir) as (site, engine):

        def context(caller: Caller) -> grpc.ServicerContext:
            return cast("grpc.ServicerContext", Context(caller))

        yield Api(
            site,
            engine,
            OperationService(engine),
            TemplateService(engine.templates, engine.agents, engine.keys),
            VolumeService(engine.agents, engine.keys, engine.templates),
            VmService(engine.agents, engine.keys),
            context(site.admin()),
            context(calls.user("alice", site.account)),
            context(calls.user("eve", Account.create(name="other"))),
        )


def reason(call: Callable[[], object]) -> str:
    with pytest.raises(OstlerError) as caught:
        call()
    return caught.value.reason


def metadata(operation: Any) -> Metadata:
    message = Metadata()
    assert operation.metadata.Unpack(message)
    return message


def create_vm(api: Api, name: str, context: grpc.ServicerContext | None = None, **fields: Any) -> Any:
    request = vm_pb2.CreateVmRequest(name=name, template="tiny", service_offering="encrypted", **fields)
    return api.vms.CreateVm(request, context or api.admin)


def response(operation: Any, message: Any) -> Any:
    assert operation.response.Unpack(message), operation
    return message


def test_a_vms_life(api: Api) -> None:
    operation = api.done(create_vm(api, "life", api.member), api.member)
    vm = response(operation, vm_pb2.Vm())
    assert (vm.name, vm.state, vm.power_state, vm.account_name) == ("life", vm_pb2.Vm.RUNNING, 2, "acme")
    assert (vm.host_id, vm.host_name, vm.cluster_name) == ("", "", "cluster"), "members do not see hosts"
    assert vm.zone_name == "zone"
    assert [(disk.slot, disk.encrypted, disk.pool_name) for disk in vm.volumes] == [(0, True, "shared")]
    seen = api.vms.GetVm(vm_pb2.GetVmRequest(vm="life"), api.admin)
    assert seen.host_name in ("h1", "h2")
    told = metadata(operation)
    assert (told.verb, told.state, told.user, told.progress.percent) == ("vm.create", Metadata.SUCCEEDED, "alice", 100)
    moved = api.done(api.vms.MigrateVm(vm_pb2.MigrateVmRequest(vm="life"), api.admin))
    assert response(moved, vm_pb2.Vm()).host_name != seen.host_name
    verbs: list[Callable[[], Any]] = [
        lambda: api.vms.StopVm(vm_pb2.StopVmRequest(vm="life"), api.member),
        lambda: api.vms.StartVm(vm_pb2.StartVmRequest(vm="life"), api.member),
        lambda: api.vms.RebootVm(vm_pb2.RebootVmRequest(vm="life"), api.member),
    ]
    for call in verbs:
        assert response(api.done(call(), api.member), vm_pb2.Vm()).name == "life"
    gone = api.done(api.vms.DeleteVm(vm_pb2.DeleteVmRequest(vm="life", force=True), api.member), api.member)
    assert response(gone, vm_pb2.Vm()).state == vm_pb2.Vm.DELETING
    assert reason(lambda: api.vms.GetVm(vm_pb2.GetVmRequest(vm="life"), api.admin)) == "VM_NOT_FOUND"


def test_a_volumes_life(api: Api) -> None:
    request = volume_pb2.CreateVolumeRequest(name="vol", disk_offering="encrypted", size_bytes=4 * MIB)
    made = api.done(api.volumes.CreateVolume(request, api.member), api.member)
    volume = response(made, volume_pb2.Volume())
    assert (volume.state, volume.encrypt_format, volume.slot) == (
        volume_pb2.Volume.READY,
        types_volume_pb2.ENCRYPT_FORMAT_LUKS,
        -1,
    )
    assert volume.path == ""
    read = api.volumes.GetVolume(volume_pb2.GetVolumeRequest(volume="vol", read_file=True), api.admin)
    assert (read.path, read.file.virtual_size_bytes) == (f"/shared/{volume.id}", 4 * MIB)
    grow = volume_pb2.GrowVolumeRequest(volume="vol", size_bytes=8 * MIB)
    grown = response(api.done(api.volumes.GrowVolume(grow, api.member), api.member), volume_pb2.Volume())
    assert grown.size_bytes == 8 * MIB
    api.done(create_vm(api, "holder", api.member), api.member)
    attach = volume_pb2.AttachVolumeRequest(volume="vol", vm="holder")
    attached = response(api.done(api.volumes.AttachVolume(attach, api.member), api.member), volume_pb2.Volume())
    assert (attached.vm_name, attached.slot) == ("holder", 1)
    listed = api.volumes.ListVolumes(volume_pb2.ListVolumesRequest(vm="holder", encrypted=True), api.member).volumes
    assert sorted(row.name for row in listed) == ["holder-root", "vol"]
    api.done(api.volumes.DetachVolume(volume_pb2.DetachVolumeRequest(volume="vol"), api.member), api.member)
    gone = api.done(api.volumes.DeleteVolume(volume_pb2.DeleteVolumeRequest(volume="vol"), api.member), api.member)
    assert response(gone, volume_pb2.Volume()).state == volume_pb2.Volume.DELETING
    assert api.volumes.ListVolumes(volume_pb2.ListVolumesRequest(encrypted=False), api.member).volumes == []
    api.done(api.vms.DeleteVm(vm_pb2.DeleteVmRequest(vm="holder", force=True), api.member), api.member)


def test_a_repeated_request_is_the_same_operation(api: Api) -> None:
    request_id = new_id()
    first = create_vm(api, "once", request_id=request_id)
    again = create_vm(api, "once", request_id=request_id)
    assert first.name == again.name
    api.done(first)
    assert create_vm(api, "once", request_id=request_id).done
    assert reason(lambda: create_vm(api, "twice", request_id=request_id)) == "REQUEST_ID_REUSED"
    assert reason(lambda: create_vm(api, "once")) == "VM_EXISTS"
    api.done(api.vms.DeleteVm(vm_pb2.DeleteVmRequest(vm="once", force=True), api.admin))


def test_a_repeat_of_a_deletion_that_is_over_is_that_deletion(api: Api) -> None:
    api.done(create_vm(api, "gone", api.member), api.member)
    request = vm_pb2.DeleteVmRequest(vm="gone", force=True, request_id=new_id())
    first = api.done(api.vms.DeleteVm(request, api.member), api.member)
    assert api.vms.DeleteVm(request, api.member).name == first.name
    assert reason(lambda: api.vms.DeleteVm(request, api.stranger)) == "VM_NOT_FOUND"
    another = vm_pb2.DeleteVmRequest(vm="gone", force=True, request_id=new_id())
    assert reason(lambda: api.vms.DeleteVm(another, api.member)) == "VM_NOT_FOUND"


def test_validate_only_does_nothing(api: Api) -> None:
    before = Operation.select().count()
    answer = create_vm(api, "dry", validate_only=True)
    assert (answer.done, metadata(answer).verb, answer.HasField("response")) == (True, "vm.create", False)
    assert "on host h" in metadata(answer).progress.phase
    assert reason(lambda: create_vm(api, "dry", validate_only=True, host="h3")) == "NO_FEASIBLE_HOST"
    assert Operation.select().count() == before
    assert not Vm.select().where(Vm.name == "dry").exists()
    api.site.check_whole()


def test_members_keep_to_their_own(api: Api) -> None:
    api.done(create_vm(api, "mine", api.member), api.member)
    for call in (
        lambda: api.vms.GetVm(vm_pb2.GetVmRequest(vm="mine"), api.stranger),
        lambda: api.vms.StopVm(vm_pb2.StopVmRequest(vm="mine"), api.stranger),
        lambda: api.vms.DeleteVm(vm_pb2.DeleteVmRequest(vm="mine"), api.stranger),
        lambda: api.vms.Screenshot(vm_pb2.ScreenshotRequest(vm="mine"), api.stranger),
        lambda: api.vms.SendKey(vm_pb2.SendKeyRequest(vm="mine", keys="enter"), api.stranger),
        lambda: next(api.vms.Console(iter([vm_pb2.ConsoleInput(vm="mine")]), api.stranger)),
        lambda: next(api.vms.Screen(iter([vm_pb2.ConsoleInput(vm="mine")]), api.stranger)),
        lambda: next(api.vms.ReadConsoleLog(vm_pb2.ReadConsoleLogRequest(vm="mine"), api.stranger)),
    ):
        assert reason(call) == "VM_NOT_FOUND"
    assert list(api.vms.ListVms(vm_pb2.ListVmsRequest(), api.stranger).vms) == []
    assert reason(lambda: api.vms.ListVms(vm_pb2.ListVmsRequest(account="acme"), api.stranger)) == "ACCOUNT_NOT_FOUND"
    by_account = volume_pb2.ListVolumesRequest(account="acme")
    assert reason(lambda: api.volumes.ListVolumes(by_account, api.stranger)) == "ACCOUNT_NOT_FOUND"
    assert list(api.operations.ListOperations(operations_pb2.ListOperationsRequest(), api.stranger).operations) == []
    newest = Operation.select().order_by(Operation.create_time.desc()).get()
    get = operations_pb2.GetOperationRequest(name=f"operations/{newest.id}")
    assert reason(lambda: api.operations.GetOperation(get, api.stranger)) == "OPERATION_NOT_FOUND"
    cancel = operations_pb2.CancelOperationRequest(name=get.name)
    assert reason(lambda: api.operations.CancelOperation(cancel, api.stranger)) == "OPERATION_NOT_FOUND"
    for fields in ({"host": "h1"}, {"pool": "shared"}, {"cluster": "cluster"}):
        assert reason(partial(create_vm, api, "picky", api.member, **fields)) == "ADMINS_ONLY_FIELD"
    assert reason(lambda: create_vm(api, "theirs", api.member, account="other")) == "OTHER_ACCOUNT"
    wanted = volume_pb2.CreateVolumeRequest(name="v", disk_offering="plain", size_bytes=MIB, pool="shared")
    assert reason(lambda: api.volumes.CreateVolume(wanted, api.member)) == "ADMINS_ONLY_FIELD"
    api.done(api.vms.DeleteVm(vm_pb2.DeleteVmRequest(vm="mine", force=True), api.member), api.member)


def test_members_do_not_hear_hosts_names(api: Api) -> None:
    for fake in api.site.hosts.values():
        fake.fail("StartVm", Fault(FailedPreconditionError(f"{fake.name} is on fire", "ON_FIRE", {"host": fake.name})))
    operation = create_vm(api, "told", api.member)
    assert "is on fire" in api.done(operation).error.message
    as_told = api.done(operation, api.member)
    assert "(hidden) is on fire" in as_told.error.message
    everything = (
        as_told.SerializeToString()
        + api.operations.ListOperations(operations_pb2.ListOperationsRequest(), api.member).SerializeToString()
    )
    everything += (
        EventService(threading.Event()).ListEvents(event_pb2.ListEventsRequest(), api.member).SerializeToString()
    )
    everything += api.vms.ListVms(vm_pb2.ListVmsRequest(), api.member).SerializeToString()
    assert b"(hidden)" in everything
    for name in (b"h1", b"h2", b"h3"):
        assert name + b" is" not in everything
    for fake in api.site.hosts.values():
        fake.faults.clear()
    api.done(api.vms.DeleteVm(vm_pb2.DeleteVmRequest(vm="told"), api.member), api.member)


def test_operations_are_listed_cancelled_and_deleted(api: Api) -> None:
    earlier = create_vm(api, "earlier")
    api.done(earlier)
    hold = threading.Event()
    faults = [fake.fail("CreateVolume", Fault(hold=hold)) for fake in api.site.hosts.values()]
    operation = create_vm(api, "listed")
    resource = metadata(operation).resource_id

    def listed(text: str) -> list[str]:
        request = operations_pb2.ListOperationsRequest(filter=text)
        return [row.name for row in api.operations.ListOperations(request, api.admin).operations]

    wait_until(lambda: any(fault.reached.is_set() for fault in faults))  # whichever host was chosen
    assert listed(f"resource={resource} AND state=RUNNING") == [operation.name]
    assert listed(f"resource={resource} AND state=FAILED") == []
    for bad in ("name=x", "state=NOSUCH", "resource=a OR state=RUNNING", "state=STATE_UNSPECIFIED"):
        with pytest.raises(OstlerError):
            listed(bad)
    assert set(listed("")) == {earlier.name, operation.name}
    wait = operations_pb2.WaitOperationRequest(name=operation.name, timeout=Duration(nanos=1000))
    assert not api.operations.WaitOperation(wait, api.admin).done
    delete = operations_pb2.DeleteOperationRequest(name=operation.name)
    assert reason(lambda: api.operations.DeleteOperation(delete, api.admin)) == "OPERATION_NEEDED"
    api.operations.CancelOperation(operations_pb2.CancelOperationRequest(name=operation.name), api.admin)
    ended = api.done(operation)
    assert (ended.error.code, metadata(ended).state) == (grpc.StatusCode.CANCELLED.value[0], Metadata.CANCELLED)
    api.operations.DeleteOperation(delete, api.admin)
    assert listed(f"resource={resource}") == []


def test_a_wait_reads_an_operation_that_is_over_once(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = api.done(create_vm(api, "over"))
    monkeypatch.setattr(waiting, "get", lambda operation_id: pytest.fail("it was read again"))
    assert api.done(ended) == ended
    member = operations_pb2.WaitOperationRequest(name=ended.name.removeprefix("operations/").upper())
    assert reason(lambda: api.operations.WaitOperation(member, api.stranger)) == "OPERATION_NOT_FOUND"
    assert api.operations.WaitOperation(member, api.admin) == ended


def test_a_wait_misses_no_end_while_it_reads(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_MIN_POLL_S", 30.0)
    operation = Operation.create(verb="x", resource_type="vm", resource_id="x", user="x", inputs="{}")

    def find() -> Operation:
        before = Operation.get_by_id(operation.id)
        Operation.update(state="succeeded").where(Operation.id == operation.id).execute()
        waiting.ended(operation.id)
        return before

    begin = time.monotonic()
    assert waiting.wait(operation.id, 30, find=find).state == "succeeded"
    assert time.monotonic() - begin < 15, "it was polled for"
    Operation.delete().where(Operation.id == operation.id).execute()


def test_a_console_passes_bytes_both_ways(api: Api) -> None:
    api.done(create_vm(api, "talks"))
    typed = iter([vm_pb2.ConsoleInput(vm="talks", data=b"a"), vm_pb2.ConsoleInput(data=b"b")])
    assert [output.data for output in api.vms.Console(typed, api.admin)] == [b"", b"echo a", b"echo b"]
    log = vm_pb2.ReadConsoleLogRequest(vm="talks", lines=3)
    host = api.vms.GetVm(vm_pb2.GetVmRequest(vm="talks"), api.admin).host_name
    assert [output.data for output in api.vms.ReadConsoleLog(log, api.admin)] == [f"{host} last 3\n".encode()]
    assert api.vms.Screenshot(vm_pb2.ScreenshotRequest(vm="talks"), api.admin).png == b"\x89PNG"
    api.vms.SendKey(vm_pb2.SendKeyRequest(vm="talks", keys="ctrl-alt-del"), api.admin)
    assert api.site.hosts[host].pressed == ["ctrl-alt-del"]
    wrong = vm_pb2.SendKeyRequest(vm="talks", keys="ctrl-alt-any")
    assert reason(lambda: api.vms.SendKey(wrong, api.admin)) == "UNKNOWN_KEY"
    assert api.site.hosts[host].pressed == ["ctrl-alt-del"]
    api.done(api.vms.StopVm(vm_pb2.StopVmRequest(vm="talks", force=True), api.admin))
    assert reason(lambda: list(api.vms.Console(iter([vm_pb2.ConsoleInput(vm="talks")]), api.admin))) == "VM_STATE"
    assert [output.data for output in api.vms.ReadConsoleLog(log, api.admin)], (
        "the log of a stopped VM is on its last host"
    )
    found = api.vms.FindHosts(vm_pb2.FindHostsRequest(vm="talks"), api.admin).candidates
    assert [(row.host_name, row.fits) for row in found][2] == ("h3", False)
    api.done(api.vms.DeleteVm(vm_pb2.DeleteVmRequest(vm="talks"), api.admin))


def test_an_idle_console_is_closed(api: Api) -> None:
    api.done(create_vm(api, "idle"))
    setting = settings.vms.CONSOLE_IDLE_TIMEOUT.name
    ended = threading.Event()

    def typed() -> Iterator[vm_pb2.ConsoleInput]:
        yield vm_pb2.ConsoleInput(vm="idle", data=b"a")
        ended.wait(60)

    settings.change(setting, "1", "alice")
    try:
        assert reason(lambda: list(api.vms.Console(typed(), api.admin))) == "CONSOLE_IDLE"
    finally:
        ended.set()
        settings.reset(setting, "alice")
    api.done(api.vms.DeleteVm(vm_pb2.DeleteVmRequest(vm="idle", force=True), api.admin))


def test_a_screen_passes_bytes_both_ways(api: Api) -> None:
    api.done(create_vm(api, "shown"))
    sent = iter([vm_pb2.ConsoleInput(vm="shown", data=b"a"), vm_pb2.ConsoleInput(data=b"b")])
    assert [output.data for output in api.vms.Screen(sent, api.admin)] == [b"", b"drawn a", b"drawn b"]
    assert [row.message for row in Event.select().where(Event.type == "vm.screen")] == [""]
    api.done(api.vms.StopVm(vm_pb2.StopVmRequest(vm="shown", force=True), api.admin))
    assert reason(lambda: list(api.vms.Screen(iter([vm_pb2.ConsoleInput(vm="shown")]), api.admin))) == "VM_STATE"
    api.done(api.vms.DeleteVm(vm_pb2.DeleteVmRequest(vm="shown"), api.admin))


def test_a_screen_that_is_only_watched_is_idle(api: Api) -> None:
    api.done(create_vm(api, "watched"))
    setting = settings.vms.CONSOLE_IDLE_TIMEOUT.name
    ended = threading.Event()

    def sent() -> Iterator[vm_pb2.ConsoleInput]:
        yield vm_pb2.ConsoleInput(vm="watched", data=b"RFB 003.008\n\x01\x01")
        while not ended.wait(0.1):
            yield vm_pb2.ConsoleInput(data=b"\x03\x01\0\0\0\0\x02\x80\x01\xe0")  # FramebufferUpdateRequest

    settings.change(setting, "1", "alice")
    try:
        assert reason(lambda: list(api.vms.Screen(sent(), api.admin))) == "CONSOLE_IDLE"
    finally:
        ended.set()
        settings.reset(setting, "alice")
    api.done(api.vms.DeleteVm(vm_pb2.DeleteVmRequest(vm="watched", force=True), api.admin))


def test_a_vm_that_no_host_has_has_no_log(api: Api) -> None:
    api.done(create_vm(api, "never", stopped=True))
    log = vm_pb2.ReadConsoleLogRequest(vm="never")
    assert reason(lambda: list(api.vms.ReadConsoleLog(log, api.admin))) == "CONSOLE_LOG_MISSING"
    api.done(api.vms.DeleteVm(vm_pb2.DeleteVmRequest(vm="never"), api.admin))


def upload(api: Api, name: str, file: bytes, **fields: Any) -> template_pb2.Template:
    header = {
        "name": name,
        "format": types_volume_pb2.DISK_FORMAT_RAW,
        "firmware": types_vm_pb2.FIRMWARE_UEFI,
        "file_size_bytes": len(file),
        **fields,
    }
    first = template_pb2.UploadTemplateRequest(header=template_pb2.UploadTemplateRequest.Header(**header))
    pieces = [template_pb2.UploadTemplateRequest(data=file[at : at + 300]) for at in range(0, len(file), 300)]
    return api.templates.UploadTemplate(iter([first, *pieces]), api.admin)


def test_a_templates_life(api: Api) -> None:
    directory = api.site.state_dir / "templates"
    file = bytes(1024)
    digest = hashlib.sha256(file).hexdigest()
    request_id = new_id()
    template = upload(api, "image", file, sha256=digest.upper(), request_id=request_id, tpm=True)
    assert template.tpm
    assert (template.virtual_size_bytes, template.sha256) == (1024, digest)
    assert template.firmware == types_vm_pb2.FIRMWARE_UEFI
    assert upload(api, "image", file, sha256=digest.upper(), request_id=request_id, tpm=True) == template
    assert [path.name for path in directory.iterdir()] == [template.id]
    assert (directory / template.id).read_bytes() == file
    assert api.templates.GetTemplate(template_pb2.GetTemplateRequest(template="image"), api.admin) == template
    names = [row.name for row in api.templates.ListTemplates(template_pb2.ListTemplatesRequest(), api.admin).templates]
    assert names == ["tiny", "image"]
    row = Template.get_by_id(template.id)
    making = Volume.create(
        name="making", account=api.site.account, pool=api.site.pools["shared"], size_bytes=MIB, template=row
    )
    delete = template_pb2.DeleteTemplateRequest(template="image")
    assert reason(lambda: api.templates.DeleteTemplate(delete, api.admin)) == "TEMPLATE_IN_USE"
    making.delete_instance()
    api.templates.DeleteTemplate(delete, api.admin)
    assert list(directory.iterdir()) == []


URL = "https://images.example.org/debian.raw"


def register(api: Api, **fields: Any) -> template_pb2.Template:
    wanted = {"name": "direct", "url": URL, "format": types_volume_pb2.DISK_FORMAT_RAW, "sha512": "A" * 128, **fields}
    return api.templates.RegisterTemplate(template_pb2.RegisterTemplateRequest(**wanted), api.admin)


def test_a_template_that_hosts_fetch_by_themselves(api: Api) -> None:
    for host in api.site.fleet.hosts.values():
        host.web[URL] = (4096, bytes(4096))
    would_be = register(api, validate_only=True, firmware="FIRMWARE_UEFI", tpm=True, details={"driver.kernel": "/k"})
    assert (would_be.id, would_be.virtual_size_bytes) == ("", 4096)
    assert (would_be.firmware, would_be.tpm) == (types_vm_pb2.FIRMWARE_UEFI, True)
    assert (would_be.format, dict(would_be.details)) == (types_volume_pb2.DISK_FORMAT_RAW, {"driver.kernel": "/k"})
    request_id = new_id()
    template = register(api, request_id=request_id, tpm=True)
    assert template.tpm
    assert (template.url, template.sha512, template.virtual_size_bytes) == (URL, "a" * 128, 4096)
    assert register(api, request_id=request_id, tpm=True) == template
    assert Event.select().where(Event.type == "template.register").count() == 1
    told = wire.template_source(Template.get_by_id(template.id), api.engine.keys)
    assert told is not None
    assert (told.direct.url, told.sha512, told.direct.allow_private, told.direct.proxy) == (URL, "a" * 128, False, "")
    settings.change("direct.download.allow.private", "true", "root")
    settings.change("direct.download.proxy", "http://proxy:3128", "root")
    told = wire.template_source(Template.get_by_id(template.id), api.engine.keys)
    assert told is not None
    assert (told.direct.allow_private, told.direct.proxy) == (True, "http://proxy:3128")
    with pytest.raises(OstlerError, match="without user name"):
        settings.change("direct.download.proxy", "http://me:secret@proxy:3128", "root")
    api.templates.DeleteTemplate(template_pb2.DeleteTemplateRequest(template="direct"), api.admin)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"sha512": ""}, "DIGEST_REQUIRED"),
        ({"sha256": "0" * 64}, "DIGEST_REQUIRED"),
        ({"sha512": "0" * 64}, "INVALID_DIGEST"),
        ({"name": "tiny"}, "TEMPLATE_EXISTS"),
        ({"url": "https://elsewhere.example.org/"}, "DOWNLOAD_REFUSED"),
        ({"format": types_volume_pb2.DISK_FORMAT_QCOW2}, "FORMAT_MISMATCH"),
        ({"url": URL + "2"}, "DOWNLOAD_TOO_LARGE"),
    ],
)
def test_registrations_that_are_refused(api: Api, fields: dict[str, Any], why: str) -> None:
    for host in api.site.fleet.hosts.values():
        host.web = {URL: (4096, bytes(4096)), URL + "2": (1 << 50, bytes(4096))}
    assert reason(lambda: register(api, **fields)) == why
    assert Template.get_or_none(Template.name == "direct") is None


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"sha256": "0" * 64}, "DIGEST_MISMATCH"),
        ({"file_size_bytes": 2048}, "SIZE_MISMATCH"),
        ({"file_size_bytes": 512}, "SIZE_MISMATCH"),
        ({"format": types_volume_pb2.DISK_FORMAT_QCOW2}, "FORMAT_MISMATCH"),
        ({"name": "tiny"}, "TEMPLATE_EXISTS"),
        ({"name": "not a name"}, "INVALID_NAME"),
        ({"name": "tiny", "request_id": "00000000-0000-4000-8000-000000000001"}, "TEMPLATE_EXISTS"),
    ],
)
def test_nothing_stays_of_an_upload_that_is_refused(api: Api, fields: dict[str, Any], why: str) -> None:
    assert reason(lambda: upload(api, **{"name": "bad", "file": bytes(1024), **fields})) == why
    directory = api.site.state_dir / "templates"
    assert not directory.exists() or list(directory.iterdir()) == []


def test_nothing_stays_of_an_upload_that_breaks_off(api: Api) -> None:
    def broken() -> Iterator[template_pb2.UploadTemplateRequest]:
        header = template_pb2.UploadTemplateRequest.Header(
            name="cut", format=types_volume_pb2.DISK_FORMAT_RAW, file_size_bytes=1024
        )
        yield template_pb2.UploadTemplateRequest(header=header)
        yield template_pb2.UploadTemplateRequest(data=bytes(512))
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        api.templates.UploadTemplate(broken(), api.admin)
    assert list((api.site.state_dir / "templates").iterdir()) == []


def test_leftovers_of_a_crash_are_swept_once_they_are_old(tmp_path: Path, api: Api) -> None:
    directory = tmp_path / "templates"
    directory.mkdir()
    for name in ("a.part", new_id(), Template.get(Template.name == "tiny").id):
        (directory / name).touch()
    assert sweep(directory) == 0
    later = (directory / "a.part").stat().st_mtime + 100_000
    assert sweep(directory, lambda: later) == 2
    assert len(list(directory.iterdir())) == 1


def test_a_volume_is_encrypted_rekeyed_and_moved_by_its_owner_as_far_as_that_goes(api: Api) -> None:
    create = volume_pb2.CreateVolumeRequest(name="changing", disk_offering="plain", size_bytes=4 * MIB, pool="shared")
    assert response(api.done(api.volumes.CreateVolume(create, api.admin)), volume_pb2.Volume()).path
    volume: Any = Volume.get(Volume.name == "changing")
    Volume.update(account=api.site.account).where(Volume.id == volume.id).execute()
    encrypt = volume_pb2.EncryptVolumeRequest(volume="changing", validate_only=True)
    assert api.volumes.EncryptVolume(encrypt, api.member).done
    assert Volume.get_by_id(volume.id).operation_id == ""
    assert reason(lambda: api.volumes.EncryptVolume(encrypt, api.stranger)) == "VOLUME_NOT_FOUND"
    encrypt = volume_pb2.EncryptVolumeRequest(volume="changing", request_id=new_id())
    first, repeat = api.volumes.EncryptVolume(encrypt, api.member), api.volumes.EncryptVolume(encrypt, api.member)
    assert first.name == repeat.name
    found = response(api.done(first, api.member), volume_pb2.Volume())
    assert found.encrypt_format == types_volume_pb2.ENCRYPT_FORMAT_LUKS
    api.done(api.volumes.RekeyVolume(volume_pb2.RekeyVolumeRequest(volume="changing"), api.member))
    move = volume_pb2.MigrateVolumeRequest(volume="changing", pool="local1")
    found = response(api.done(api.volumes.MigrateVolume(move, api.admin)), volume_pb2.Volume())
    assert (found.pool_name, found.path) == ("local1", f"/local1/{Volume.get_by_id(volume.id).file_id}")
    change = volume_pb2.ChangeVolumeOfferingRequest(volume="changing", disk_offering="encrypted", validate_only=True)
    assert api.volumes.ChangeVolumeOffering(change, api.member).disk_offering_name == "plain"
    change.validate_only = False
    assert api.volumes.ChangeVolumeOffering(change, api.member).disk_offering_name == "encrypted"
    back = volume_pb2.ChangeVolumeOfferingRequest(volume="changing", disk_offering="plain")
    assert reason(lambda: api.volumes.ChangeVolumeOffering(back, api.member)) == "ENCRYPTION_MISMATCH"
    shown = api.volumes.GetVolume(volume_pb2.GetVolumeRequest(volume="changing", read_file=True), api.member)
    assert shown.file.encrypt_format == types_volume_pb2.ENCRYPT_FORMAT_LUKS
    api.done(api.volumes.DeleteVolume(volume_pb2.DeleteVolumeRequest(volume="changing"), api.member))


def test_no_passphrase_is_anywhere(api: Api) -> None:
    api.done(create_vm(api, "secretive"))
    volume: Any = Volume.get(Volume.name == "secretive-root")
    passphrase = api.site.keys.open(volume).reveal()
    assert api.site.fleet.pools[volume.pool_id][volume.id].passphrase == passphrase
    api.done(api.vms.MigrateVm(vm_pb2.MigrateVmRequest(vm="secretive"), api.admin))
    deep = volume_pb2.RekeyVolumeRequest(volume=volume.id, deep=True)
    assert response(api.done(api.volumes.RekeyVolume(deep, api.admin)), volume_pb2.Volume()).id == volume.id
    new: Any = Volume.get_by_id(volume.id)
    later = api.site.keys.open(new).reveal()
    assert api.site.fleet.pools[new.pool_id][new.file_id].passphrase == later
    files = [path for path in api.site.state_dir.rglob("*") if path.is_file()]
    assert any(path.name.endswith("-wal") for path in files)
    assert len(files) > 10
    for path in files:
        try:
            content = path.read_bytes()
        except FileNotFoundError:  # the journal of a transaction that has just ended
            continue
        for secret in (passphrase, later):
            assert secret not in content, path
            assert json.dumps(secret.decode()).strip('"').encode() not in content, path
    api.done(api.vms.DeleteVm(vm_pb2.DeleteVmRequest(vm="secretive", force=True), api.admin))


def test_a_guest_agent_is_asked_on_the_vm_s_host(api: Api) -> None:
    api.done(create_vm(api, "asked"))
    host = api.site.hosts[api.vms.GetVm(vm_pb2.GetVmRequest(vm="asked"), api.admin).host_name]
    info = vm_pb2.ReadGuestInfoRequest(vm="asked")
    assert reason(lambda: api.vms.ReadGuestInfo(info, api.admin)) == "GUEST_AGENT_MISSING"
    host.guest = guest_pb2.GuestInfo(host_name="\x1b[1mweb")  # from a host that does not clean it
    assert api.vms.ReadGuestInfo(info, api.admin).host_name == "\\x1b[1mweb"
    api.vms.SyncGuestTime(vm_pb2.SyncGuestTimeRequest(vm="asked"), api.admin)
    request = vm_pb2.SetGuestPasswordRequest(vm="asked", guest_user="root", password=b"correct horse")
    api.vms.SetGuestPassword(request, api.admin)
    login = f"ssh-ed25519 {'A' * 68}"
    keys = vm_pb2.SetGuestSshKeysRequest(vm="asked", guest_user="root", ssh_keys=[f" {login}\n"])
    api.vms.SetGuestSshKeys(keys, api.admin)
    assert host.asked_guests == ["time", "password of root: correct horse", f"keys of root: {login}"]
    none = vm_pb2.SetGuestSshKeysRequest(vm="asked", guest_user="root")
    assert reason(lambda: api.vms.SetGuestSshKeys(none, api.admin)) == "INVALID_SSH_KEY"
    wrong = vm_pb2.SetGuestPasswordRequest(vm="asked", guest_user="root")
    assert reason(lambda: api.vms.SetGuestPassword(wrong, api.admin)) == "INVALID_GUEST_PASSWORD"
    told = {event.type: event.message for event in Event.select() if event.type.startswith("vm.guest-")}
    assert told == {"vm.guest-time": "", "vm.guest-password": "of user root", "vm.guest-ssh-keys": "of user root"}
    api.done(api.vms.StopVm(vm_pb2.StopVmRequest(vm="asked", force=True), api.admin))
    assert reason(lambda: api.vms.ReadGuestInfo(info, api.admin)) == "VM_STATE"
