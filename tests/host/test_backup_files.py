"""Files of backups, read by the real libguestfs from real chains of encrypted files."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import tarfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from ostler.agent.v1 import volume_pb2, volume_pb2_grpc
from ostler.types.v1 import backup_file_pb2
from ostler_agent.conversion import BackupFiles, GuestConverter
from ostler_agent.conversion.backup_files import Found, WantedFiles
from ostler_agent.jobs import JobContext
from ostler_agent.keyfile import KeyFile
from ostler_agent.services.volumes import VolumeService
from ostler_agent.spec import DiskFormat, VolumeRef
from ostler_agent.tools import qemu_img
from ostler_agent.volumes.disk_copies import Pair
from ostler_common.errors import OstlerError

from tests.host.conftest import Storage, job, need, new_key, wire
from tests.host.imports import CACHE, guestfish
from tests.lab.host import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
MIB = 1 << 20
# Bytes that a file name may have, and that a shell, guestfish or a terminal would understand otherwise.
HOSTILE = b"\x1b[31m \"q\" 'q' $(id) \\n\n-rf | : \xff"
BEFORE, AFTER = b"\xa5" * 8192, b"\x5a" * 8192
# Where a test is not about how a guest sees its files: to look for its operating system takes half of a read.
ROOT, BOOT = "/dev/guest/root", "/dev/sda1"
FSTAB = "/dev/guest/root / ext4 defaults 0 1\nLABEL=start /boot ext4 defaults 0 2\n"


@dataclass(frozen=True)
class Guest:
    """A disk's two backups: the full one, and an increment on it."""

    storage: Storage
    files: BackupFiles
    full: VolumeRef
    increment: VolumeRef

    def read(self, disks: Sequence[Sequence[VolumeRef]], **wanted: object) -> list[Found]:
        return list(self.files.read(job(), disks, WantedFiles(**wanted)))  # type: ignore[arg-type]

    @property
    def now(self) -> list[list[VolumeRef]]:
        return [[self.increment, self.full]]

    def leftovers(self) -> list[str]:
        mounts = Path("/proc/self/mountinfo").read_text()
        work = self.files.converter.work_dir
        return [*map(str, work.iterdir()), *(line for line in mounts.splitlines() if str(work) in line)]


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    """LVM on the second partition, as most installers make it; a file changes between the two backups."""
    need("guestfish", "qemu-storage-daemon", "mke2fs", "qemu-io")
    root = tmp_path_factory.mktemp("guest")
    storage = Storage(root / "storage")
    raw = root / "disk.raw"
    raw.write_bytes(b"")
    os.truncate(raw, 128 * MIB)
    _install(root, raw)
    source, full, increment = (storage.ref(DiskFormat.QCOW2, new_key()) for _ in range(3))
    qemu_img.convert(raw, DiskFormat.RAW, storage.path(source), DiskFormat.QCOW2, key=source.key)
    first, second = "0b000000-0000-4000-8000-000000000001", "0b000000-0000-4000-8000-000000000002"
    [whole] = storage.volumes.disk_copies.copy(job(), "vm", [Pair(source, full)], first)
    _write(storage, source, raw.read_bytes().index(BEFORE), AFTER)
    [part] = storage.volumes.disk_copies.copy(job(), "vm", [Pair(source, increment, first)], second)
    assert (bool(whole.full_reason), part.full_reason) == (True, "")
    converter = GuestConverter(root / "work", CACHE, root / "virtio-win", lambda: True)
    converter.clear()
    yield Guest(storage, BackupFiles(storage.pools, storage.volumes.locks, converter), full, increment)
    converter.clear()  # what a test that failed left mounted


