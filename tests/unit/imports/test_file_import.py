"""Imports of files from request to end: a caller that sends them, agents that work in memory."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from ostler.control.v1 import import_pb2 as pb
from ostler_common.errors import FailedPreconditionError, NotFoundError, OstlerError, UnavailableError
from ostler_control.api.imports import ImportService
from ostler_control.imports import receive
from ostler_control.models import (
    Host,
    Nic,
    Operation,
    Passphrase,
    ServiceOffering,
    Vm,
    VmImport,
    VmOrigin,
    Volume,
    new_id,
)
from ostler_control.operations import Engine

from tests import databases
from tests.fakes.working_agent import Fault, wait_until
from tests.sites import GIB, Site, outcome, site_at_work
from tests.unit.common.ova_archives import archive
from tests.unit.control import calls
from tests.unit.imports.ovf_documents import DESCRIPTOR
from tests.unit.vmware.conftest import make_vmdk

MIB = 1 << 20
URL = "https://example.org/web.ova"
OK = ("succeeded", "")
MAC = "00:50:56:aa:bb:01"


@dataclasses.dataclass
class Api:
    """The service, its caller, what is behind it, and a VM in files."""

    service: ImportService
    context: grpc.ServicerContext
    site: Site
    engine: Engine
    disks: dict[str, bytes]

    @property
    def descriptor(self) -> bytes:
        """Of a VM with two disks of 8 MiB."""
        sizes = {name.removesuffix(".vmdk"): len(data) for name, data in self.disks.items()}
        return DESCRIPTOR.format(**sizes).encode()

    def request(self, **changes: Any) -> pb.ImportFilesRequest:
        files = [
            pb.AnnouncedFile(name=name, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
            for name, data in self.disks.items()
        ]
        fields: dict[str, Any] = {"spec": self.spec(), "ovf": self.descriptor, "files": files}
        return pb.ImportFilesRequest(**(fields | changes))

    def spec(self, **changes: Any) -> pb.ImportSpec:
        fields: dict[str, Any] = {
            "service_offering": "two",
            "disk_offering": "plain",
            "account": "acme",
            "networks": {"VM Network": "public"},
        }
        return pb.ImportSpec(**(fields | changes))

    def begin(self, **changes: Any) -> Any:
        """The operation's row."""
        found = self.service.ImportFiles(self.request(**changes), self.context)
        return Operation.get_by_id(found.name.rpartition("/")[2])

    def waiting(self, operation: Any) -> pb.GetImportFilesResponse:
        request = pb.GetImportFilesRequest(operation=operation.id)
        found: list[pb.GetImportFilesResponse] = []

        def ready() -> bool:
            with contextlib.suppress(NotFoundError):
                found.append(self.service.GetImportFiles(request, self.context))
            return bool(found)

        wait_until(ready)
        return found[0]

    def send(self, operation: Any, name: str, data: bytes, offset: int = 0, end: bool = True) -> Any:
        def pieces() -> Iterator[pb.UploadImportFileRequest]:
            header = pb.UploadImportFileRequest.Header(operation=operation.id, name=name, offset=offset)
            yield pb.UploadImportFileRequest(header=header)
            for start in range(offset, len(data), MIB):
                yield pb.UploadImportFileRequest(data=data[start : start + MIB])
            if end:
                digest = hashlib.sha256(data).hexdigest()
                yield pb.UploadImportFileRequest(end=pb.UploadImportFileRequest.End(sha256=digest))

        return self.service.UploadImportFile(pieces(), self.context)

    def send_all(self, operation: Any) -> None:
        for file in self.waiting(operation).files:
            self.send(operation, file.name, self.disks[file.name])

    def check_nothing_left(self) -> None:
        assert self.site.fleet.staging == {}
        assert not self.site.fleet.files()
        for model in (Vm, Volume, VmImport, VmOrigin, Passphrase, Nic):
            assert model.select().count() == 0, model


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    directory = tmp_path_factory.mktemp("disks")
    return {
        f"{name}.vmdk": make_vmdk(directory / f"{name}.vmdk", 8 * MIB, number).read_bytes()
        for number, name in enumerate(("second", "first"))
    }


