"""VMs on another KVM host are listed and copied through ssh, by a real libvirtd, QEMU and sshd on one lab host."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from ostler.agent.v1 import remote_kvm_pb2 as pb
from ostler.types.v1 import job_pb2
from ostler_agent.conversion import RemoteCopies, RemoteVms
from ostler_agent.conversion.remote_vms import libvirt_of
from ostler_agent.services.remote_kvm import RemoteKvmService
from ostler_agent.spec import DiskFormat, Key
from ostler_agent.tools import qemu_img
from ostler_common.errors import OstlerError
from ostler_common.secret import Secret

from tests.host.conftest import Storage, contents, job, need, new_key, wire
from tests.host.imports import processes
from tests.host.remote_kvm import ssh_server
from tests.lab.host import LOCAL, Host, wait_for
from tests.lab.lab import Lab, missing
from tests.lab.ssh import PORT, Sshd, program

State = job_pb2.JobUpdate.State
MIB = 1 << 20
PASSPHRASE = Secret(b"of the source")
DOMAIN = """<domain type="qemu"><name>{name}</name><uuid>{id}</uuid><memory unit="MiB">64</memory><vcpu>1</vcpu>
<os><type arch="x86_64" machine="q35">hvm</type></os><devices>{disks}</devices></domain>"""
DISK = """<disk type="file" device="disk"><driver name="qemu" type="{format}"/><source file="{path}"/>
<target dev="{target}" bus="virtio"/>{rest}</disk>"""

DEVICE = '<disk type="block" device="disk"><source dev="/dev/null"/><target dev="vdb" bus="virtio"/></disk>'


@dataclass
class Source:
    """A KVM host that no Ostler manages."""

    host: Host
    sshd: Sshd

    @property
    def images(self) -> Path:
        return self.host.outside(LOCAL)

    def define(self, name: str, disks: str) -> str:
        vm_id = str(uuid.uuid4())
        file = self.images / "definition.xml"
        file.write_text(DOMAIN.format(name=name, id=vm_id, disks=disks))
        self.host.virsh("define", f"{LOCAL}/definition.xml")
        file.unlink()
        return vm_id

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.images.iterdir()}

    def chain(self) -> bytes:
        """Makes top.qcow2 on base.qcow2; returns what its guest sees."""
        base, data = self.images / "base.raw", bytearray(os.urandom(4 * MIB))
        base.write_bytes(data)
        for command in (
            ["qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "top.qcow2"],
            ["qemu-io", "-f", "qcow2", "-c", "write -P 7 1M 1M", "top.qcow2"],
        ):
            subprocess.run(command, cwd=self.images, check=True, stdout=subprocess.DEVNULL)
        data[MIB : 2 * MIB] = b"\7" * MIB
        return bytes(data)


@pytest.fixture(scope="module")
def station() -> Iterator[Source]:
    need("ssh", "nbdkit", "qemu-storage-daemon")
    if missing() or not program():
        pytest.skip(missing() or "sshd is not installed")
    with Lab.start(hosts=1) as lab:
        lab.start_libvirt()
        yield Source(lab.hosts[0], Sshd.start(lab.hosts[0]))


@pytest.fixture
def source(station: Source) -> Iterator[Source]:
    yield station
    for name in station.host.virsh("list", "--all", "--name").split():
        if name in station.host.virsh("list", "--name").split():
            station.host.virsh("destroy", name)
        station.host.virsh("undefine", name)
    for path in station.images.iterdir():
        path.unlink()


@pytest.fixture
def agent(storage: Storage) -> Iterator[RemoteKvmService]:
    with tempfile.TemporaryDirectory(prefix="kvm.", dir="/var/tmp") as name:  # sockets have short names
        vms = RemoteVms(Path(name))
        yield RemoteKvmService(storage.jobs, vms, RemoteCopies(storage.pools, storage.volumes.locks, vms))
        assert list(Path(name).iterdir()) == []
        assert processes(name) == []


def server(source: Source) -> pb.SshServer:
    known = ssh_server(source.sshd)
    return pb.SshServer(
        host=known.host,
        port=PORT,
        username=known.username,
        private_key=known.private_key.reveal(),
        known_hosts=known.known_hosts,
    )


def inspect(agent: RemoteKvmService, source: Source, vm: str) -> pb.RemoteVm:
    (found,) = agent.ListRemoteVms(pb.ListRemoteVmsRequest(server=server(source), vm=vm), None).vms  # type: ignore[arg-type]
    return found


def copy_request(
    source: Source, vm: pb.RemoteVm, storage: Storage, *, running: bool = False, passphrase: bytes = b""
) -> pb.CopyRemoteDisksRequest:
    disks = [
        pb.RemoteDiskCopy(
            target=disk.target,
            images=disk.images,
            passphrase=passphrase,
            volume=wire(storage.ref(DiskFormat.QCOW2, new_key())),
            size_bytes=-(-disk.capacity_bytes >> 20) << 20,
        )
        for disk in vm.disks
    ]
    return pb.CopyRemoteDisksRequest(
        operation=job_pb2.OperationRef(id=f"copy.{uuid.uuid4()}", attempt=1),
        server=server(source),
        vm_id=vm.vm_id,
        copy_id=str(uuid.uuid4()),
        running=running,
        disks=disks,
        timeout_s=300,
    )


def copy(agent: RemoteKvmService, request: pb.CopyRemoteDisksRequest) -> job_pb2.JobUpdate:
    *_, last = agent.CopyRemoteDisks(request, None)  # type: ignore[arg-type]
    return last


def made(storage: Storage, request: pb.CopyRemoteDisksRequest, tmp_path: Path, number: int = 0) -> bytes:
    """What a guest reads from a volume that was made."""
    volume = request.disks[number].volume
    key = Key(volume.key.key_id, Secret(volume.key.passphrase))
    ref = replace(storage.ref(DiskFormat.QCOW2, key), volume_id=volume.volume_id)
    return contents(storage.path(ref), ref, tmp_path / f"read{number}")


def disk(name: str, format: str = "qcow2", target: str = "vda", rest: str = "") -> str:
    return DISK.format(format=format, path=f"{LOCAL}/{name}", target=target, rest=rest)


def test_a_vm_that_is_off_becomes_an_encrypted_volume(
    source: Source, agent: RemoteKvmService, storage: Storage, tmp_path: Path
) -> None:
    seen = source.chain()
    source.define("web", disk("top.qcow2") + DEVICE)
    before = source.files()
    listed = agent.ListRemoteVms(pb.ListRemoteVmsRequest(server=server(source)), None).vms  # type: ignore[arg-type]
    assert [(vm.name, vm.cpus, vm.memory_bytes) for vm in listed] == [("web", 1, 64 * MIB)]
    vm = inspect(agent, source, "web")
    assert [image.path for image in vm.disks[0].images] == [f"{LOCAL}/top.qcow2", f"{LOCAL}/base.raw"]
    assert vm.disks[0].capacity_bytes == len(seen)
    assert ("DISK_TYPE", True) in [(problem.code, problem.refuses) for problem in vm.problems]
    request = copy_request(source, vm, storage)
    update = copy(agent, request)
    assert update.state == State.SUCCEEDED, update.error.message
    assert made(storage, request, tmp_path) == seen
    assert source.files() == before
    assert copy(agent, request).conversion_report == update.conversion_report, "a repeat is the same job"


def test_a_luks_disk_needs_its_passphrase(
    source: Source, agent: RemoteKvmService, storage: Storage, tmp_path: Path
) -> None:
    plain = tmp_path / "plain"
    plain.write_bytes(os.urandom(MIB))
    image = source.images / "secret.qcow2"
    qemu_img.convert(plain, DiskFormat.RAW, image, DiskFormat.QCOW2, key=Key("of-the-source", PASSPHRASE))
    encryption = f'<encryption format="luks"><secret type="passphrase" uuid="{uuid.uuid4()}"/></encryption>'
    source.define("vault", disk("secret.qcow2", rest=encryption))
    vm = inspect(agent, source, "vault")
    assert vm.disks[0].encrypted
    for passphrase, expected in ((b"", "KEY_MISSING"), (b"wrong", "WRONG_KEY")):
        failed = copy(agent, copy_request(source, vm, storage, passphrase=passphrase))
        assert expected in str(failed.error), failed.error
    assert storage.files() == set()
    request = copy_request(source, vm, storage, passphrase=PASSPHRASE.reveal())
    assert copy(agent, request).state == State.SUCCEEDED
    assert made(storage, request, tmp_path) == plain.read_bytes()


def test_a_running_vm_is_copied_and_runs_on(
    source: Source, agent: RemoteKvmService, storage: Storage, tmp_path: Path
) -> None:
    seen = source.chain()
    data = os.urandom(2 * MIB)
    (source.images / "data.raw").write_bytes(data)
    vm_id = source.define("db", disk("top.qcow2") + disk("data.raw", "raw", "vdb"))
    source.host.virsh("start", "db")
    before = source.files()
    request = copy_request(source, inspect(agent, source, vm_id), storage, running=True)
    update = copy(agent, request)
    assert update.state == State.SUCCEEDED, update.error.message
    assert [made(storage, request, tmp_path, number) for number in range(2)] == [seen, data]
    assert source.host.virsh("domstate", "db").strip() == "running"
    assert not_copied(source, "db")
    wait_for(lambda: source.files() == before, "the end of the copy's files at the source")


def test_a_copy_that_is_left_is_ended_by_a_later_call(source: Source, agent: RemoteKvmService) -> None:
    source.chain()
    vm_id, copy_id = source.define("db", disk("top.qcow2")), str(uuid.uuid4())
    source.host.virsh("start", "db")
    before = source.files()
    with (
        tempfile.TemporaryDirectory(prefix="kvm.", dir="/var/tmp") as name,
        libvirt_of(ssh_server(source.sshd), Path(name), job()) as libvirt,
    ):
        libvirt.begin_copy(vm_id, copy_id, {"vda": f"{LOCAL}/top.qcow2"})
    assert not not_copied(source, "db")
    other = pb.EndRemoteCopyRequest(server=server(source), vm_id=vm_id, copy_id=str(uuid.uuid4()))
    agent.EndRemoteCopy(other, None)  # type: ignore[arg-type]
    assert not not_copied(source, "db"), "it is another copy"
    mine = pb.EndRemoteCopyRequest(server=server(source), vm_id=vm_id, copy_id=copy_id)
    for _ in range(2):
        agent.EndRemoteCopy(mine, None)  # type: ignore[arg-type]
    assert not_copied(source, "db")
    wait_for(lambda: source.files() == before, "the end of the copy's files at the source")


def not_copied(source: Source, name: str) -> bool:
    """Whether libvirt runs no backup of a VM."""
    try:
        source.host.virsh("backup-dumpxml", name)
    except subprocess.CalledProcessError:
        return True
    return False


@pytest.mark.parametrize("running", [False, True])
def test_a_cancelled_copy_leaves_nothing(
    source: Source, agent: RemoteKvmService, storage: Storage, running: bool
) -> None:
    (source.images / "large.raw").write_bytes(os.urandom(MIB) * 512)
    source.define("big", disk("large.raw", "raw"))
    if running:
        source.host.virsh("start", "big")
    names = {path.name for path in source.images.iterdir()}
    request = copy_request(source, inspect(agent, source, "big"), storage, running=running)
    copying = threading.Event()

    def cancel() -> None:
        copying.wait(60)
        storage.jobs.cancel(request.operation.id)

    thread = threading.Thread(target=cancel)
    thread.start()
    for update in agent.CopyRemoteDisks(request, None):  # type: ignore[arg-type]
        if update.progress.bytes_done:
            copying.set()
    copying.set()
    thread.join()
    assert update.state == State.CANCELLED, "the copy ended before it could be cancelled"
    assert storage.files() == set()
    assert not running or not_copied(source, "big")
    wait_for(lambda: {path.name for path in source.images.iterdir()} == names, "the end of the copy's files")


def test_a_vm_that_is_started_meanwhile_is_not_taken_for_one_that_was_off(
    source: Source, agent: RemoteKvmService, storage: Storage
) -> None:
    source.chain()
    vm_id = source.define("web", disk("top.qcow2"))
    vm = inspect(agent, source, vm_id)
    source.host.virsh("start", "web")
    update = copy(agent, copy_request(source, vm, storage))
    assert update.state == State.FAILED
    assert "SOURCE_CHANGED" in str(update.error)
    assert storage.files() == set()


def test_only_known_vms_are_found(source: Source, agent: RemoteKvmService) -> None:
    with pytest.raises(OstlerError) as caught:
        inspect(agent, source, "no such VM")
    assert caught.value.reason == "SOURCE_VM_NOT_FOUND"
