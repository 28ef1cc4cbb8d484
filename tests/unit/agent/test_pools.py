import os
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ostler_agent.pools import POOL_TYPES, Pools, PoolSpec, fingerprint
from ostler_agent.pools.nfs import Nfs
from ostler_agent.spec import DiskFormat, PowerState, VmInfo, VolumeRef
from ostler_agent.tools.mounts import Mount, parse_mountinfo
from ostler_common.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError, OstlerError

from tests.fakes.runtime import FakeRuntime


@pytest.fixture
def pools(tmp_path: Path) -> Pools:
    return Pools(tmp_path / "state", POOL_TYPES)


def local(tmp_path: Path, pool_id: str = "") -> PoolSpec:
    return PoolSpec(pool_id or str(uuid.uuid4()), "local", str(tmp_path / "pool"))


def reason(call: Callable[[], object]) -> str:
    with pytest.raises(OstlerError) as caught:
        call()
    return caught.value.reason


def test_a_local_pool_makes_its_directory_and_is_measured(pools: Pools, tmp_path: Path) -> None:
    spec = local(tmp_path)
    pool = pools.ensure(spec)
    again = pools.ensure(spec)
    assert (pool.spec, pool.fingerprint) == (again.spec, again.fingerprint)
    assert (pool.shared, pool.encryption) == (False, True)
    assert pool.capacity_bytes > pool.available_bytes > 0
    # QEMU, as another user, must be able to pass.
    assert (tmp_path / "pool").stat().st_mode & 0o777 == 0o711


def test_a_shared_mount_point_must_be_there(pools: Pools, tmp_path: Path) -> None:
    spec = PoolSpec(str(uuid.uuid4()), "shared-mount-point", str(tmp_path / "mnt"))
    assert reason(lambda: pools.ensure(spec)) == "POOL_PATH_UNUSABLE"
    (tmp_path / "mnt").touch()
    assert reason(lambda: pools.ensure(spec)) == "POOL_PATH_UNUSABLE"
    (tmp_path / "mnt").unlink()
    (tmp_path / "mnt").mkdir()
    assert pools.ensure(spec).shared


def test_a_refused_pool_is_not_remembered(pools: Pools, tmp_path: Path) -> None:
    spec = PoolSpec(str(uuid.uuid4()), "shared-mount-point", str(tmp_path / "mnt"))
    assert reason(lambda: pools.ensure(spec)) == "POOL_PATH_UNUSABLE"
    assert reason(lambda: pools.get(spec.pool_id)) == "POOL_NOT_FOUND"


def test_two_hosts_see_one_fingerprint_exactly_when_they_see_one_directory(tmp_path: Path) -> None:
    spec = local(tmp_path)
    one, two = (Pools(tmp_path / name, POOL_TYPES).ensure(spec).fingerprint for name in ("one", "two"))
    other = Pools(tmp_path / "three", POOL_TYPES).ensure(PoolSpec(spec.pool_id, "local", str(tmp_path / "other")))
    assert one == two != other.fingerprint