@pytest.fixture
def api(tmp_path: Path, disks: dict[str, bytes]) -> Iterator[Api]:
    state_dir = tmp_path / "site"
    state_dir.mkdir()
    with (
        databases.bound(f"sqlite:///{state_dir}/ostler.sqlite") as url,
        site_at_work(url, state_dir) as (site, engine),
    ):
        Host.update(capabilities='{"instanceConversion": true}').where(Host.name != "h3").execute()
        ServiceOffering.create(name="two", cpus=2, memory_bytes=GIB, encrypt_root=True)
        service = ImportService(engine.keys, engine.agents)
        yield Api(service, calls.context(site.admin()), site, engine, disks)


def reason(call: Callable[[], object]) -> str:
    with pytest.raises(OstlerError) as caught:
        call()
    return caught.value.reason


def test_a_vm_is_imported_from_a_descriptor_and_its_disks(api: Api) -> None:
    operation = api.begin()
    api.send_all(operation)
    assert outcome(api.engine, operation) == OK
    vm = Vm.get()
    assert (vm.name, vm.state, vm.cpus, vm.memory_bytes) == ("web-1", "running", 2, 512 * MIB)
    volumes = list(Volume.select().order_by(Volume.slot))
    assert [(v.state, v.size_bytes, v.encrypt_format) for v in volumes] == [
        ("ready", 8 * MIB, "luks"),
        ("ready", 8 * MIB, "none"),
    ]
    assert (Nic.get().mac, Nic.get().network.bridge) == (MAC, "br0")
    assert (VmOrigin.get().source_name, VmOrigin.get().source_ref) == ("files", "first.vmdk")
    assert api.site.fleet.staging == {}
    assert VmImport.select().count() == 0


def test_images_are_imported_as_they_are(api: Api) -> None:
    disk = bytes(3 * MIB)
    machine = pb.ImageMachine(name="plain", firmware="bios", networks=["public"])
    files = [pb.AnnouncedFile(name="root.raw", size_bytes=len(disk))]
    spec = api.spec(networks={}, stopped=True)
    operation = api.begin(ovf=None, images=machine, files=files, spec=spec, no_conversion=True)
    api.waiting(operation)
    api.send(operation, "root.raw", disk)
    assert outcome(api.engine, operation) == OK
    assert (Vm.get().name, Vm.get().state, Volume.get().size_bytes) == ("plain", "stopped", 3 * MIB)


def test_a_host_downloads_an_archive_itself(api: Api) -> None:
    data = archive({"web.ovf": api.descriptor, **api.disks})
    for fake in api.site.hosts.values():
        fake.web[URL] = (len(data), data[: 64 << 10])
    api.site.fleet.archives[URL] = api.disks
    operation = api.begin(ovf=None, url=URL, files=[])
    assert outcome(api.engine, operation) == OK
    assert VmOrigin.get().source_name == URL
    assert reason(lambda: api.send(operation, "first.vmdk", b"x")) == "IMPORT_NOT_RECEIVING"


