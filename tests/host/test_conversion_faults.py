"""What goes wrong with a conversion, with a virt-v2v that does as it is told: afterwards nothing is left."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from ostler.agent.v1 import conversion_pb2
from ostler.types.v1 import job_pb2
from ostler_agent.spec import DiskFormat, Key

from tests.host.conftest import Storage, contents, need, new_key
from tests.host.fake_virt_v2v import CONVERTS, HANGS_ALONE, SAYS, reason, virt_v2v
from tests.host.imports import Imports, processes, source_disk
from tests.host.volumes import MIB, wait_for

State = job_pb2.JobUpdate.State
VMDK = conversion_pb2.SOURCE_FORMAT_VMDK
# As libguestfs does: files in /tmp, and children.
HANGS = SAYS + "mkdir /tmp/libguestfsabcdef /tmp/v2v.part; sleep 700 & sleep 701"

AGENT = """
import sys
from pathlib import Path
from ostler.agent.v1 import conversion_pb2
from tests.host.conftest import Storage
from tests.host.imports import Imports

root, pool_id, staging_id, request = sys.argv[1:]
imports = Imports(Storage(Path(root), pool_id), staging_id)
list(imports.service.ConvertVm(conversion_pb2.ConvertVmRequest.FromString(bytes.fromhex(request)), None))
"""


@pytest.fixture
def imports(storage: Storage) -> Imports:
    need("qemu-storage-daemon")
    made = Imports(storage)
    (made.directory / "disk.raw").write_bytes(b"guest" + bytes(MIB - 5))
    return made


@pytest.mark.parametrize("disk_format", list(DiskFormat))
@pytest.mark.parametrize("key", [None, new_key()], ids=["plain", "encrypted"])
def test_what_virt_v2v_writes_is_in_the_volume(
    imports: Imports, tmp_path: Path, disk_format: DiskFormat, key: Key | None
) -> None:
    target = imports.storage.ref(disk_format, key)
    with virt_v2v(CONVERTS):
        update = imports.convert(imports.request(source_disk("disk.raw", target)))
    assert (update.state, reason(update)) == (State.SUCCEEDED, "")
    [disk] = update.conversion_report.disks
    assert (disk.key, disk.volume.virtual_size_bytes) == ("2000", MIB)
    assert list(update.conversion_report.warnings) == ["no grub"]
    assert contents(imports.storage.path(target), target, tmp_path / "clear")[:9] == b"converted"
    assert imports.leftovers({"disk.raw"}) == []


def test_an_encrypted_volume_never_holds_clear_data(imports: Imports) -> None:
    """While virt-v2v runs, a watcher looks at every file below the agent's directory except what was staged."""
    target = imports.storage.ref(DiskFormat.RAW, new_key())
    seen: list[bytes] = []

    def watch() -> None:
        draft = imports.storage.pool / f".{target.volume_id}.part"
        wait_for(lambda: any(imports.work_dir.rglob("ready")))
        seen.append(draft.read_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    with virt_v2v(CONVERTS + "; sleep 1"):
        assert imports.convert(imports.request(source_disk("disk.raw", target))).state == State.SUCCEEDED
    watcher.join()
    seen.append(imports.storage.path(target).read_bytes())
    assert all(data.startswith(b"LUKS") for data in seen)
    assert not any(b"guest" in data or b"converted" in data for data in seen)


FAULTS = {
    "no operating system": (
        SAYS + "say error 'virt-v2v: error: inspection could not detect the source guest'; exit 1",
        "NO_OPERATING_SYSTEM",
    ),
    "guest disk full": (
        SAYS + "say error 'not enough free space for conversion on filesystem /'; exit 1",
        "GUEST_DISK_FULL",
    ),
    "anything else": (SAYS + "say error 'libguestfs error: guestfs_launch failed'; exit 1", "CONVERSION_FAILED"),
    "without a word": ("exit 1", "CONVERSION_FAILED"),
    "killed half way": (SAYS + "mkdir /tmp/libguestfsabcdef; kill -9 $$", "CONVERSION_FAILED"),
    "hangs": (HANGS, "CONVERSION_TIMEOUT"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_nothing_is_left_when_virt_v2v_fails(imports: Imports, fault: str) -> None:
    script, expected = FAULTS[fault]
    target = imports.storage.ref(DiskFormat.QCOW2)
    timeout_s = 3 if expected == "CONVERSION_TIMEOUT" else 60
    with virt_v2v(script):
        update = imports.convert(imports.request(source_disk("disk.raw", target), timeout_s=timeout_s))
    assert (update.state, reason(update)) == (State.FAILED, expected)
    assert imports.leftovers({"disk.raw"}) == []
    assert imports.storage.files() == {imports.directory.name}
    assert processes("sleep 70") == []


def test_cancelled(imports: Imports) -> None:
    request = imports.request(source_disk("disk.raw", imports.storage.ref(DiskFormat.QCOW2)))
    with virt_v2v(HANGS):
        updates = imports.service.ConvertVm(request, None)  # type: ignore[arg-type]
        for update in updates:
            if update.progress.phase == "starting the appliance":
                imports.storage.jobs.cancel(request.operation.id)
            last = update
    assert (last.state, reason(last)) == (State.CANCELLED, "CANCELLED")
    assert imports.leftovers({"disk.raw"}) == []
    assert processes("sleep 70") == []


def test_virt_v2v_is_not_installed(imports: Imports, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("qemu-img", "qemu-storage-daemon", "setpriv", "prlimit", "umount"):
        (programs / name).symlink_to(Path("/usr/bin", name))
    monkeypatch.setenv("PATH", str(programs))
    update = imports.convert(imports.request(source_disk("disk.raw", imports.storage.ref(DiskFormat.QCOW2))))
    assert (update.state, reason(update)) == (State.FAILED, "TOOL_MISSING")
    assert imports.leftovers({"disk.raw"}) == []


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_damaged_vmdk(imports: Imports, damage: str) -> None:
    staged = imports.directory / "disk.vmdk"
    source = imports.storage.root / "source.raw"
    source.write_bytes(os.urandom(4 * MIB))
    command = ["qemu-img", "convert", "-O", "vmdk", "-o", "subformat=streamOptimized", str(source), str(staged)]
    subprocess.run(command, check=True)
    data = bytearray(staged.read_bytes())
    if damage == "truncated":
        data = data[: len(data) // 2]
    else:
        data[MIB : MIB + 4096] = bytes(4096)
    staged.write_bytes(data)
    target = imports.storage.ref(DiskFormat.QCOW2)
    update = imports.convert(imports.request(source_disk("disk.vmdk", target, VMDK)))
    assert update.state == State.FAILED
    assert reason(update) in ("DISK_UNREADABLE", "NOT_AN_IMAGE")
    assert imports.leftovers({"disk.raw", "disk.vmdk"}) == []


def test_missing_file(imports: Imports) -> None:
    update = imports.convert(imports.request(source_disk("other.raw", imports.storage.ref(DiskFormat.QCOW2))))
    assert (update.state, reason(update)) == (State.FAILED, "FILE_NOT_FOUND")
    assert imports.leftovers({"disk.raw"}) == []


def test_another_file_than_its_digest_says(imports: Imports) -> None:
    disk = source_disk("disk.raw", imports.storage.ref(DiskFormat.QCOW2))
    disk.sha256 = "0" * 64
    update = imports.convert(imports.request(disk))
    assert (update.state, reason(update)) == (State.FAILED, "FILE_CORRUPT")
    assert imports.leftovers({"disk.raw"}) == []


@pytest.mark.parametrize("moment", ["copying", "converting"])
def test_full_pool(tmp_path: Path, moment: str) -> None:
    """The pool is a file system of 3 MiB, with the staged file in it."""
    need("qemu-storage-daemon")
    pool = tmp_path / "pool"
    pool.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", pool], check=True)
    try:
        storage = Storage(tmp_path)
        imports = Imports(storage)
        disk = imports.directory / "disk.raw"
        disk.write_bytes(os.urandom(2 * MIB if moment == "copying" else 4096))
        os.truncate(disk, 8 * MIB)
        target = storage.ref(DiskFormat.QCOW2)
        with virt_v2v(SAYS + "dd if=/dev/urandom of=/tmp/disks/0 bs=1M count=8 conv=notrunc,fsync"):
            update = imports.convert(imports.request(source_disk("disk.raw", target)))
        assert (update.state, reason(update)) == (State.FAILED, "POOL_FULL")
        assert imports.leftovers({"disk.raw"}) == []
        storage.jobs.stop(10)
    finally:
        subprocess.run(["umount", pool], check=True)


def test_volumes_appear_together_or_not_at_all(imports: Imports) -> None:
    """The second volume's name is taken while the conversion runs."""
    (imports.directory / "data.raw").write_bytes(bytes(MIB))
    first, second = (imports.storage.ref(DiskFormat.RAW) for _ in range(2))
    taken = imports.storage.path(second)
    disks = [source_disk("disk.raw", first), source_disk("data.raw", second, key="2001")]

    def take() -> None:
        wait_for(lambda: any(imports.work_dir.rglob("ready")))
        taken.touch()

    threading.Thread(target=take).start()
    with virt_v2v(CONVERTS + "; sleep 1"):
        update = imports.convert(imports.request(*disks))
    assert (update.state, reason(update)) == (State.FAILED, "VOLUME_EXISTS")
    assert imports.storage.files() == {imports.directory.name, second.volume_id}
    assert imports.leftovers({"disk.raw", "data.raw"}) == []


def test_agent_killed_in_the_middle(imports: Imports, tmp_path: Path) -> None:
    request = imports.request(source_disk("disk.raw", imports.storage.ref(DiskFormat.QCOW2)))
    pool_id, staging_id = imports.ref.pool_id, imports.ref.staging_id
    arguments = [str(tmp_path), pool_id, staging_id, request.SerializeToString().hex()]
    # Without children: libguestfs ends its own when it is killed.
    with virt_v2v(HANGS_ALONE):
        env = {"PYTHONPATH": ":".join(sys.path), "PATH": os.environ["PATH"]}
        with subprocess.Popen([sys.executable, "-c", AGENT, *arguments], env=env) as agent:
            wait_for(lambda: any(imports.work_dir.rglob("v2v.part")))
            agent.kill()
        wait_for(lambda: not processes("sleep 701"))
        after = Imports(Storage(tmp_path, pool_id, recover=False), staging_id)
    after.storage.jobs.recover()
    update = after.storage.jobs.get(request.operation.id)
    assert (update.state, reason(update)) == (State.FAILED, "INTERRUPTED")
    assert after.leftovers({"disk.raw"}) == []
    assert after.storage.files() == {after.directory.name}
    request.operation.attempt = 2
    with virt_v2v(CONVERTS):
        assert after.convert(request).state == State.SUCCEEDED


def test_repeated_after_it_was_done(imports: Imports) -> None:
    request = imports.request(source_disk("disk.raw", imports.storage.ref(DiskFormat.QCOW2)))
    with virt_v2v(CONVERTS):
        done = imports.convert(request)
    request.operation.attempt = 2
    with virt_v2v("exit 1"):
        assert imports.convert(request) == done