def test_many_that_make_a_fingerprint_at_once_agree(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as threads:
        marks = set(threads.map(lambda _: fingerprint.read_or_make(tmp_path), range(64)))
    assert len(marks) == 1
    assert os.listdir(tmp_path) == [fingerprint.NAME]


def test_pools_are_remembered_across_a_restart(pools: Pools, tmp_path: Path) -> None:
    pool = pools.ensure(local(tmp_path))
    after = Pools(tmp_path / "state", POOL_TYPES)
    after.restore()
    assert after.get(pool.spec.pool_id).fingerprint == pool.fingerprint
    assert [found.spec for found in after.list()] == [pool.spec]


def test_a_directory_that_lost_its_file_system_is_not_written_to(pools: Pools, tmp_path: Path) -> None:
    spec = local(tmp_path)
    pools.ensure(spec)
    (tmp_path / "pool").rename(tmp_path / "mounted")
    (tmp_path / "pool").mkdir()
    assert reason(lambda: pools.volume_path(VolumeRef(spec.pool_id, "v", DiskFormat.RAW))) == "POOL_CHANGED"
    assert reason(lambda: pools.ensure(spec)) == "POOL_CHANGED"
    assert [pool.capacity_bytes for pool in pools.list()] == [0]
    (tmp_path / "pool").rmdir()
    (tmp_path / "mounted").rename(tmp_path / "pool")
    assert pools.volume_path(VolumeRef(spec.pool_id, "v", DiskFormat.RAW)) == tmp_path / "pool" / "v"


def test_a_pool_that_hangs_does_not_hang_the_others(
    pools: Pools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, other = local(tmp_path), PoolSpec(str(uuid.uuid4()), "local", str(tmp_path / "other"))
    mark = pools.ensure(spec).fingerprint
    pools.ensure(other)
    file = tmp_path / "pool" / fingerprint.NAME
    file.unlink()
    os.mkfifo(file)  # whoever reads it waits, as for a server that is away
    others = set(threading.enumerate())  # of tests that went before
    monkeypatch.setattr("ostler_agent.pools.manager._MEASURE_TIMEOUT_S", 1.0)
    hanging, healthy = (VolumeRef(id_, "v", DiskFormat.RAW) for id_ in (spec.pool_id, other.pool_id))
    for _ in range(20):
        assert reason(lambda: pools.volume_path(hanging)) == "POOL_NOT_RESPONDING"
        assert reason(lambda: pools.ensure(spec)) == "POOL_NOT_RESPONDING"
    assert sum(thread.name == "storage" for thread in set(threading.enumerate()) - others) == 1
    assert pools.volume_path(healthy) == tmp_path / "other" / "v"
    assert pools.ensure(other).available_bytes > 0
    assert {pool.spec.pool_id: pool.capacity_bytes > 0 for pool in pools.list()} == {
        spec.pool_id: False,
        other.pool_id: True,
    }

    restarted = Pools(tmp_path / "state", POOL_TYPES)
    restarted.restore()
    assert restarted.volume_path(healthy) == tmp_path / "other" / "v"

    file.rename(tmp_path / "fifo")
    file.write_text(f"{mark}\n")
    (tmp_path / "fifo").write_text(f"{mark}\n")
    eventually(lambda: not any(thread.name == "storage" for thread in threading.enumerate()))
    assert pools.volume_path(hanging) == tmp_path / "pool" / "v"


def eventually(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_pool_does_not_change_under_its_id(pools: Pools, tmp_path: Path) -> None:
    spec = local(tmp_path)
    pools.ensure(spec)
    assert reason(lambda: pools.ensure(PoolSpec(spec.pool_id, "local", str(tmp_path / "else")))) == "POOL_DIFFERS"
    assert reason(lambda: pools.ensure(local(tmp_path))) == "POOL_PATH_TAKEN"


def test_removal_keeps_files_and_can_be_repeated(pools: Pools, tmp_path: Path) -> None:
    spec = local(tmp_path)
    pools.ensure(spec)
    (tmp_path / "pool" / "volume").touch()
    for _ in range(2):
        pools.remove(spec.pool_id, FakeRuntime())
    assert (tmp_path / "pool" / "volume").exists()
    with pytest.raises(NotFoundError):
        pools.get(spec.pool_id)
    assert Pools(tmp_path / "state", POOL_TYPES).list() == []


def test_a_pool_in_use_stays(pools: Pools, tmp_path: Path) -> None:
    spec = local(tmp_path)
    pools.ensure(spec)
    (tmp_path / "pool" / "v1").touch()
    guests = FakeRuntime()
    guests.infos = [VmInfo("vm", "web", PowerState.RUNNING, 1, 1 << 30, ("v1",), True)]
    assert reason(lambda: pools.remove(spec.pool_id, guests)) == "POOL_IN_USE"
    guests.infos = [VmInfo("vm", "web", PowerState.RUNNING, 1, 1 << 30, ("elsewhere",), True)]
    pools.remove(spec.pool_id, guests)


@pytest.mark.parametrize(
    "spec",
    [
        PoolSpec("p", "local", "relative"),
        PoolSpec("p", "local", "/"),
        PoolSpec("p", "local", "/a/../etc"),
        PoolSpec("p", "local", "/a\n"),
        PoolSpec("p", "local", "/a", source="server:/x"),
        PoolSpec("p", "local", "/a", options={"mount_options": "rw"}),
        PoolSpec("p", "floppy", "/a"),
        PoolSpec("p", "nfs", source=""),
        PoolSpec("p", "nfs", source="-osuid:/x"),
        PoolSpec("p", "nfs", source="server:export"),
        PoolSpec("p", "nfs", source="server:/x", options={"mount_options": "rw -o exec"}),
        PoolSpec("p", "nfs", source="server:/x", options={"color": "red"}),
    ],
)
def test_what_can_never_work_is_refused_before_anything_is_touched(
    pools: Pools, tmp_path: Path, spec: PoolSpec
) -> None:
    with pytest.raises(InvalidArgumentError):
        pools.ensure(spec)


class FakeMount:
    """mount and umount programs that change a file which stands for /proc/self/mountinfo.

    The kernel of a test machine may have no NFS client, so it is the commands and their failures that are tested.
    """

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.mountinfo = tmp_path / "mountinfo"
        self.mountinfo.write_text("22 1 8:1 / / rw - ext4 /dev/sda1 rw\n")
        self.log = tmp_path / "log"
        self.log.touch()
        programs = tmp_path / "bin"
        programs.mkdir()
        line = "30 22 0:1 / $7 rw - nfs4 $6 rw"
        self.install(programs / "mount", f'echo "mount $@" >> {self.log}; echo "{line}" >> {self.mountinfo}')
        self.install(programs / "umount", f'echo "umount $@" >> {self.log}; sed -i "\\: $1 :d" {self.mountinfo}')
        self.mount = programs / "mount"
        monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")

    def install(self, path: Path, script: str) -> None:
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def pools(self, tmp_path: Path) -> Pools:
        return Pools(tmp_path / "state", [Nfs(tmp_path / "mounts", self.mountinfo)])


@pytest.fixture
def fake_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeMount:
    return FakeMount(tmp_path, monkeypatch)


def test_nfs_is_mounted_once_and_unmounted(fake_mount: FakeMount, tmp_path: Path) -> None:
    spec = PoolSpec("p1", "nfs", source="[fd00::1]:/export", options={"mount_options": "vers=4.2,nconnect=4"})
    pools = fake_mount.pools(tmp_path)
    assert pools.ensure(spec).shared
    pools.ensure(spec)
    point = tmp_path / "mounts" / "p1"
    options = "nosuid,nodev,noexec,vers=4.2,nconnect=4"
    assert fake_mount.log.read_text() == f"mount -t nfs -o {options} -- [fd00::1]:/export {point}\n"
    (point / fingerprint.NAME).unlink()
    pools.remove("p1", FakeRuntime())
    assert fake_mount.log.read_text().splitlines()[1:] == [f"umount {point}"]
    assert not point.exists()


def test_nfs_is_mounted_again_after_a_restart(fake_mount: FakeMount, tmp_path: Path) -> None:
    spec = PoolSpec("p1", "nfs", source="server:/export")
    fake_mount.pools(tmp_path).ensure(spec)
    fake_mount.mountinfo.write_text("22 1 8:1 / / rw - ext4 /dev/sda1 rw\n")
    (tmp_path / "mounts" / "p1" / fingerprint.NAME).rename(tmp_path / "mark")
    # The mark is back once it is mounted.
    script = fake_mount.mount.read_text() + f"cp {tmp_path}/mark $7/{fingerprint.NAME}\n"
    fake_mount.mount.write_text(script)
    fake_mount.pools(tmp_path).restore()
    assert fake_mount.log.read_text().count("mount -t nfs") == 2


def test_nfs_that_cannot_be_mounted_says_why(fake_mount: FakeMount, tmp_path: Path) -> None:
    fake_mount.install(fake_mount.mount, "echo 'mount.nfs: Connection refused' >&2; exit 32")
    with pytest.raises(FailedPreconditionError, match="Connection refused") as caught:
        fake_mount.pools(tmp_path).ensure(PoolSpec("p1", "nfs", source="server:/export"))
    assert caught.value.reason == "POOL_MOUNT_FAILED"


def test_nfs_does_not_take_over_another_mount(fake_mount: FakeMount, tmp_path: Path) -> None:
    with fake_mount.mountinfo.open("a") as file:
        file.write("30 22 0:1 / /srv/vm rw - nfs4 other:/export rw\n")
    pools = fake_mount.pools(tmp_path)
    spec = PoolSpec("p1", "nfs", "/srv/vm", "server:/export")
    assert reason(lambda: pools.ensure(spec)) == "POOL_PATH_UNUSABLE"
    assert fake_mount.log.read_text() == ""


def test_mountinfo() -> None:
    text = "36 35 98:0 /a /mnt/my\\040disk rw,noatime master:1 - ext3 /dev/root\\134x rw,errors=continue\n"
    assert parse_mountinfo(text) == [
        Mount(Path("/mnt/my disk"), "ext3", "/dev/root\\x", frozenset({"rw", "errors=continue"}))
    ]
