"""Volumes on a PowerFlex pool: real QEMU and cryptsetup on the stand-in's loop devices."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from ostler_agent.jobs import JobContext
from ostler_agent.pools import Pools, PoolSpec, powerflex
from ostler_agent.pools.powerflex import PowerFlex, array_name, volume_id_of
from ostler_agent.spec import DiskFormat, Provisioning
from ostler_agent.tools import cryptsetup
from ostler_common.errors import InternalError, OstlerError
from ostler_common.secret import Secret

from tests.fakes.powerflex import GIB, OLD_BYTES, FakeGateway, Sdc, gateway
from tests.host.conftest import job, need, new_key
from tests.host.powerflex_host import MIB, NOISE, Host, reason

FORMATS = [(disk_format, encrypted) for disk_format in DiskFormat for encrypted in (False, True)]


def written(file: Path) -> Iterator[bytes]:
    """All of a sparse file that is not a hole."""
    with file.open("rb") as stream:
        end = 0
        while True:
            try:
                start = os.lseek(stream.fileno(), end, os.SEEK_DATA)
            except OSError:
                return
            end = os.lseek(stream.fileno(), start, os.SEEK_HOLE)
            stream.seek(start)
            yield stream.read(end - start)


@pytest.fixture
def array(tmp_path: Path) -> Iterator[FakeGateway]:
    need("losetup", "qemu-img", "cryptsetup")
    sdcs = [Sdc(tmp_path / f"by-id-{n}", guid=str(uuid.uuid4())) for n in range(2)]
    with gateway(tmp_path / "array", sdcs) as running:
        yield running


@pytest.fixture
def host(array: FakeGateway, tmp_path: Path) -> Host:
    return Host(tmp_path / "h1", array, array.sdcs[0])


@pytest.mark.parametrize(("disk_format", "encrypted"), FORMATS)
def test_a_volume_is_made_and_nothing_stays_mapped(
    host: Host, array: FakeGateway, disk_format: DiskFormat, encrypted: bool
) -> None:
    ref = host.ref(disk_format, new_key() if encrypted else None)
    made = host.volumes.create(job(), ref, 8 * GIB + 512 * MIB, Provisioning.THICK)
    [volume] = array.volumes.values()
    assert (volume.name, volume.size_gib, volume.thick) == (array_name(ref.volume_id), 16, True)  # 8.5 GiB: not 8
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
    assert host.links() == set()


@pytest.mark.parametrize(("disk_format", "encrypted"), FORMATS)
def test_a_volume_holds_its_template_and_grows(
    host: Host, array: FakeGateway, disk_format: DiskFormat, encrypted: bool
) -> None:
    ref = host.made(disk_format, encrypted)
    assert host.head(ref) == NOISE
    grown = host.volumes.grow(job(), ref, 8 * GIB + MIB)
    assert host.volumes.grow(job(), ref, grown.virtual_size_bytes) == grown
    assert next(iter(array.volumes.values())).size_gib == 16
    assert grown.virtual_size_bytes >= 8 * GIB + MIB
    assert host.head(ref) == NOISE
    host.guests.volumes[ref.volume_id] = "vm"
    host.volumes.grow(job(), ref, 17 * GIB)
    [(_, _, told)] = host.guests.grown
    exact = disk_format is DiskFormat.QCOW2
    assert told == (17 * GIB if exact else 24 * GIB - (2 * MIB if encrypted else 0))
    assert array.mapped() == set()


@pytest.mark.parametrize("zero_padding", [False, True])
def test_a_plain_raw_volume_never_shows_what_was_there_before(
    host: Host, array: FakeGateway, zero_padding: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    array.zero_padding = zero_padding
    host.start()
    host.ensure()
    ref = host.ref(DiskFormat.RAW)
    host.volumes.create(job(), ref, GIB)
    [volume] = array.volumes.values()
    assert not any(any(piece) for piece in written(volume.file))

    def killed(*_: object) -> None:
        raise InternalError("killed", "KILLED")

    with monkeypatch.context() as patch:
        if not zero_padding:
            patch.setattr(powerflex, "zero", killed)
            assert reason(lambda: host.volumes.grow(job(), ref, 9 * GIB)) == "KILLED"
            assert OLD_BYTES in b"".join(written(volume.file))
    host.start()
    host.ensure()
    host.volumes.grow(job(), ref, 16 * GIB)
    assert not any(any(piece) for piece in written(volume.file))


def test_an_encrypted_copy_to_the_other_layout(host: Host, array: FakeGateway) -> None:
    """The other way all of the LUKS container's noise is read, which takes its time."""
    source = host.made(DiskFormat.QCOW2, True)
    target = host.ref(DiskFormat.RAW, new_key())
    host.volumes.copies.copy(job(), source, target)
    assert host.head(target) == NOISE
    assert array.mapped() == set()
    assert not any(NOISE[:512] in piece for volume in array.volumes.values() for piece in written(volume.file))


