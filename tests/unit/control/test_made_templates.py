"""Templates made of volumes and snapshots, against agents that work in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from google.longrunning import operations_pb2
from ostler.control.v1 import template_pb2, volume_pb2
from ostler_common.errors import FailedPreconditionError, OstlerError
from ostler_control import vms, volumes
from ostler_control.api.templates import TemplateService
from ostler_control.models import Event, Operation, Passphrase, Request, Template, Vm, Volume, VolumeFile, new_id
from ostler_control.operations import Engine
from ostler_control.templates import tpms

from tests.fakes.working_agent import Fault, wait_until
from tests.sites import MIB, Site, outcome
from tests.unit.control import calls

CHOSEN = b"a passphrase for the template"
OK = ("succeeded", "")


@pytest.fixture
def site(site: Site, engine: Engine) -> Iterator[Site]:
    """After every test no template is left either, and no file of one."""
    yield site
    for template in Template.select().where(Template.name != "tiny"):
        request = template_pb2.DeleteTemplateRequest(template=template.name)
        service(engine).DeleteTemplate(request, calls.context(site.admin()))
    assert not engine.templates.exists() or list(engine.templates.iterdir()) == []


def service(engine: Engine) -> TemplateService:
    return TemplateService(engine.templates, engine.agents, engine.keys)


def new_volume(site: Site, engine: Engine, kind: str = "encrypted") -> Any:
    new = volumes.NewVolume("gold", site.account, site.disks[kind], size_bytes=4 * MIB)
    operation = site.record(lambda: volumes.create(new, "alice", site.keys))
    assert outcome(engine, operation) == OK
    return Volume.get_by_id(operation.resource_id)


def start(site: Site, engine: Engine, **fields: Any) -> operations_pb2.Operation:
    request = template_pb2.CreateTemplateRequest(**{"name": "golden", "volume": "gold", **fields})
    return service(engine).CreateTemplate(request, calls.context(site.admin()))


def ended(engine: Engine, operation: Any) -> tuple[str, str]:
    return outcome(engine, Operation.get_by_id(operation.name.removeprefix("operations/")))


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(OstlerError) as caught:
        call()
    return caught.value.reason


def under(passphrase: bytes = CHOSEN) -> volume_pb2.ExportEncryption:
    return volume_pb2.ExportEncryption(passphrase=passphrase)


def test_an_encrypted_volume_becomes_an_encrypted_template_that_deploys(site: Site, engine: Engine) -> None:
    volume = new_volume(site, engine)
    request_id = new_id()
    operation = start(site, engine, encryption=under(), request_id=request_id, tpm=True)
    assert ended(engine, operation) == OK
    template: Any = Template.get(Template.name == "golden")
    assert tpms.of_templates([template.id])
    file = engine.templates / template.id
    content = site.fleet.pools[volume.pool_id][volume.file_id].content
    assert content.encode() in file.read_bytes()
    assert template.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert (template.virtual_size_bytes, template.file_size_bytes) == (4 * MIB, file.stat().st_size)
    assert (template.format, site.keys.open(template).reveal()) == ("qcow2", CHOSEN)
    assert list(VolumeFile.select()) == []
    assert Passphrase.select().count() == 2, "the volume's and the template's"
    shown = service(engine).GetTemplate(template_pb2.GetTemplateRequest(template="golden"), calls.context(site.admin()))
    assert shown.encrypted
    again = start(site, engine, encryption=under(), request_id=request_id, tpm=True)
    answer = template_pb2.Template()
    assert again.response.Unpack(answer)
    assert (again.name, answer.id) == (operation.name, template.id)
    assert not Event.select().where(Event.type == "volume.decrypted").exists()

    site.fleet.template_keys[template.sha256] = CHOSEN
    deploy = partial(site.new_vm, "web", template=template)
    assert outcome(engine, site.record(deploy)) == OK
    root: Any = Volume.get(Volume.name == "web-root")
    assert root.encrypt_format == "luks"
    assert site.keys.open(root).reveal() != CHOSEN
    plain = partial(site.new_vm, "open", template=template, offering=site.plain)
    assert refused(lambda: site.record(plain)) == "TEMPLATE_ENCRYPTED"

    digests = [row.digest for row in Request.select()]
    request = template_pb2.CreateTemplateRequest(
        name="golden", volume="gold", encryption=under(), request_id=request_id, tpm=True
    ).SerializeToString(deterministic=True)
    assert hashlib.sha256(request).hexdigest() not in digests, "nobody tries passphrases on it"
    for path in site.state_dir.rglob("*"):
        assert not path.is_file() or CHOSEN not in path.read_bytes(), path


def test_deleting_it_destroys_its_key(site: Site, engine: Engine) -> None:
    new_volume(site, engine)
    assert ended(engine, start(site, engine, encryption=under())) == OK
    template: Any = Template.get(Template.name == "golden")
    request = template_pb2.DeleteTemplateRequest(template="golden")
    service(engine).DeleteTemplate(request, calls.context(site.admin()))
    assert not Passphrase.select().where(Passphrase.id == template.passphrase_id).exists()
    event: Any = Event.get((Event.type == "template.key.destroy") & (Event.resource_id == template.id))
    assert template.passphrase_id in event.message


def test_a_decrypted_template_is_plain_and_recorded(site: Site, engine: Engine) -> None:
    new_volume(site, engine)
    assert ended(engine, start(site, engine, encryption=volume_pb2.ExportEncryption(decrypt=True))) == OK
    template: Any = Template.get(Template.name == "golden")
    assert template.passphrase_id is None
    event: Any = Event.get(Event.type == "volume.decrypted")
    assert event.message == "the content of volume gold leaves unencrypted, for template golden"
    event.delete_instance()
    assert outcome(engine, site.record(partial(site.new_vm, "open", template=template, offering=site.plain))) == OK


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, "ENCRYPTION_CHOICE_REQUIRED"),
        ({"encryption": under(b"short")}, "INVALID_PASSPHRASE"),
        ({"encryption": under(), "name": "tiny"}, "TEMPLATE_EXISTS"),
        ({"encryption": under(), "name": "no good"}, "INVALID_NAME"),
        ({"encryption": under(), "volume": ""}, "REQUIRED"),
    ],
)
def test_what_is_refused_changes_nothing(site: Site, engine: Engine, fields: dict[str, Any], reason: str) -> None:
    new_volume(site, engine)
    before = Operation.select().count(), Event.select().count(), Passphrase.select().count()
    assert refused(lambda: start(site, engine, **fields)) == reason
    start(site, engine, encryption=under(), validate_only=True)
    assert (Operation.select().count(), Event.select().count(), Passphrase.select().count()) == before


def test_no_template_is_created_from_a_disk_in_use(site: Site, engine: Engine) -> None:
    assert outcome(engine, site.record(partial(site.new_vm, "web"))) == OK
    assert refused(lambda: start(site, engine, volume="web-root", encryption=under())) == "VM_RUNNING"
    vm = Vm.get(Vm.name == "web")
    assert outcome(engine, site.record(partial(vms.stop, vm, "root"))) == OK
    assert ended(engine, start(site, engine, volume="web-root", encryption=under())) == OK


@pytest.mark.parametrize("before", [True, False])
def test_one_that_fails_leaves_nothing(site: Site, engine: Engine, before: bool) -> None:
    new_volume(site, engine)
    for fake in site.hosts.values():
        fake.fail("CopyVolume", Fault(FailedPreconditionError("no", "NO_WAY"), before=before))
    assert ended(engine, start(site, engine, encryption=under())) == ("failed", "NO_WAY")
    assert not Template.select().where(Template.name == "golden").exists()
    assert Passphrase.select().count() == 1, "the volume's"
    wait_until(lambda: len(site.fleet.files()) == 1)


def test_a_name_that_came_into_use_meanwhile(site: Site, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    new_volume(site, engine)
    first = start(site, engine, encryption=under())
    monkeypatch.setattr("ostler_control.volumes.make_template.template_store.check_free_name", lambda name: None)
    second = start(site, engine, encryption=under()) if ended(engine, first) == OK else None
    monkeypatch.undo()
    assert second is not None
    assert ended(engine, second)[0] == "failed"
    assert Passphrase.select().count() == 2
    assert len(list(engine.templates.iterdir())) == 1
