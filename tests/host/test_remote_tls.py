"""VMs on another KVM host are listed and copied through libvirt's TLS port, without ssh."""

from __future__ import annotations

import os
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from ostler.agent.v1 import remote_kvm_pb2 as pb
from ostler.types.v1 import job_pb2
from ostler_agent.conversion import RemoteCopies, RemoteVms
from ostler_agent.conversion.remote_vms import files_of
from ostler_agent.services.remote_kvm import RemoteKvmService
from ostler_agent.spec import DiskFormat, Key
from ostler_agent.tools.tls import TlsServer
from ostler_common.errors import OstlerError
from ostler_common.secret import Secret
from ostler_common.tls import TlsFiles

from tests.host.conftest import Storage, contents, job, need, new_key, wire
from tests.host.imports import processes
from tests.lab.host import LOCAL, Host, wait_for
from tests.lab.lab import Lab, missing
from tests.lab.libvirt_tls import PORT, TlsLibvirt

State = job_pb2.JobUpdate.State
MIB = 1 << 20
DOMAIN = """<domain type="qemu"><name>web</name><uuid>{id}</uuid><memory unit="MiB">64</memory><vcpu>1</vcpu>
<os><type arch="x86_64" machine="q35">hvm</type></os><devices>
<disk type="file" device="disk"><driver name="qemu" type="qcow2"/><source file="{path}/top.qcow2"/>
<target dev="vda" bus="virtio"/></disk></devices></domain>"""


@dataclass
class Source:
    """A KVM host with a VM "web", whose disk is on a base. seen: what its guest reads."""

    host: Host
    libvirt: TlsLibvirt
    seen: bytes

    @property
    def images(self) -> Path:
        return self.host.outside(LOCAL)

    def server(self, client: TlsFiles | None = None, address: str = "") -> pb.TlsServer:
        """How an agent logs in."""
        files = (client or self.libvirt.client).read()
        return pb.TlsServer(
            host=address or self.host.address,
            port=PORT,
            ca_pem=files.trust.decode(),
            client_certificate=files.certificate,
            private_key=files.key,
        )


@pytest.fixture(scope="module")
def source() -> Iterator[Source]:
    need("qemu-storage-daemon")
    if missing():
        pytest.skip(missing() or "")
    with Lab.start(hosts=1) as lab:
        lab.start_libvirt()
        (host,) = lab.hosts
        images = host.outside(LOCAL)
        seen = chain(images)
        libvirt = TlsLibvirt.start(host)
        (images / "web.xml").write_text(DOMAIN.format(id=uuid.uuid4(), path=LOCAL))
        host.virsh("define", f"{LOCAL}/web.xml")
        (images / "web.xml").unlink()
        yield Source(host, libvirt, seen)