def test_who_made_a_volume_is_known(host: Host) -> None:
    ref = host.ref(DiskFormat.QCOW2)
    maker = JobContext("one")
    made = host.volumes.create(maker, ref, GIB)
    assert host.volumes.create(maker, ref, GIB) == made
    assert host.volumes.resolve_interrupted_create(ref, maker.facts) == made
    assert reason(lambda: host.volumes.create(JobContext("two"), ref, GIB)) == "VOLUME_EXISTS"


def test_what_a_killed_agent_left_goes(host: Host, array: FakeGateway) -> None:
    ref = host.ref(DiskFormat.RAW)
    store = host.pools._volumes(host.pool_id)
    left = store.make(ref, GIB, thick=False)
    left.__enter__()
    assert array.names() == array.mapped() == {array_name(ref.volume_id, staged=True)}
    host.start()
    assert reason(lambda: host.volumes.resolve_interrupted_create(ref, {})) == "POOL_NEEDS_CREDENTIALS"
    host.ensure()
    assert reason(lambda: host.volumes.resolve_interrupted_create(ref, {})) == "INTERRUPTED"
    assert not array.names()
    assert host.links() == set()
    with contextlib.suppress(OstlerError):
        left.__exit__(None, None, None)


@pytest.mark.parametrize("action", ["addMappedSdc", "setVolumeName"])
def test_a_refusal_leaves_nothing(host: Host, array: FakeGateway, action: str) -> None:
    array.refuse[action] = "The MDM is busy"
    ref = host.ref(DiskFormat.RAW)
    assert reason(lambda: host.volumes.create(job(), ref, GIB)) == "POWERFLEX_REFUSED"
    assert not array.names()
    assert host.links() == set()


def test_a_device_that_never_appears_is_told_and_unmapped(host: Host, array: FakeGateway) -> None:
    ref = host.ref(DiskFormat.QCOW2)
    host.volumes.create(job(), ref, GIB)
    array.no_devices = True
    assert reason(lambda: host.volumes.info(ref)) == "POWERFLEX_DEVICE_MISSING"
    assert reason(lambda: host.volumes.create(job(), host.ref(DiskFormat.RAW), GIB)) == "POWERFLEX_DEVICE_MISSING"
    assert array.names() == {array_name(ref.volume_id)}
    assert array.mapped() == set()


def test_a_full_array(host: Host, array: FakeGateway) -> None:
    array.capacity_bytes = 8 * GIB
    ref = host.ref(DiskFormat.RAW)
    host.volumes.create(job(), ref, GIB)
    assert reason(lambda: host.volumes.create(job(), host.ref(DiskFormat.RAW), GIB)) == "POOL_FULL"
    assert reason(lambda: host.volumes.grow(job(), ref, 9 * GIB)) == "POOL_FULL"
    assert array.names() == {array_name(ref.volume_id)}
    assert array.mapped() == set()


