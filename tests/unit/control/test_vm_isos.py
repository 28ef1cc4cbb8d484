"""ISO images: uploaded, in drives of stopped and running VMs, and VMs that are installed from them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from ostler.control.v1 import iso_pb2 as pb
from ostler.types.v1 import vm_pb2 as types_pb2
from ostler_agent.tools import iso as iso_tool
from ostler_common.errors import FailedPreconditionError, NotFoundError, OstlerError
from ostler_control import database, vms
from ostler_control.api.convert import vms as convert_vms
from ostler_control.api.isos import IsoService
from ostler_control.database import session
from ostler_control.models import Host, Iso, Operation, Template, Vm, VmIso, Volume
from ostler_control.operations import Engine
from ostler_control.templates import isos

from tests import databases
from tests.fakes.working_agent import Fault
from tests.sites import Site, outcome, site_at_work
from tests.unit.control.calls import context

OK = ("succeeded", "")
IMAGE = iso_tool.build("installer", {"readme": b"first"})


class Place:
    """A site with ISO images "installer", "drivers" and "rescue"."""

    def __init__(self, site: Site, engine: Engine) -> None:
        self.site, self.engine = site, engine
        self.service, self.admin = IsoService(engine.templates), context(site.admin())
        for name in ("installer", "drivers", "rescue"):
            self.upload(name, iso_tool.build(name, {"readme": name.encode()}))

    def upload(self, name: str, data: bytes, sha256: str = "", size_bytes: int | None = None) -> pb.Iso:
        size_bytes = len(data) if size_bytes is None else size_bytes
        header = pb.UploadIsoRequest.Header(name=name, file_size_bytes=size_bytes, sha256=sha256)
        parts = [pb.UploadIsoRequest(header=header)]
        parts += [pb.UploadIsoRequest(data=data[at : at + 65536]) for at in range(0, len(data), 65536)]
        return self.service.UploadIso(iter(parts), self.admin)

    def delete(self, name: str) -> None:
        self.service.DeleteIso(pb.DeleteIsoRequest(iso=name), self.admin)

    def files(self) -> set[str]:
        return {path.name for path in self.engine.templates.iterdir() if not path.name.startswith(".")}

    @property
    def vm(self) -> Vm:
        return Vm.get(Vm.name == "web")

    def iso(self, name: str) -> Iso:
        return Iso.get(Iso.name == name)

    def create(self, stopped: bool) -> None:
        made = self.site.record(lambda: self.site.new_vm("web", offering=self.site.plain, stopped=stopped))
        assert outcome(self.engine, made) == OK

    def attach(self, name: str, boot_first: bool = False) -> tuple[str, str]:
        return self.do(lambda: vms.attach_iso(self.vm, self.iso(name), boot_first, "alice"))

    def eject(self, name: str = "") -> tuple[str, str]:
        return self.do(lambda: vms.eject_iso(self.vm, self.iso(name) if name else None, "alice"))

    def do(self, record: Callable[[], Operation]) -> tuple[str, str]:
        return outcome(self.engine, self.site.record(record))

    def drives(self) -> dict[int, str]:
        return {row.drive: row.iso.name for row in VmIso.select()}

    def inserted(self) -> dict[int, str]:
        """As the VM's host has them."""
        host = Host.get_by_id(self.vm.host_id)
        names = {row.id: row.name for row in Iso.select()}
        return {one.drive: names[one.iso_id] for one in self.site.hosts[host.name].vms[self.vm.id].spec.cdroms}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with databases.bound(f"sqlite:///{tmp_path}/ostler.sqlite") as url, site_at_work(url, tmp_path) as (site, engine):
        yield Place(site, engine)


def reason(call: Callable[[], object]) -> str:
    with pytest.raises(OstlerError) as caught:
        call()
    return caught.value.reason


def test_an_upload_is_checked_and_kept(place: Place) -> None:
    made = place.upload("own", IMAGE, hashlib.sha256(IMAGE).hexdigest())
    assert (made.name, made.file_size_bytes, made.sha256) == ("own", len(IMAGE), hashlib.sha256(IMAGE).hexdigest())
    assert (place.engine.templates / made.id).read_bytes() == IMAGE
    before = place.files()
    assert reason(lambda: place.upload("own", IMAGE)) == "ISO_EXISTS"
    assert reason(lambda: place.upload("bad", IMAGE, "0" * 64)) == "DIGEST_MISMATCH"
    assert reason(lambda: place.upload("bad", IMAGE[:40960], size_bytes=len(IMAGE))) == "SIZE_MISMATCH"
    assert reason(lambda: place.upload("bad", bytes(65536))) == "NOT_AN_IMAGE"
    assert reason(lambda: place.upload("bad", b"QFI\xfb" + IMAGE[4:])) == "FORMAT_MISMATCH"
    assert reason(lambda: place.upload("bad", b"", size_bytes=(64 << 30) + 1)) == "INVALID_SIZE"
    assert reason(lambda: place.upload("../bad", IMAGE)) == "INVALID_NAME"
    assert place.files() == before, "a failed upload leaves nothing"
    listed = place.service.ListIsos(pb.ListIsosRequest(), place.admin)
    assert [one.name for one in listed.isos] == ["installer", "drivers", "rescue", "own"]
    place.delete("own")
    assert place.files() == before - {made.id}
    assert reason(lambda: place.delete("own")) == "ISO_NOT_FOUND"


@pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped"])
def test_drives_are_filled_and_emptied(place: Place, stopped: bool) -> None:
    place.create(stopped)
    assert place.attach("drivers") == OK
    assert place.attach("rescue", boot_first=True) == OK
    assert place.drives() == {0: "drivers", 1: "rescue"}
    if not stopped:
        assert place.inserted() == place.drives()
    with session():
        assert reason(lambda: vms.attach_iso(place.vm, place.iso("rescue"), False, "alice")) == "ISO_ATTACHED"
        assert reason(lambda: vms.attach_iso(place.vm, place.iso("installer"), False, "alice")) == "CDROM_FULL"
        assert reason(lambda: vms.eject_iso(place.vm, None, "alice")) == "ISO_UNCLEAR"
        assert reason(lambda: vms.eject_iso(place.vm, place.iso("installer"), "alice")) == "ISO_NOT_ATTACHED"
    assert reason(lambda: place.delete("rescue")) == "ISO_IN_USE"
    assert place.eject("drivers") == OK
    assert place.drives() == {1: "rescue"}
    place.delete("drivers")
    if stopped:
        assert place.do(lambda: vms.start(place.vm, "alice")) == OK
    assert place.inserted() == {1: "rescue"}
    assert place.attach("installer") == OK, "into the empty drive"
    assert place.drives() == place.inserted() == {0: "installer", 1: "rescue"}


def test_an_iso_that_is_deleted_meanwhile_is_not_found(place: Place) -> None:
    place.create(stopped=True)
    gone = place.iso("rescue")
    place.delete("rescue")
    calls: tuple[Callable[[], Operation], ...] = (
        lambda: vms.attach_iso(place.vm, gone, False, "alice"),
        lambda: place.site.new_vm("new", template=None, isos=(gone,), root_size_bytes=1 << 24),
    )
    for call in calls:
        with pytest.raises(NotFoundError) as caught, database.transaction():
            call()
        assert caught.value.reason == "ISO_NOT_FOUND"
    with pytest.raises(NotFoundError):
        isos.delete(gone, "alice", place.engine.templates)
    assert place.attach("drivers") == OK
    with pytest.raises(FailedPreconditionError, match="in a drive"):
        place.delete("drivers")


def test_a_vm_that_goes_frees_its_isos(place: Place) -> None:
    place.create(stopped=True)
    assert place.attach("drivers") == OK
    assert place.do(lambda: vms.delete(place.vm, "alice")) == OK
    place.delete("drivers")


def test_a_failed_attach_leaves_the_drive_empty(place: Place) -> None:
    place.create(stopped=False)
    host = place.site.hosts[Host.get_by_id(place.vm.host_id).name]
    host.fail("ChangeCdrom", Fault(FailedPreconditionError("no drive", "CDROM_MISSING"), before=False))
    assert place.attach("drivers")[0] == "failed"
    assert place.drives() == place.inserted() == {}
    host.fail("ChangeCdrom", Fault(FailedPreconditionError("no", "NO_WAY"), before=False, times=2))
    assert place.attach("drivers")[0] == "failed"
    assert "eject it" in place.vm.attention
    assert place.drives() == {0: "drivers"}, "it may be there"
    assert place.eject() == OK
    assert place.drives() == place.inserted() == {}


def test_a_host_without_the_function_is_refused(place: Place) -> None:
    place.create(stopped=True)
    assert place.attach("drivers") == OK
    Host.update(functions="nics").execute()
    assert place.do(lambda: vms.start(place.vm, "alice")) == ("failed", "FUNCTION_NOT_SUPPORTED")
    Host.update(functions="iso").execute()
    assert place.do(lambda: vms.start(place.vm, "alice")) == OK
    Host.update(functions="nics").execute()
    with session():
        assert reason(lambda: vms.attach_iso(place.vm, place.iso("rescue"), False, "alice")) == "FUNCTION_NOT_SUPPORTED"


def test_a_vm_is_installed_from_an_iso(place: Place) -> None:
    def wanted(**changes: object) -> Operation:
        with database.session():
            isos = [place.iso("installer"), place.iso("drivers")]
        values = {"template": None, "isos": isos, "root_size_bytes": 64 << 20, "firmware": "uefi", **changes}
        return place.site.new_vm("web", offering=place.site.encrypted, **values)

    template = Template.select().first()
    for changes, expected in (
        ({"root_size_bytes": 0}, "REQUIRED"),
        ({"isos": []}, "REQUIRED"),
        ({"template": template}, "TEMPLATE_AND_ISO"),
        ({"isos": [place.iso("installer")] * 2}, "TOO_MANY_ISOS"),
        ({"root_size_bytes": (64 << 20) + 1}, "INVALID_SIZE"),
    ):
        refused = partial(place.site.record, partial(wanted, **changes))
        assert reason(refused) == expected
    assert place.do(wanted) == OK
    vm, root = place.vm, Volume.get(Volume.root)
    assert (vm.template_id, vm.template_name, vm.firmware) == (None, "", "uefi")
    assert (root.template_id, root.size_bytes, root.encrypt_format) == (None, 64 << 20, "luks")
    assert place.drives() == place.inserted() == {0: "installer", 1: "drivers"}


def test_secure_boot_is_asked_of_the_host_and_shown(place: Place) -> None:
    def record() -> Operation:
        with database.session():
            isos = [place.iso("installer")]
        fields = {"template": None, "isos": isos, "root_size_bytes": 64 << 20, "firmware": "uefi_secure_boot"}
        return place.site.new_vm("web", **fields)

    Host.update(uefi=False).execute()
    assert reason(partial(place.site.record, record)) == "NO_FEASIBLE_HOST", "it is UEFI, too"
    Host.update(uefi=True).execute()
    assert place.do(record) == OK
    spec = place.site.hosts[Host.get_by_id(place.vm.host_id).name].vms[place.vm.id].spec
    assert spec.firmware == types_pb2.FIRMWARE_UEFI_SECURE_BOOT
    assert convert_vms.vm(place.vm, place.site.admin()).firmware == types_pb2.FIRMWARE_UEFI_SECURE_BOOT
