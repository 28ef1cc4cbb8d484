"""A volume's file that somebody on a shared pool has replaced is noticed, and not used."""

from __future__ import annotations

import os
import stat
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from ostler.types.v1 import volume_pb2
from ostler_agent.hypervisors.libvirt.xml import copies as copies_xml
from ostler_agent.hypervisors.libvirt.xml import disks as disk_xml
from ostler_agent.isos import Isos
from ostler_agent.jobs import JobContext
from ostler_agent.migration.admissions import Admissions, Source
from ostler_agent.migration.destination import IncomingMigrations
from ostler_agent.pools import POOL_TYPES, Pools, PoolSpec
from ostler_agent.spec import DiskFormat, DiskSpec, Key, VmSpec, VolumeRef
from ostler_agent.templates import Templates
from ostler_agent.vms import disks, power
from ostler_agent.volumes import Volumes
from ostler_common.errors import OstlerError
from ostler_common.secret import Secret
from ostler_control import volumes
from ostler_control.models import Event, Volume
from ostler_control.operations import Engine
from ostler_control.volumes.read import read_file

from tests import databases
from tests.fakes.hypervisor import FakeHypervisor
from tests.images import qcow2
from tests.sites import MIB, Site, outcome, site_at_work


@pytest.fixture(scope="module")
def working(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Engine]]:
    state_dir = tmp_path_factory.mktemp("site")
    with databases.bound(f"sqlite:///{state_dir}/ostler.sqlite") as url, site_at_work(url, state_dir) as working:
        yield working


@pytest.mark.parametrize("kind", ["encrypted", "plain"])
def test_a_header_that_contradicts_the_database_is_an_event(working: tuple[Site, Engine], kind: str) -> None:
    site, engine = working
    new = volumes.NewVolume(kind, site.account, site.disks[kind], 4 * MIB, pool=site.pools["shared"])
    created = site.record(lambda: volumes.create(new, "alice", site.keys))
    assert outcome(engine, created) == ("succeeded", "")
    volume = Volume.get(Volume.name == kind)
    mismatches = Event.select().where((Event.type == "volume.header-mismatch") & (Event.resource_id == volume.id))
    read_file(volume, engine.agents)
    assert not mismatches.exists()

    file = site.fleet.pools[volume.pool_id][volume.file_id]
    file.passphrase = b"" if kind == "encrypted" else b"of an attacker"
    read_file(volume, engine.agents)
    assert "replaced" in mismatches.get().message

    file.passphrase = site.keys.open(volume).reveal() if kind == "encrypted" else b""
    file.format = volume_pb2.DISK_FORMAT_RAW
    read_file(volume, engine.agents)
    assert mismatches.count() == 2


# -- On the host. What QEMU would open is checked before every use: any host of a cluster may write to a shared pool.

VM = str(uuid.uuid4())
PLAIN = VolumeRef(str(uuid.uuid4()), str(uuid.uuid4()), DiskFormat.QCOW2)
ENCRYPTED = replace(PLAIN, key=Key(str(uuid.uuid4()), Secret(b"x")))
RAW = replace(PLAIN, format=DiskFormat.RAW)
ENCRYPTED_RAW = replace(ENCRYPTED, format=DiskFormat.RAW)

Replace = Callable[[Path], object]


def _device(path: Path) -> None:
    os.mknod(path, stat.S_IFBLK | 0o600, os.makedev(7, 0))


def _link_to_another(path: Path) -> None:
    path.with_name("other").write_bytes(qcow2())
    path.symlink_to("other")


def _pipe(path: Path) -> None:
    os.mkfifo(path)


REPLACEMENTS: dict[str, tuple[VolumeRef, Replace, str]] = {
    "a link to a file of the host": (RAW, lambda path: path.symlink_to("/etc/shadow"), "NOT_AN_IMAGE"),
    "a link to a device": (RAW, lambda path: path.symlink_to("/dev/loop0"), "NOT_AN_IMAGE"),
    "a link to another volume": (PLAIN, _link_to_another, "NOT_AN_IMAGE"),
    "a device": (RAW, _device, "NOT_AN_IMAGE"),
    "a pipe": (RAW, _pipe, "NOT_AN_IMAGE"),
    "a directory": (PLAIN, Path.mkdir, "NOT_AN_IMAGE"),
    "a backing file": (PLAIN, lambda path: path.write_bytes(qcow2(backing=512)), "BACKING_FILE_REFUSED"),
    "a data file": (PLAIN, lambda path: path.write_bytes(qcow2(incompatible=4)), "BACKING_FILE_REFUSED"),
    "a backing file under encryption": (
        ENCRYPTED,
        lambda path: path.write_bytes(qcow2(encryption=2, backing=512)),
        "BACKING_FILE_REFUSED",
    ),
    "another format": (PLAIN, lambda path: path.write_bytes(bytes(4096)), "NOT_AN_IMAGE"),
    "no encryption": (ENCRYPTED, lambda path: path.write_bytes(qcow2()), "NOT_ENCRYPTED"),
    "no encryption, raw": (ENCRYPTED_RAW, lambda path: path.write_bytes(bytes(4096)), "NOT_AN_IMAGE"),
    "encryption": (PLAIN, lambda path: path.write_bytes(qcow2(encryption=2)), "KEY_MISSING"),
}