def test_an_upload_that_broke_resumes(api: Api) -> None:
    operation = api.begin()
    [first, second] = api.waiting(operation).files
    data = api.disks[first.name]
    assert not api.send(operation, first.name, data[: MIB // 4], end=False).complete
    [first, _] = api.waiting(operation).files
    assert (first.received_bytes, first.complete) == (MIB // 4, False)
    assert api.send(operation, first.name, data, offset=first.received_bytes).complete
    api.send(operation, second.name, api.disks[second.name])
    assert outcome(api.engine, operation) == OK


def test_the_same_request_is_the_same_import(api: Api) -> None:
    request_id = str(uuid.uuid4())
    operation = api.begin(request_id=request_id)
    assert api.begin(request_id=request_id).id == operation.id
    api.send_all(operation)
    assert outcome(api.engine, operation) == OK


def test_without_a_byte_for_long_the_import_is_undone(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receive, "STALL_S", 0.5)
    monkeypatch.setattr(receive, "_TICK_S", 0.1)
    assert outcome(api.engine, api.begin()) == ("failed", "UPLOAD_STALLED")
    api.check_nothing_left()


def test_another_file_than_was_announced_is_refused(api: Api) -> None:
    other = bytes(len(api.disks["first.vmdk"]))
    operation = api.begin()
    for file in api.waiting(operation).files:
        api.send(operation, file.name, other if file.name == "first.vmdk" else api.disks[file.name])
    state, why = outcome(api.engine, operation)
    assert (state, why) == ("failed", "SOURCE_LARGER") or why in ("FILE_CORRUPT", "NOT_AN_IMAGE")
    api.check_nothing_left()


def test_a_larger_disk_than_the_descriptor_says_is_refused(api: Api) -> None:
    smaller = api.descriptor.replace(f'ovf:capacity="{8 * MIB}"'.encode(), f'ovf:capacity="{4 * MIB}"'.encode())
    operation = api.begin(ovf=smaller)
    api.send_all(operation)
    assert outcome(api.engine, operation) == ("failed", "SOURCE_LARGER")
    api.check_nothing_left()


def test_a_failure_at_a_host_leaves_nothing(api: Api) -> None:
    for fake in api.site.hosts.values():
        fake.fail("ConvertVm", Fault(FailedPreconditionError("no", "NO_WAY"), before=False, times=1000))
    operation = api.begin()
    api.send_all(operation)
    assert outcome(api.engine, operation) == ("failed", "NO_WAY")
    api.check_nothing_left()


def test_cancelling_while_it_waits_leaves_nothing(api: Api) -> None:
    operation = api.begin()
    api.waiting(operation)
    threading.Thread(target=api.engine.cancel, args=(operation.id,)).start()
    assert outcome(api.engine, operation) == ("cancelled", "CANCELLED")
    api.check_nothing_left()
    assert reason(lambda: api.send(operation, "first.vmdk", b"x")) == "IMPORT_NOT_RECEIVING"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"ovf": b"<Envelope/>"}, "NOT_AN_OVF"),
        ({"ovf": None}, "REQUIRED"),
        ({"files": []}, "OVF_FILE_MISSING"),
        ({"ca_pem": "x"}, "CONFLICTING_FIELDS"),
        ({"ovf": None, "url": "https://example.org/404"}, "CONFLICTING_FIELDS"),
        ({"ovf": None, "url": "https://example.org/404", "files": []}, "DOWNLOAD_REFUSED"),
        ({"ovf": None, "images": pb.ImageMachine(name="x", firmware="coreboot")}, "INVALID_FIRMWARE"),
        ({"spec": pb.ImportSpec(service_offering="two", account="acme", disk_offering="plain")}, "IMPORT_REFUSED"),
        ({"spec": pb.ImportSpec(service_offering="two", networks={"VM Network": "public"})}, "REQUIRED"),
    ],
)
def test_what_cannot_be_imported_is_refused_before_a_byte_is_sent(
    api: Api, changes: dict[str, Any], expected: str
) -> None:
    assert reason(lambda: api.begin(**changes)) == expected
    assert Operation.select().count() == 0
    api.check_nothing_left()


def test_a_dry_run_changes_nothing(api: Api) -> None:
    api.service.ImportFiles(api.request(validate_only=True), api.context)
    api.check_nothing_left()
    assert Operation.select().count() == 0


def test_only_an_import_that_waits_takes_files(api: Api) -> None:
    assert reason(lambda: api.service.GetImportFiles(pb.GetImportFilesRequest(operation="x"), api.context)) == (
        "OPERATION_NOT_FOUND"
    )
    operation = api.begin()
    api.waiting(operation)
    assert reason(lambda: api.send(operation, "notes.txt", b"x")) == "FILE_NOT_FOUND"
    missing = iter([pb.UploadImportFileRequest(data=b"x")])
    assert reason(lambda: api.service.UploadImportFile(missing, api.context)) == "REQUIRED"
    api.engine.cancel(operation.id)
    outcome(api.engine, operation)


def test_a_host_that_dies_during_an_upload_is_told(api: Api) -> None:
    operation = api.begin()
    api.waiting(operation)
    for fake in api.site.hosts.values():
        fake.fail("UploadFile", Fault(UnavailableError("gone", "GONE"), before=True, times=1))
    assert reason(lambda: api.send(operation, "first.vmdk", api.disks["first.vmdk"])) in ("HOST_UNREACHABLE", "GONE")
    api.send_all(operation)
    assert outcome(api.engine, operation) == OK


def test_two_imports_with_the_same_address_need_new_ones(api: Api) -> None:
    operation = api.begin()
    api.send_all(operation)
    assert outcome(api.engine, operation) == OK
    again = api.spec(name="web-2")
    assert reason(lambda: api.begin(spec=again)) == "IMPORT_REFUSED"
    second = api.begin(spec=again, new_macs=True, request_id=new_id())
    api.send_all(second)
    assert outcome(api.engine, second) == OK
    assert Nic.select().where(Nic.mac != MAC).get().mac.startswith("52:54:00:")
