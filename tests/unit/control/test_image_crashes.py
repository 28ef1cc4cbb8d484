"""The control plane is killed at every point of an upload, a download and a template's making, and goes on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ostler.types.v1 import volume_pb2 as types_pb2
from ostler_common.secret import Secret
from ostler_control import volumes
from ostler_control.models import Operation, Passphrase, Template, Volume, VolumeFile, new_id
from ostler_control.templates.received import Announced, Received
from ostler_control.templates.store import StoredFile
from ostler_control.volumes import make_template
from ostler_control.volumes.export_encryption import ExportEncryption

from tests import databases
from tests.fakes.working_agent import File, bytes_of, wait_until
from tests.sites import MIB, Site, new_site
from tests.unit.control.crashes import (
    are_over,
    control,
    kill_at_every_point,
    names,
    record,
    run_without_crash,
)

pytestmark = pytest.mark.slow

# How many points each verb has at which it can be killed, and one more, so that one operation is never killed.
POINTS = {"upload": 11, "wrong": 17, "template": 20, "download": 17}
OPENS = Secret(b"a passphrase of the caller's")
LOCKED = bytes_of(File(3 * MIB, types_pb2.DISK_FORMAT_QCOW2, OPENS.reveal()))
SHA256 = hashlib.sha256(LOCKED).hexdigest()


def prepare(site: Site) -> None:
    """The volumes that downloads and templates are made of."""
    site.fleet.template_keys[SHA256] = OPENS.reveal()
    new = [
        volumes.NewVolume(name, site.account, site.disks["encrypted"], 4 * MIB, pool=site.pools["shared"])
        for kind in ("template", "download")
        for name in names(kind, POINTS[kind])
    ]
    run_without_crash(site, [record(partial(volumes.create, wanted, "alice", site.keys)) for wanted in new])


def start(site: Site, kind: str, name: str) -> Any:
    match kind:
        case "download":
            row = Volume.get(Volume.name == name)
            how = ExportEncryption(decrypt=True)
            return record(partial(volumes.download, row, "raw", how, "alice", new_id()))
        case "template":
            wanted = make_template.NewTemplateFromVolume(
                name, "bios", Volume.get(Volume.name == name), ExportEncryption(False, OPENS)
            )
            return record(partial(make_template.create, wanted, "root", site.keys))
    announced = Announced("qcow2", len(LOCKED), SHA256, encrypted=True)
    passphrase = OPENS if kind == "upload" else Secret(b"not that one")
    sent = volumes.NewUpload(name, site.account, site.disks["encrypted"], announced, site.pools["shared"], passphrase)
    stored = StoredFile(new_id(), Received(3 * MIB, len(LOCKED), SHA256))
    (files_of(site) / stored.id).write_bytes(LOCKED)
    return record(partial(volumes.upload, sent, stored, "alice", site.keys))


def files_of(site: Site) -> Path:
    """Where the killed process and the next one have the files of templates and uploads."""
    directory = site.state_dir / "control" / "templates"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


@dataclass(frozen=True)
class Aftermath:
    """What there is, the n-th operation of a kind killed at its n-th point."""

    site: Site
    operations: dict[str, list[Any]]

    def states(self, kind: str) -> list[str]:
        return [Operation.get_by_id(operation.id).state for operation in self.operations[kind]]


@pytest.fixture(scope="module")
def aftermath(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aftermath]:
    """Everything at once is killed everywhere, and another process carries it out."""
    state_dir = tmp_path_factory.mktemp("crashes")
    with databases.bound(f"sqlite:///{state_dir}/ostler.sqlite") as url:
        site = new_site(url, state_dir)
        prepare(site)
        operations = {kind: [start(site, kind, name) for name in names(kind, POINTS[kind])] for kind in POINTS}
        every = kill_at_every_point(site, operations)
        with control(site, {}):
            wait_until(lambda: are_over(every) and not VolumeFile.select().exists(), 120)
            wait_until(lambda: are_over(list(Operation.select())), 60)
        yield Aftermath(site, operations)
        site.fleet.stop()


def test_nothing_is_left(aftermath: Aftermath) -> None:
    made: list[Any] = list(Template.select().where(Template.name != "tiny"))
    disks: list[Any] = list(Volume.select())
    assert sorted(path.name for path in files_of(aftermath.site).iterdir()) == sorted(row.id for row in made)
    kept = {row.passphrase_id for row in [*made, *disks]}
    assert {row.id for row in Passphrase.select()} == kept
    assert set(aftermath.site.fleet.files()) == {row.file_id for row in disks}
    assert not Volume.select().where(Volume.operation_id != "").exists()


def test_uploads_succeed(aftermath: Aftermath) -> None:
    assert set(aftermath.states("upload")) == {"succeeded"}
    made: list[Any] = list(Volume.select().where(Volume.name.in_(names("upload", POINTS["upload"]))))
    assert len(made) == POINTS["upload"]
    for volume in made:
        file = aftermath.site.fleet.pools[volume.pool_id][volume.file_id]
        assert (volume.state, file.passphrase) == ("ready", aftermath.site.keys.open(volume).reveal())


def test_uploads_with_a_wrong_passphrase_leave_nothing(aftermath: Aftermath) -> None:
    assert set(aftermath.states("wrong")) == {"failed"}
    assert not Volume.select().where(Volume.name.in_(names("wrong", POINTS["wrong"]))).exists()


def test_templates_are_created(aftermath: Aftermath) -> None:
    assert set(aftermath.states("template")) == {"succeeded"}
    for name in names("template", POINTS["template"]):
        template: Any = Template.get(Template.name == name)
        assert aftermath.site.keys.open(template).reveal() == OPENS.reveal()
        file = (files_of(aftermath.site) / template.id).read_bytes()
        assert hashlib.sha256(file).hexdigest() == template.sha256


def test_downloads_end_with_their_caller(aftermath: Aftermath) -> None:
    """Before the copy is done they are cancelled; then they lack their caller; then only cleaning is left."""
    states = aftermath.states("download")
    assert states == sorted(states, key=["cancelled", "failed", "succeeded"].index)
    assert set(states) == {"cancelled", "failed", "succeeded"}