@pytest.fixture
def pool(tmp_path: Path) -> Pools:
    (tmp_path / "pool").mkdir()
    pools = Pools(tmp_path / "state", POOL_TYPES)
    pools.ensure(PoolSpec(PLAIN.pool_id, "local", str(tmp_path / "pool")))
    return pools


def _spec(volume: VolumeRef) -> VmSpec:
    return VmSpec(VM, "web", 1, 128 * MIB, disks=(DiskSpec(volume, 0),))


def _start(driver: FakeHypervisor, pools: Pools, volume: VolumeRef, tmp_path: Path) -> None:
    power.start(driver, pools.volume_path, _spec(volume), JobContext("test"))


def _attach(driver: FakeHypervisor, pools: Pools, volume: VolumeRef, tmp_path: Path) -> None:
    driver.add(VM)
    disks.attach(driver, pools.volume_path, VM, DiskSpec(volume, 1), JobContext("test"))


def _volumes(driver: FakeHypervisor, pools: Pools, tmp_path: Path) -> Volumes:
    return Volumes(pools, Templates(tmp_path / "templates", lambda source, offset: iter([])), driver)


def _migrate_here(driver: FakeHypervisor, pools: Pools, volume: VolumeRef, tmp_path: Path) -> None:
    volumes = _volumes(driver, pools, tmp_path)
    isos = Isos(lambda source, offset: iter([]))
    admissions = Admissions(tmp_path / "admissions")
    incoming = IncomingMigrations(driver, volumes, pools.volume_path, "10.0.0.2", "h2.qemu", admissions, isos)
    incoming.prepare(_spec(volume), [], Source(str(uuid.uuid4()), 60), JobContext("test"))


def _of_volumes(use: Callable[[Volumes, VolumeRef], object]) -> Callable[..., None]:
    def call(driver: FakeHypervisor, pools: Pools, volume: VolumeRef, tmp_path: Path) -> None:
        use(_volumes(driver, pools, tmp_path), volume)

    return call


def _other(volume: VolumeRef) -> VolumeRef:
    return replace(volume, volume_id=str(uuid.uuid4()))


USES: dict[str, Callable[..., None]] = {
    "start": _start,
    "attach": _attach,
    "incoming migration": _migrate_here,
    "grow": _of_volumes(lambda volumes, ref: volumes.grow(JobContext("test"), ref, 2 << 30)),
    "copy": _of_volumes(lambda volumes, ref: volumes.copies.copy(JobContext("test"), ref, _other(ref))),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("what", REPLACEMENTS)
def test_nothing_uses_a_file_that_was_replaced(what: str, use: str, pool: Pools, tmp_path: Path) -> None:
    volume, put, reason = REPLACEMENTS[what]
    if put is _device and os.geteuid() != 0:
        pytest.skip("only root makes devices")
    put(pool.volume_path(volume))
    driver = FakeHypervisor()
    with pytest.raises(OstlerError) as error:
        USES[use](driver, pool, volume, tmp_path)
    assert error.value.reason == reason
    assert driver.done == []
    assert driver.keys == {}


def test_disks_have_nothing_behind_them() -> None:
    """QEMU opens no backing file then, even if a header names one that was not there when it was checked."""
    for volume in (PLAIN, ENCRYPTED, RAW):
        item = disk_xml.disk(DiskSpec(volume, 0), disk_xml.DiskFile(Path("/pool/x")))
        [backing] = item.findall("backingStore")
        assert len(backing) == 0
        assert not backing.attrib
    mirrored = ElementTree.fromstring(copies_xml.mirror_xml(PLAIN, disk_xml.DiskFile(Path("/pool/x"))))
    assert mirrored.find("backingStore") is not None