def _install(root: Path, raw: Path) -> None:
    tree = root / "tree"
    for name in ("boot", "etc", "bin", "usr", "var/log", "many"):
        (tree / name).mkdir(parents=True)
    (tree / "etc/fstab").write_text(FSTAB)
    (tree / "etc/os-release").write_text('NAME="Debian GNU/Linux"\nID=debian\nVERSION_ID="12"\n')
    (tree / "etc/debian_version").write_text("12.1\n")
    (tree / "etc/hostname").write_text("ledger\n")
    (tree / "etc/link").symlink_to("/etc/hostname")
    (tree / "etc/loop").symlink_to("loop")
    (tree / "var/log/book").write_bytes(BEFORE)
    os.mkfifo(tree / "var/pipe")
    hostile = os.fsencode(tree) + b"/var/" + HOSTILE
    with open(hostile, "wb") as file:
        file.write(b"still a file")
    for number in range(600):
        (tree / "many" / f"{number:04}").write_bytes(b"x" * number)
    with tarfile.open(root / "tree.tar", "w") as archive:
        archive.add(tree, arcname=".")
    script = [
        "run", "part-init /dev/sda gpt", "part-add /dev/sda p 2048 34815", "part-add /dev/sda p 34816 -2048",
        "pvcreate /dev/sda2", "vgcreate guest /dev/sda2", "lvcreate root guest 64",
        "mkfs ext4 /dev/sda1 label:start", "mkfs ext4 /dev/guest/root",
        "mount /dev/guest/root /", f"tar-in {root / 'tree.tar'} /",
        "mount /dev/sda1 /boot", "write /boot/kernel of-the-guest",
    ]  # fmt: skip
    guestfish(raw, script)


def _write(storage: Storage, ref: VolumeRef, offset: int, data: bytes) -> None:
    assert ref.key
    assert ref.key.passphrase
    with KeyFile(ref.key.passphrase) as key:
        opened = f"driver=qcow2,encrypt.key-secret=s,file.driver=file,file.filename={storage.path(ref)}"
        command = ["qemu-io", "-c", f"write -P {data[0]} {offset} {len(data)}", "--image-opts", opened]
        command += ["--object", f"secret,id=s,file={key.path}"]
        subprocess.run(command, pass_fds=[key.fd], check=True, timeout=60)


def _content(found: Sequence[Found]) -> bytes:
    assert found[-1].complete
    return b"".join(one.data for one in found)


def _reason(guest: Guest, **wanted: object) -> str:
    with pytest.raises(OstlerError) as caught:
        guest.read(guest.now, **wanted)
    assert guest.leftovers() == []
    assert caught.value.message.isprintable()
    return caught.value.reason


def test_file_systems_are_listed(guest: Guest) -> None:
    found = [one for part in guest.read(guest.now) for one in part.file_systems]
    assert [(one.name, one.type, one.label) for one in found] == [
        (BOOT, "ext4", "start"),
        (ROOT, "ext4", ""),
    ]
    assert [one.size_bytes for one in found] == [16 * MIB, 64 * MIB]
    assert guest.leftovers() == []


def test_a_path_is_as_the_guest_sees_it_and_a_backup_is_of_its_moment(guest: Guest) -> None:
    assert _content(guest.read(guest.now, path=b"/var/log/book", file_system=ROOT, content=True)) == AFTER
    assert _content(guest.read([[guest.full]], path=b"/var/log/book", file_system=ROOT, content=True)) == BEFORE
    assert _content(guest.read(guest.now, path=b"/boot/kernel", content=True)) == b"of-the-guest"
    found = guest.read(guest.now, path=b"/kernel", file_system=BOOT, content=True)
    assert (_content(found), [one.size_bytes for one in found if one.size_bytes]) == (b"of-the-guest", [12])


def test_a_directory_is_listed_whatever_its_files_are_called(guest: Guest) -> None:
    files = [one for part in guest.read(guest.now, path=b"/var", file_system=ROOT) for one in part.files]
    assert sorted(one.name for one in files) == sorted([b"log", b"pipe", HOSTILE])
    [hostile] = [one for one in files if one.name == HOSTILE]
    assert (hostile.size_bytes, hostile.mode & 0o170000) == (12, 0o100000)
    assert _content(guest.read(guest.now, path=b"/var/" + HOSTILE, file_system=ROOT, content=True)) == b"still a file"
    many = guest.read(guest.now, path=b"/many/", file_system=ROOT)
    assert [(one.name, one.size_bytes) for part in many for one in part.files] == [
        (b"%04d" % number, number) for number in range(600)
    ]
    assert not any(part.more for part in many)


def test_a_directory_comes_as_a_tar_archive(guest: Guest) -> None:
    found = guest.read(guest.now, path=b"/etc", file_system=ROOT, content=True)
    assert any(one.archive for one in found)
    with tarfile.open(fileobj=io.BytesIO(_content(found))) as archive:
        assert {"./hostname", "./link"} <= set(archive.getnames())
        hostname = archive.extractfile("./hostname")
        assert hostname
        assert hostname.read() == b"ledger\n"