def test_a_vms_volume_stays_mapped_until_nothing_uses_it(host: Host, array: FakeGateway) -> None:
    ref = host.ref(DiskFormat.QCOW2)
    host.volumes.create(job(), ref, GIB)
    name = {array_name(ref.volume_id)}
    before = time.monotonic()
    path = host.pools.volume_path(ref)
    assert path.is_block_device()
    assert path.name == ref.volume_id
    host.volumes.info(ref)
    assert array.mapped() == name, "whoever looks meanwhile does not unmap it"
    host.pools.unmap_unused(used=(), requested_before=before)  # it may be about to start
    host.pools.unmap_unused(used={ref.volume_id}, requested_before=time.monotonic())  # it runs
    host.pools.unmap_unused(used=(), requested_before=time.monotonic(), only={"another"})
    with host.pools.hold(ref):
        host.pools.unmap_unused(used=(), requested_before=time.monotonic())  # something reads it
    assert array.mapped() == name
    host.start()  # the agent has forgotten all that
    host.ensure()
    assert host.volumes.info(ref).volume_id == ref.volume_id
    assert array.mapped() == name
    host.pools.unmap_unused(used=(), requested_before=time.monotonic())
    assert array.mapped() == set()
    assert host.links() == set()


def test_two_hosts_and_a_volume(host: Host, array: FakeGateway, tmp_path: Path) -> None:
    other = Host(tmp_path / "h2", array, array.sdcs[1], host.pool_id)
    assert other.pools.get(host.pool_id).fingerprint == host.pools.get(host.pool_id).fingerprint
    ref = host.made(DiskFormat.QCOW2, True)
    host.pools.volume_path(ref)
    assert other.head(ref) == NOISE, "mapped to both, as while a VM moves"
    assert reason(lambda: other.volumes.delete(job(), ref)) == "VOLUME_IN_USE"
    unmap_if_unused = threading.Timer(0.2, lambda: host.pools.unmap_unused((), time.monotonic()))
    unmap_if_unused.start()
    other.volumes.delete(job(), ref)
    unmap_if_unused.join()
    assert not array.volumes


def test_the_password_is_in_memory_only(host: Host, array: FakeGateway) -> None:
    ref = host.ref(DiskFormat.QCOW2)
    host.volumes.create(job(), ref, GIB)
    files = [path.read_bytes() for path in host.root.rglob("*") if path.is_file()]
    assert files
    assert not any(array.password.encode() in content for content in files)
    assert reason(lambda: host.ensure("wrong")) == "POWERFLEX_LOGIN_REFUSED"
    host.volumes.info(ref)  # the right one is still known
    host.start()
    host.pools.restore()
    assert [pool.capacity_bytes for pool in host.pools.list()] == [0]
    assert reason(lambda: host.volumes.info(ref)) == "POOL_NEEDS_CREDENTIALS"
    host.pools.set_credential_wait(20)
    threading.Timer(0.2, host.ensure).start()
    assert host.volumes.info(ref).virtual_size_bytes == GIB
    assert host.pools.list()[0].capacity_bytes > 0


def test_an_unknown_host_is_told_so(array: FakeGateway, tmp_path: Path) -> None:
    for sdc in array.sdcs:
        sdc.ip = "192.0.2.1"
    pools = Pools(tmp_path / "state", [PowerFlex(links=tmp_path / "links", drv_cfg=tmp_path / "none")])
    spec = PoolSpec(str(uuid.uuid4()), "powerflex", options=array.options())
    assert reason(lambda: pools.ensure(spec, Secret(array.password.encode()))) == "POWERFLEX_NO_SDC"
    drv_cfg = tmp_path / "drv_cfg"
    drv_cfg.write_text(f"#!/bin/sh\necho {array.sdcs[1].guid.upper()}\n")
    drv_cfg.chmod(0o755)
    pools = Pools(tmp_path / "state", [PowerFlex(links=tmp_path / "links", drv_cfg=drv_cfg)])
    assert pools.ensure(spec, Secret(array.password.encode())).capacity_bytes > 0


def test_names_on_the_array() -> None:
    volume_id = str(uuid.uuid4())
    for name in (array_name(volume_id), array_name(volume_id, staged=True)):
        assert len(name) <= 31
        assert volume_id_of(name) == volume_id
    assert [volume_id_of(name) for name in ("vol1", "ost-short", "ost-" + "1" * 26)] == [None] * 3