def chain(images: Path) -> bytes:
    """Makes top.qcow2 on base.raw, which has holes; returns what its guest sees."""
    size, data = 16 * MIB, os.urandom(3 * MIB)
    with (images / "base.raw").open("wb") as base:
        base.truncate(size)
        base.seek(2 * MIB)
        base.write(data)
    for command in (
        ["qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "top.qcow2"],
        ["qemu-io", "-f", "qcow2", "-c", "write -P 7 4M 3M", "top.qcow2"],
    ):
        subprocess.run(command, cwd=images, check=True, stdout=subprocess.DEVNULL)
    seen = bytearray(size)
    seen[2 * MIB : 5 * MIB] = data
    seen[4 * MIB : 7 * MIB] = b"\7" * (3 * MIB)
    return bytes(seen)


@pytest.fixture
def pool(source: Source) -> Iterator[None]:
    """A storage pool of the source that has the images."""
    source.host.virsh("pool-create-as", "images", "dir", "--target", LOCAL)
    yield
    source.host.virsh("pool-destroy", "images")


@pytest.fixture
def agent(storage: Storage) -> Iterator[RemoteKvmService]:
    with tempfile.TemporaryDirectory(prefix="kvm.", dir="/var/tmp") as name:  # sockets have short names
        vms = RemoteVms(Path(name))
        yield RemoteKvmService(storage.jobs, vms, RemoteCopies(storage.pools, storage.volumes.locks, vms))
        assert list(Path(name).iterdir()) == []
        assert processes(name) == []


def inspect(agent: RemoteKvmService, server: pb.TlsServer, vm: str = "web") -> pb.RemoteVm:
    (found,) = agent.ListRemoteVms(pb.ListRemoteVmsRequest(tls=server, vm=vm), None).vms  # type: ignore[arg-type]
    return found


def copy(agent: RemoteKvmService, source: Source, storage: Storage, vm: pb.RemoteVm) -> tuple[pb.RemoteDiskCopy, str]:
    """Copies the VM's only disk; returns it and the error."""
    disk = pb.RemoteDiskCopy(
        target="vda",
        images=vm.disks[0].images,
        volume=wire(storage.ref(DiskFormat.QCOW2, new_key())),
        size_bytes=vm.disks[0].capacity_bytes,
    )
    request = pb.CopyRemoteDisksRequest(
        operation=job_pb2.OperationRef(id=f"copy.{uuid.uuid4()}", attempt=1),
        tls=source.server(),
        vm_id=vm.vm_id,
        copy_id=str(uuid.uuid4()),
        running=source.host.virsh("domstate", "web").strip() == "running",
        disks=[disk],
        timeout_s=300,
    )
    *_, last = agent.CopyRemoteDisks(request, None)  # type: ignore[arg-type]
    return disk, "" if last.state == State.SUCCEEDED else str(last.error)


def made(storage: Storage, disk: pb.RemoteDiskCopy, tmp_path: Path) -> bytes:
    """What a guest reads from the volume that was made."""
    key = Key(disk.volume.key.key_id, Secret(disk.volume.key.passphrase))
    ref = replace(storage.ref(DiskFormat.QCOW2, key), volume_id=disk.volume.volume_id)
    return contents(storage.path(ref), ref, tmp_path / "read")


@pytest.mark.usefixtures("pool")
def test_a_vm_that_is_off_becomes_an_encrypted_volume(
    source: Source, agent: RemoteKvmService, storage: Storage, tmp_path: Path
) -> None:
    listed = agent.ListRemoteVms(pb.ListRemoteVmsRequest(tls=source.server()), None).vms  # type: ignore[arg-type]
    assert [vm.name for vm in listed] == ["web"]
    before = {path.name: path.read_bytes() for path in source.images.iterdir()}
    vm = inspect(agent, source.server())
    assert [image.path for image in vm.disks[0].images] == [f"{LOCAL}/top.qcow2", f"{LOCAL}/base.raw"]
    assert [problem for problem in vm.problems if problem.refuses] == []
    disk, error = copy(agent, source, storage, vm)
    assert error == ""
    assert made(storage, disk, tmp_path) == source.seen
    assert {path.name: path.read_bytes() for path in source.images.iterdir()} == before


def test_an_image_in_no_pool_is_refused_with_what_to_do(source: Source, agent: RemoteKvmService) -> None:
    vm = inspect(agent, source.server())
    assert list(vm.disks[0].images) == []
    (problem,) = [problem for problem in vm.problems if problem.refuses]
    assert problem.code == "NOT_IN_POOL"
    assert f"dir --target {LOCAL}" in problem.text


@pytest.mark.usefixtures("pool")
def test_reading_goes_on_when_libvirt_of_the_source_was_restarted(source: Source, tmp_path: Path) -> None:
    message = source.server()
    server = TlsServer(
        message.host, message.port, message.ca_pem, message.client_certificate, Secret(message.private_key)
    )
    data = (source.images / "base.raw").read_bytes()
    with (
        tempfile.TemporaryDirectory(prefix="kvm.", dir="/var/tmp") as name,
        files_of(server, Path(name), job()).open(f"{LOCAL}/base.raw", Path(name, "file"), job()) as file,
    ):
        assert file.read(0, 3 * MIB, job()) == data[: 3 * MIB]
        source.libvirt.restart()
        read = ["qemu-img", "convert", "-f", "raw", "-O", "raw", f"nbd+unix:///?socket={file.socket}"]
        subprocess.run([*read, tmp_path / "copy"], check=True, timeout=120)
    assert (tmp_path / "copy").read_bytes() == data


@pytest.fixture
def running(source: Source) -> Iterator[None]:
    source.host.virsh("start", "web")
    yield
    source.host.virsh("destroy", "web")


@pytest.mark.usefixtures("pool", "running")
def test_a_running_vm_is_copied_and_runs_on(
    source: Source, agent: RemoteKvmService, storage: Storage, tmp_path: Path
) -> None:
    before = {path.name: path.read_bytes() for path in source.images.iterdir()}
    disk, error = copy(agent, source, storage, inspect(agent, source.server()))
    assert error == ""
    assert made(storage, disk, tmp_path) == source.seen
    assert source.host.virsh("domstate", "web").strip() == "running"
    with pytest.raises(subprocess.CalledProcessError):
        source.host.virsh("backup-dumpxml", "web")
    wait_for(
        lambda: {path.name: path.read_bytes() for path in source.images.iterdir()} == before, "the end of its files"
    )


@pytest.mark.usefixtures("pool", "running")
def test_a_running_vm_is_refused_where_qemu_has_no_certificates(
    source: Source, agent: RemoteKvmService, storage: Storage
) -> None:
    vm = inspect(agent, source.server())
    pki = source.host.outside("/etc/pki")
    (pki / "qemu").rename(pki / "away")
    try:
        _, error = copy(agent, source, storage, vm)
    finally:
        (pki / "away").rename(pki / "qemu")
    assert "COPY_TLS" in error
    assert storage.files() == set()
    assert {path.name for path in source.images.iterdir()} == {"base.raw", "top.qcow2"}


def test_who_is_not_known_is_refused(source: Source, agent: RemoteKvmService) -> None:
    with pytest.raises(OstlerError) as caught:
        inspect(agent, source.server(source.libvirt.stranger()))
    assert caught.value.reason == "LOGIN_FAILED"
    other = source.server()
    other.ca_pem = source.libvirt.stranger().read().certificate.decode()
    with pytest.raises(OstlerError) as caught:
        inspect(agent, other)
    assert caught.value.reason in ("SOURCE_UNTRUSTED", "INVALID_CA")
    with pytest.raises(OstlerError) as caught:
        inspect(agent, source.server(address="localhost"))
    assert caught.value.reason == "TLS_FAILED"