def test_what_cannot_be_read_is_refused_by_name(guest: Guest) -> None:
    assert _reason(guest, path=b"/etc/nothing", file_system=ROOT, content=True) == "FILE_NOT_FOUND"
    assert _reason(guest, path=b"/etc/loop", file_system=ROOT) == "FILE_NOT_FOUND"
    assert _reason(guest, path=b"/var/pipe", file_system=ROOT, content=True) == "FILE_NOT_READABLE"
    assert _reason(guest, path=b"/etc", file_system="/dev/sdq9") == "FILE_SYSTEM_NOT_FOUND"
    for wanted in ({"path": b"etc"}, {"path": b"/e\0tc"}, {"content": True}, {"path": b"/" * 5000}):
        assert _reason(guest, **wanted) == "INVALID_FIELD"


def test_a_disk_without_a_file_system_is_refused(guest: Guest) -> None:
    empty = guest.storage.ref(DiskFormat.QCOW2, new_key())
    guest.storage.volumes.create(job(), empty, 8 * MIB)
    with pytest.raises(OstlerError) as caught:
        guest.read([[empty]], path=b"/etc")
    assert caught.value.reason == "NO_FILE_SYSTEM"
    assert guest.read([[empty]])[-1].complete


def test_a_caller_who_goes_leaves_nothing(guest: Guest) -> None:
    """While the appliance starts, and in the midst of the content."""
    work = JobContext("test")
    found = guest.files.read(work, guest.now, WantedFiles(b"/etc", content=True))
    with closing(found):
        while next(found).phase != "starting the appliance":
            pass
        threading.Timer(2, work.cancel).start()
        with pytest.raises(OstlerError) as caught:
            next(found)
    assert caught.value.reason == "CANCELLED"
    assert guest.leftovers() == []
    found = guest.files.read(JobContext("test"), guest.now, WantedFiles(b"/many", ROOT, content=True))
    while not next(found).data:
        pass
    found.close()
    assert guest.leftovers() == []
    assert _processes(guest) == []


def test_it_is_served_and_a_call_that_is_cancelled_leaves_nothing(guest: Guest) -> None:
    service = VolumeService(guest.storage.jobs, guest.storage.volumes, files=guest.files)
    server = grpc.server(ThreadPoolExecutor(2))
    volume_pb2_grpc.add_VolumeServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    request = volume_pb2.ReadBackupFilesRequest(
        disks=[volume_pb2.BackupChain(layers=map(wire, chain)) for chain in guest.now],
        path=b"/",
        file_system=BOOT,
        content=False,
    )
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = volume_pb2_grpc.VolumeServiceStub(channel)
        found = list(stub.ReadBackupFiles(request))
        assert [(one.name, one.kind) for part in found for one in part.files if one.name == b"kernel"] == [
            (b"kernel", backup_file_pb2.BackupFile.FILE)
        ]
        assert found[-1].complete
        call = stub.ReadBackupFiles(request)
        while next(call).phase != "starting the appliance":
            pass
        call.cancel()
        wait_for(lambda: not guest.leftovers() and not _processes(guest), "the end of the appliance", 60)
    server.stop(None).wait()


def test_a_killed_agent_leaves_no_process_and_the_next_one_clears_up(guest: Guest) -> None:
    child = os.fork()
    if child == 0:
        try:
            for found in guest.files.read(job(), guest.now, WantedFiles(b"/etc", content=True)):
                if found.phase == "looking for file systems":
                    os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    wait_for(lambda: not _processes(guest), "the end of the appliance", 30)
    [left] = guest.files.converter.work_dir.iterdir()
    files = [path.relative_to(left) for path in left.rglob("*") if "disks" not in path.parts and path.is_file()]
    assert files == [Path("overlay0")], "which is encrypted; what else the appliance wrote was in memory"
    guest.files.converter.clear()
    assert guest.leftovers() == []


def _processes(guest: Guest) -> list[str]:
    """Command lines of what works for it, this process aside."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(guest.files.converter.work_dir) in words and int(path.parent.name) != os.getpid():
            found.append(words)
    return found
