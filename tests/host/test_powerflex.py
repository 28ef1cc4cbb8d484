"""Volumes on a PowerFlex pool: real QEMU and cryptsetup on the stand-in's loop devices."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from ostler_agent.pools import Pools, PoolSpec
from ostler_agent.pools.powerflex import PowerFlex, array_name
from ostler_agent.spec import DiskFormat, Key, Provisioning, VolumeRef
from ostler_agent.templates import Templates
from ostler_agent.tools import cryptsetup
from ostler_agent.volumes import Volumes
from ostler_common.errors import OstlerError
from ostler_common.secret import Secret

from tests.fakes.guests import FakeGuests
from tests.fakes.powerflex import GIB, FakeGateway, gateway
from tests.host.conftest import contents, job, need, new_key

MIB = 1 << 20
FORMATS = [(disk_format, encrypted) for disk_format in DiskFormat for encrypted in (False, True)]


@dataclass
class Host:
    """An agent's storage on an array."""

    root: Path
    array: FakeGateway
    pool_id: str = field(default_factory=lambda: str(uuid.uuid4()))

    def __post_init__(self) -> None:
        self.templates: dict[str, bytes] = {}
        self.guests = FakeGuests()
        self.start()
        self.ensure()

    def start(self) -> None:
        """As an agent's start does: the password is gone."""
        powerflex = PowerFlex(
            devices=self.array.sdcs[0].by_id,
            links=self.root / "links",
            notes=self.root / "notes",
            device_timeout_s=1.0,
            unmap_timeout_s=0.5,
        )
        self.pools = Pools(self.root / "state", [powerflex])
        source = Templates(
            self.root / "templates", lambda given, offset: iter([self.templates[given.template_id][offset:]])
        )
        self.volumes = Volumes(self.pools, source, self.guests)

    def ensure(self, password: str = "") -> None:
        spec = PoolSpec(self.pool_id, "powerflex", options=self.array.options())
        self.pools.ensure(spec, Secret((password or self.array.password).encode()))

    def ref(self, disk_format: DiskFormat, key: Key | None = None) -> VolumeRef:
        return VolumeRef(self.pool_id, str(uuid.uuid4()), disk_format, key)

    def read(self, ref: VolumeRef) -> bytes:
        with self.pools.hold(ref) as path:
            return contents(path, ref, self.root / "read")


def key_or_none(encrypted: bool) -> Key | None:
    return new_key() if encrypted else None


def reason(call: object) -> str:
    with pytest.raises(OstlerError) as raised:
        call()  # type: ignore[operator]
    return raised.value.reason


@pytest.fixture
def array(tmp_path: Path) -> Iterator[FakeGateway]:
    need("losetup", "qemu-img", "cryptsetup")
    with gateway(tmp_path / "array") as running:
        yield running


@pytest.fixture
def host(array: FakeGateway, tmp_path: Path) -> Host:
    return Host(tmp_path, array)


@pytest.mark.parametrize(("disk_format", "encrypted"), FORMATS)
def test_a_volume_is_made_and_nothing_stays_mapped(
    host: Host, array: FakeGateway, disk_format: DiskFormat, encrypted: bool
) -> None:
    ref = host.ref(disk_format, key_or_none(encrypted))
    made = host.volumes.create(job(), ref, 8 * GIB + 512 * MIB, Provisioning.FAT)
    [volume] = array.volumes.values()
    assert (volume.name, volume.size_gib) == (array_name(ref.volume_id), 16)  # 8.5 GiB: not 8
    exact = 8 * GIB + 512 * MIB
    whole = 16 * GIB - (2 * MIB if encrypted else 0)
    assert made.virtual_size_bytes == (exact if disk_format is DiskFormat.QCOW2 else whole)
    assert made.encrypted == encrypted
    assert array.mapped() == set()
    assert host.volumes.info(ref) == made  # with the key: proved to open it
    if encrypted and disk_format is DiskFormat.RAW:
        assert cryptsetup.is_luks(volume.file)
    host.volumes.delete(job(), ref)
    host.volumes.delete(job(), ref)
    assert not array.volumes
    assert list((host.root / "links" / host.pool_id).iterdir()) == []
