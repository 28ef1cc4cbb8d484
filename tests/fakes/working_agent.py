"""Agents that do their work in memory: hosts, pools they share, volumes, VMs, migrations; and faults on request.

The jobs are the real agent's (`ostler_agent.jobs`), so what a repeated, stale or cancelled call gets is what a real
agent answers. What is fake is the hypervisor and the disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
import struct
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import grpc
from grpc_status import rpc_status
from ostler.agent.v1 import (
    adoption_pb2,
    adoption_pb2_grpc,
    conversion_pb2_grpc,
    host_pb2_grpc,
    job_pb2_grpc,
    remote_kvm_pb2_grpc,
    vm_pb2,
    vm_pb2_grpc,
    volume_pb2,
    volume_pb2_grpc,
)
from ostler.agent.v1.conversion_pb2 import ExportVmRequest
from ostler.types.v1 import backup_file_pb2, guest_pb2, job_pb2
from ostler.types.v1 import vm_pb2 as types_vm_pb2
from ostler.types.v1 import volume_pb2 as types_volume_pb2
from ostler_agent.jobs import JobContext
from ostler_agent.pools import objects
from ostler_agent.services import convert
from ostler_agent.services.jobs import JobService
from ostler_common import object_store
from ostler_common.errors import AbortedError, FailedPreconditionError, NotFoundError, OstlerError, to_status
from ostler_common.secret import Secret

from tests.fakes.adoption import FakeAdoption
from tests.fakes.conversion import Directory, FakeConversion
from tests.fakes.guard import FakeGuard, Leases
from tests.fakes.life import Life
from tests.fakes.recovery import RECOVERIES
from tests.fakes.remote_kvm import FakeRemoteKvm, KvmHost
from tests.fakes.watched_host import WatchedHost

RUNNING, STOPPED, ABSENT = (
    types_vm_pb2.POWER_STATE_RUNNING,
    types_vm_pb2.POWER_STATE_STOPPED,
    types_vm_pb2.POWER_STATE_ABSENT,
)


@dataclass
class File:
    """A volume's file. passphrase: b"" for a plain one; also: a second one that opens it; content: equal in copies.

    records: ids of the backups since which writes are recorded; record_id: of the backup that the file is part of;
    since: that of the one it builds on, "" if it has everything.
    """

    size_bytes: int
    format: int
    passphrase: bytes
    key_id: str = ""
    template_id: str = ""
    also: bytes = b""
    content: str = field(default_factory=lambda: str(uuid.uuid4()))
    records: list[str] = field(default_factory=list)
    record_id: str = ""
    since: str = ""


def bytes_of(file: File) -> bytes:
    """What is in a file, as far as its header tells it: an image of the right layout, and its content after that."""
    luks = file.passphrase != b""
    if file.format == types_volume_pb2.DISK_FORMAT_QCOW2:
        fields = (b"QFI\xfb", 3, 0, 0, 16, file.size_bytes, 2 if luks else 0, 1, 0, 0, 1, 0, 0)
        head = struct.pack(">4sIQIIQIIQQIIQ", *fields) + struct.pack(">QQQII", 0, 0, 0, 4, 104) + bytes(8)
    else:
        head = (b"LUKS\xba\xbe\0\1" + bytes(96) + (2).to_bytes(4, "big")).ljust(1024, b"\0") if luks else b""
    return (head + file.content.encode()).ljust(1536, b"\0")


@dataclass
class Machine:
    """A VM that a host knows. memory: the content of what its guest continued from, "" if it booted."""

    spec: types_vm_pb2.VmSpec
    running: bool = False
    migrating: bool = False
    memory: str = ""


@dataclass
class FakeTpm:
    """The state of a TPM on a host. passphrase: opens it; content: what the guest has stored; copy_id: of the copy that
    it was put in place from."""

    passphrase: bytes
    content: bytes
    copy_id: str = ""


@dataclass
class Fault:
    """What goes wrong with the next calls of a method.

    error: the job fails with it; before: without having done anything, else after its work. cut: the stream breaks once
    the job has begun, and the job goes on. hold: the job waits until it is released or cancelled. forget_key: a volume
    is made plain that should be encrypted. only: the requests that it befalls.
    """

    error: OstlerError | None = None
    before: bool = True
    cut: bool = False
    hold: threading.Event | None = None
    forget_key: bool = False
    only: Callable[[Any], bool] = lambda request: True
    times: int = 1
    reached: threading.Event = field(default_factory=threading.Event)


class Fleet:
    """Hosts and the storage behind them. pools: pool id -> volume id -> file; local pools have one host.

    template_keys: SHA-256 of a template -> the passphrase that opens it; those not in it are plain. staging: files of
    imports by pool id and import id; ovftool: the files that an export by a host brings; archives: files by URL;
    exported: what was asked for; kvm: a KVM host that is no part of the fleet;
    written: by volume id, what warm copies have written; image_locks: whether a disk that is open on one host is
    refused on another, as QEMU does; refused_by_locks: the VMs for which that was needed; pace: called by each job
    before and after its work; parts: pool and volume of files that are not complete yet.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.parts: set[tuple[str, str]] = set()
        self.hosts: dict[str, FakeHost] = {}
        self.pools: dict[str, dict[str, File]] = {}
        self.template_keys: dict[str, bytes] = {}
        self.staging: dict[tuple[str, str], Directory] = {}
        self.ovftool: dict[str, bytes] = {}
        self.archives: dict[str, dict[str, bytes]] = {}
        self.exported: list[ExportVmRequest] = []
        self.written: dict[str, bytearray] = {}
        self.kvm = KvmHost()
        self.image_locks = False
        self.refused_by_locks: set[str] = set()
        self.pace: Callable[[], None] = lambda: None
        self.leases: Leases = {}
        self.spools: set[str] = set()  # pools of which each host has its own files
        self.sent: dict[str, File] = {}  # to stores, by volume
        self.lock = threading.RLock()

    def add_host(self, name: str, host_id: str) -> FakeHost:
        host = FakeHost(self, name, host_id)
        self.hosts[host_id] = host
        host.start()
        return host

    def running_on(self, vm_id: str) -> list[str]:
        """Names of the hosts on which a VM runs: more than one would be the end of its disks."""
        with self.lock:
            return [host.name for host in self.hosts.values() if vm_id in host.vms and host.vms[vm_id].running]

    def files(self) -> dict[str, str]:
        """Volume id -> pool id of every file there is."""
        with self.lock:
            return {volume_id: pool_id for pool_id, files in self.pools.items() for volume_id in files}

    def stop(self) -> None:
        for host in self.hosts.values():
            host.stop()


class FakeHost(
    volume_pb2_grpc.VolumeServiceServicer, vm_pb2_grpc.VmServiceServicer, vm_pb2_grpc.MigrationServiceServicer
):
    """One host's agent on a loopback port. calls: every method called, in order."""

    def __init__(self, fleet: Fleet, name: str, host_id: str) -> None:
        self.seeds: dict[str, dict[str, bytes]] = {}  # by VM
        self.admitted: dict[str, str] = {}  # VM that migrates here -> its source host
        self.fleet = fleet
        self.name = name
        self.host_id = host_id
        self.pools: set[str] = set()
        self.vms: dict[str, Machine] = {}
        self.pressed: list[str] = []  # combinations of keys
        self.old = False  # of a release that makes only full copies
        self.consistency: tuple[types_volume_pb2.Consistency.ValueType, str] | None = None  # of online copies
        self.guest: guest_pb2.GuestInfo | None = None  # none: no guest agent is connected
        self.asked_guests: list[str] = []  # what guest agents were asked to do
        self.screen: Path | None = None  # the Unix socket of a VNC server
        self.secrets: set[str] = set()
        self.tpms: dict[str, FakeTpm] = {}
        self.mirrors: dict[str, str] = {}
        self.web: dict[str, tuple[int, bytes]] = {}
        self.faults: dict[str, Fault] = {}
        self.calls: list[str] = []
        self.machine = "pc-q35-7.2"  # the newest machine type that its QEMU has
        self.claims: list[types_vm_pb2.SeenAddress] = []  # addresses that its guests claim
        self.port = 0
        self.foreign: dict[str, adoption_pb2.InspectVmResponse] = {}
        self.marked: set[str] = set()
        self.guard = FakeGuard(host_id, fleet.leases, self.end_vms)
        self.life = Life(fleet.directory / f"jobs-{host_id}")
        self.watched: WatchedHost | None = None  # who watches it is told what happens here
        self._server: grpc.Server | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listens, on the same port as before."""
        server = grpc.server(ThreadPoolExecutor(32), options=[("grpc.so_reuseport", 0)])
        volume_pb2_grpc.add_VolumeServiceServicer_to_server(self, server)
        vm_pb2_grpc.add_VmServiceServicer_to_server(self, server)
        vm_pb2_grpc.add_MigrationServiceServicer_to_server(self, server)
        conversion = FakeConversion(self)
        conversion_pb2_grpc.add_ConversionServiceServicer_to_server(conversion, server)
        adoption_pb2_grpc.add_AdoptionServiceServicer_to_server(FakeAdoption(self), server)
        remote_kvm_pb2_grpc.add_RemoteKvmServiceServicer_to_server(FakeRemoteKvm(self), server)
        job_pb2_grpc.add_JobServiceServicer_to_server(_JobErrors(self.life), server)
        if self.watched is not None:
            self.watched.serve_on(server)
        else:
            host_pb2_grpc.add_HostServiceServicer_to_server(self.guard, server)
        self.port = server.add_insecure_port(f"127.0.0.1:{self.port}")
        server.start()
        self._server = server

    def stop(self) -> None:
        """Does not answer any more; VMs and jobs go on."""
        if self._server is not None:
            self._server.stop(0).wait()
            self._server = None

    def kill(self) -> None:
        """The agent dies; VMs go on. It begins its next life with `revive`."""
        with self.fleet.lock:
            if not self.life.died.is_set():
                self.life.end()
        self.stop()

    def revive(self) -> None:
        """Removes keys that no VM uses, then finds out what became of the jobs, as a real agent does."""
        with self.fleet.lock:
            specs = [machine.spec for machine in self.vms.values() if machine.running]
            self.secrets &= {disk.volume.key.key_id for spec in specs for disk in spec.disks} | {
                spec.tpm.key.key_id for spec in specs
            }
            self.life.begin()
        self.start()

    def end_vms(self) -> None:
        """Every VM ends at once."""
        for machine in self.vms.values():
            machine.running = False
        self.secrets.clear()

    def fail(self, method: str, fault: Fault) -> Fault:
        self.faults[method] = fault
        return fault

    # -- volumes

    def CreateVolume(
        self, request: volume_pb2.CreateVolumeRequest, context: grpc.ServicerContext
    ) -> Iterator[job_pb2.JobUpdate]:
        def work(job: JobContext) -> types_volume_pb2.VolumeInfo:
            files, ref = self._files(request.volume), request.volume
            if ref.volume_id in files:
                raise FailedPreconditionError(f"volume {ref.volume_id} exists", "VOLUME_EXISTS")
            job.report("creating", 1, 2)
            template = request.template
            opens = self.fleet.template_keys.get(template.sha256, b"")
            if template.template_id and template.key.passphrase != opens:
                raise FailedPreconditionError("the key does not open the template", "WRONG_KEY")
            self._put(
                ref, File(request.size_bytes, ref.format, ref.key.passphrase, ref.key.key_id, template.template_id)
            )
            return self._volume_info(ref)

        return self._job("CreateVolume", "volume.create", request, context, work)

    def GrowVolume(
        self, request: volume_pb2.GrowVolumeRequest, context: grpc.ServicerContext
    ) -> Iterator[job_pb2.JobUpdate]:
        def work(job: JobContext) -> types_volume_pb2.VolumeInfo:
            file = self._file(request.volume)
            self._open(file, request.volume)
            file.size_bytes = max(file.size_bytes, request.size_bytes)
            return self._volume_info(request.volume)

        return self._job("GrowVolume", "volume.grow", request, context, work)

    def DeleteVolume(
        self, request: volume_pb2.DeleteVolumeRequest, context: grpc.ServicerContext
    ) -> Iterator[job_pb2.JobUpdate]:
        def work(job: JobContext) -> None:
            for machine in self.vms.values():
                used = [disk.volume for disk in machine.spec.disks]
                if machine.running and any(
                    (ref.volume_id, ref.pool_id) == (request.volume.volume_id, request.volume.pool_id) for ref in used
                ):
                    raise FailedPreconditionError("the volume is in use", "VOLUME_IN_USE")
            self._files(request.volume).pop(request.volume.volume_id, None)
            self.life.point()

        return self._job("DeleteVolume", "volume.delete", request, context, work)

    def GetVolume(
        self, request: volume_pb2.GetVolumeRequest, context: grpc.ServicerContext
    ) -> types_volume_pb2.VolumeInfo:
        with _errors(context):
            file = self._file(request.volume)
            if request.volume.key.passphrase:  # without one the header is read, and no key is tried
                if not file.passphrase:
                    raise FailedPreconditionError("the volume is not encrypted", "NOT_ENCRYPTED")
                self._open(file, request.volume)
            return self._volume_info(request.volume)

    def CopyVolume(
        self, request: volume_pb2.CopyVolumeRequest, context: grpc.ServicerContext
    ) -> Iterator[job_pb2.JobUpdate]:
        def work(job: JobContext) -> types_volume_pb2.VolumeInfo:
            job.report("copying volume", 1, 2)
            source = request.layers[0] if request.layers else request.source
            info = self._copy(source, request.target, request.size_bytes)
            self._check_chain(source, request)
            if request.vm_id and self.consistency is not None:
                info.consistency, info.consistency_reason = self.consistency
            return info

        return self._job("CopyVolume", "volume.copy", request, context, work)

    def CopyDisks(
        self, request: volume_pb2.CopyDisksRequest, context: grpc.ServicerContext
    ) -> Iterator[job_pb2.JobUpdate]:
        def work(job: JobContext) -> job_pb2.CopiedDisks:
            job.report("copying disks", 1, 2)
            made = [self._copy(disk.source, disk.target, 0) for disk in request.disks]
            parts = [self._record(disk, request.record_id) for disk in request.disks] if request.record_id else []
            for info in made:
                if request.vm_id and self.consistency is not None:
                    info.consistency, info.consistency_reason = self.consistency
            memory = self._save_memory(request.vm_id, request.memory) if request.HasField("memory") else None
            return job_pb2.CopiedDisks(volumes=made, parts=[] if self.old else parts, memory=memory)

        return self._job("CopyDisks", "volume.copy-disks", request, context, work)

    def DigestVolume(
        self, request: volume_pb2.DigestVolumeRequest, context: grpc.ServicerContext
    ) -> Iterator[job_pb2.JobUpdate]:
        def work(job: JobContext) -> job_pb2.VolumeDigest:
            file = self._file(request.volume)
            self._open(file, request.volume)
            data = bytes_of(file)
            return job_pb2.VolumeDigest(sha256=hashlib.sha256(data).hexdigest(), file_size_bytes=len(data))

        return self._job("DigestVolume", "volume.digest", request, context, work)

    def UploadVolume(
        self, request: volume_pb2.UploadVolumeRequest, context: grpc.ServicerContext
    ) -> Iterator[job_pb2.JobUpdate]:
        def work(job: JobContext) -> job_pb2.UploadedParts:
            with tempfile.TemporaryFile() as file:
                file.write(bytes_of(self._file(request.volume)))
                file.flush()
                parts = [objects.Part(Secret(one.url.encode()), one.offset, one.size_bytes) for one in request.parts]
                with object_store.client(request.ca_pem) as client:
                    etags = [objects.put(file.fileno(), part, client, job, lambda done: None) for part in parts]
            self.fleet.sent[request.volume.volume_id] = self._file(request.volume)
            return job_pb2.UploadedParts(etags=etags)

        return self._job("UploadVolume", "volume.upload", request, context, work)

    def MirrorVolume(
        self, request: volume_pb2.MirrorVolumeRequest, context: grpc.ServicerContext
    ) -> Iterator[job_pb2.JobUpdate]:
        def work(job: JobContext) -> types_volume_pb2.VolumeInfo:
            self._disk(request.vm_id, request.source)
            job.report("mirroring volume", 1, 2)
            info = self._copy(request.source, request.target, 0)
            self.mirrors[request.target.volume_id] = request.source.volume_id
            return info

        return self._job("MirrorVolume", "volume.mirror", request, context, work)

    def PivotVolume(
        self, request: volume_pb2.PivotVolumeRequest, context: grpc.ServicerContext
    ) -> Iterator[job_pb2.JobUpdate]:
        def work(job: JobContext) -> types_volume_pb2.VolumeInfo:
            if self.mirrors.pop(request.target.volume_id, None) is not None:
                disk = self._disk(request.vm_id, request.source)
                self.secrets.discard(disk.volume.key.key_id)
                disk.volume.CopyFrom(request.target)
            try:
                self._disk(request.vm_id, request.target)
            except FailedPreconditionError as error:
                raise FailedPreconditionError("there is no mirror", "MIRROR_MISSING") from error
            return self._volume_info(request.target)

        return self._job("PivotVolume", "volume.pivot", request, context, work)

    def CancelMirror(
        self, request: volume_pb2.CancelMirrorRequest, context: grpc.ServicerContext
    ) -> Iterator[job_pb2.JobUpdate]:
        def work(job: JobContext) -> None:
            disks = self.vms[request.vm_id].spec.disks if request.vm_id in self.vms else []
            if any(disk.volume.volume_id == request.target.volume_id for disk in disks):
                raise FailedPreconditionError("the VM uses the new volume already", "PIVOTED")
            self.mirrors.pop(request.target.volume_id, None)
            self._files(request.target).pop(request.target.volume_id, None)
            self.secrets.discard(request.target.key.key_id)

        return self._job("CancelMirror", "volume.cancel-mirror", request, context, work)

    def AddVolumeKey(
        self, request: volume_pb2.AddVolumeKeyRequest, context: grpc.ServicerContext
    ) -> Iterator[job_pb2.JobUpdate]:
        def work(job: JobContext) -> types_volume_pb2.VolumeInfo:
            file, new = self._file(request.volume), request.new_key.passphrase
            self._open(file, request.volume)
            if new not in (file.passphrase, file.also):
                file.also = new
            return self._volume_info(request.volume)

        return self._job("AddVolumeKey", "volume.add-key", request, context, work)

    def RemoveVolumeKey(
        self, request: volume_pb2.RemoveVolumeKeyRequest, context: grpc.ServicerContext
    ) -> Iterator[job_pb2.JobUpdate]:
        def work(job: JobContext) -> types_volume_pb2.VolumeInfo:
            file, old = self._file(request.volume), request.old_key.passphrase
            self._open(file, request.volume)
            if old in (file.passphrase, file.also):
                file.passphrase, file.also = request.volume.key.passphrase, b""
            return self._volume_info(request.volume)

        return self._job("RemoveVolumeKey", "volume.remove-key", request, context, work)

    def InspectTemplate(
        self, request: volume_pb2.InspectTemplateRequest, context: grpc.ServicerContext
    ) -> volume_pb2.InspectTemplateResponse:
        with _errors(context):
            if request.direct.url not in self.web:
                raise FailedPreconditionError(f"{request.direct.url}: the server answers 404", "DOWNLOAD_REFUSED")
            size_bytes, head = self.web[request.direct.url]
            return volume_pb2.InspectTemplateResponse(file_size_bytes=size_bytes, head=head)

    def InspectFile(
        self, request: volume_pb2.InspectFileRequest, context: grpc.ServicerContext
    ) -> types_volume_pb2.VolumeInfo:
        with _errors(context):
            ref = types_volume_pb2.VolumeRef(
                pool_id=request.pool_id, volume_id=request.file_name, format=request.format, key=request.key
            )
            self._open(self._file(ref), ref)
            return self._volume_info(ref)

    def AdoptVolume(
        self, request: volume_pb2.AdoptVolumeRequest, context: grpc.ServicerContext
    ) -> Iterator[job_pb2.JobUpdate]:
        def work(job: JobContext) -> types_volume_pb2.VolumeInfo:
            files = self._files(request.volume)
            if request.file_name in files:
                files[request.volume.volume_id] = files.pop(request.file_name)
            return self._volume_info(request.volume)

        return self._job("AdoptVolume", "volume.adopt", request, context, work)

    def ReleaseVolume(
        self, request: volume_pb2.ReleaseVolumeRequest, context: grpc.ServicerContext
    ) -> Iterator[job_pb2.JobUpdate]:
        def work(job: JobContext) -> None:
            files = self._files(request.volume)
            if request.volume.volume_id in files:
                files[request.file_name] = files.pop(request.volume.volume_id)

        return self._job("ReleaseVolume", "volume.release", request, context, work)

    def ReadVolume(
        self, request: volume_pb2.ReadVolumeRequest, context: grpc.ServicerContext
    ) -> Iterator[volume_pb2.ReadVolumeResponse]:
        with _errors(context):
            whole = bytes_of(self._file(request.volume))
            rest = whole[request.offset :]
            yield volume_pb2.ReadVolumeResponse(file_size_bytes=len(whole))
            yield volume_pb2.ReadVolumeResponse(data=rest[:10])
            yield volume_pb2.ReadVolumeResponse(data=rest[10:])

    def ReadBackupFiles(
        self, request: volume_pb2.ReadBackupFilesRequest, context: grpc.ServicerContext
    ) -> Iterator[volume_pb2.ReadBackupFilesResponse]:
        """Each disk is a file system with one file, whose content is the disk's."""
        with _errors(context):
            self.fail_now("ReadBackupFiles")
            disks = [self._whole(chain.layers) for chain in request.disks]
            yield volume_pb2.ReadBackupFilesResponse(phase="looking for file systems")
            if not request.path:
                names = [f"/dev/sd{chr(ord('a') + number)}" for number in range(len(disks))]
                found = [backup_file_pb2.BackupFileSystem(name=name, type="ext4") for name in names]
                yield volume_pb2.ReadBackupFilesResponse(file_systems=found)
            elif request.content:
                yield volume_pb2.ReadBackupFilesResponse(size_bytes=len(disks[0]))
                yield volume_pb2.ReadBackupFilesResponse(data=disks[0][:5])
                yield volume_pb2.ReadBackupFilesResponse(data=disks[0][5:])
            else:
                file = backup_file_pb2.BackupFile(name=b"content", kind=backup_file_pb2.BackupFile.FILE)
                yield volume_pb2.ReadBackupFilesResponse(files=[file])
            yield volume_pb2.ReadBackupFilesResponse(complete=True)

    # -- VMs

    def StartVm(self, request: vm_pb2.StartVmRequest, context: grpc.ServicerContext) -> Iterator[job_pb2.JobUpdate]:
        def work(job: JobContext) -> types_vm_pb2.VmInfo:
            self._check_disks(request.spec)
            self._place_seed(request.spec)
            with self.fleet.lock:
                self._check_image_lock(request.spec.vm_id)
                memory = self._memory_of(request) if request.HasField("memory") else ""
                if not self._runs(request.spec.vm_id):
                    self.vms[request.spec.vm_id] = Machine(_without_keys(request.spec))
                    self.life.point()
                self.vms[request.spec.vm_id] = Machine(_without_keys(request.spec), running=True, memory=memory)
                self.life.point()
            return self._vm_info(request.spec.vm_id)

        return self._job("StartVm", "vm.start", request, context, work)

    def DefineVm(self, request: vm_pb2.DefineVmRequest, context: grpc.ServicerContext) -> Iterator[job_pb2.JobUpdate]:
        def work(job: JobContext) -> types_vm_pb2.VmInfo:
            self.vms[request.spec.vm_id] = Machine(_without_keys(request.spec))
            return self._vm_info(request.spec.vm_id)

        return self._job("DefineVm", "vm.define", request, context, work)

    def ListVms(self, request: vm_pb2.ListVmsRequest, context: grpc.ServicerContext) -> vm_pb2.ListVmsResponse:
        return vm_pb2.ListVmsResponse(vms=self.vm_infos())

    def StopVm(self, request: vm_pb2.StopVmRequest, context: grpc.ServicerContext) -> Iterator[job_pb2.JobUpdate]:
        def work(job: JobContext) -> types_vm_pb2.VmInfo:
            machine = self.vms.get(request.vm_id)
            if machine:
                machine.running = False
                self.life.point()
                self._drop_secrets(machine.spec)
                self.life.point()
            return self._vm_info(request.vm_id)

        return self._job("StopVm", "vm.stop", request, context, work)

    def RebootVm(self, request: vm_pb2.RebootVmRequest, context: grpc.ServicerContext) -> Iterator[job_pb2.JobUpdate]:
        return self._job("RebootVm", "vm.reboot", request, context, lambda job: self._vm_info(request.vm_id))

    def DeleteVm(self, request: vm_pb2.DeleteVmRequest, context: grpc.ServicerContext) -> Iterator[job_pb2.JobUpdate]:
        def work(job: JobContext) -> types_vm_pb2.VmInfo:
            self.seeds.pop(request.vm_id, None)
            if self._runs(request.vm_id):
                raise FailedPreconditionError("the VM runs", "VM_RUNNING")
            self.life.point()
            self.vms.pop(request.vm_id, None)
            self.tpms.pop(request.vm_id, None)
            self.life.point()
            return self._vm_info(request.vm_id)

        return self._job("DeleteVm", "vm.delete", request, context, work)

    def AttachVolume(
        self, request: vm_pb2.AttachVolumeRequest, context: grpc.ServicerContext
    ) -> Iterator[job_pb2.JobUpdate]:
        def work(job: JobContext) -> types_vm_pb2.VmInfo:
            machine = self._machine(request.vm_id)
            file = self._file(request.disk.volume)
            self._check_key(file, request.disk.volume)
            if request.disk.volume.volume_id not in [disk.volume.volume_id for disk in machine.spec.disks]:
                disk = machine.spec.disks.add()
                disk.CopyFrom(request.disk)
                disk.volume.key.ClearField("passphrase")
            return self._vm_info(request.vm_id)

        return self._job("AttachVolume", "vm.attach", request, context, work)

    def AttachNic(self, request: vm_pb2.AttachNicRequest, context: grpc.ServicerContext) -> Iterator[job_pb2.JobUpdate]:
        def work(job: JobContext) -> types_vm_pb2.VmInfo:
            machine = self._machine(request.vm_id)
            if request.nic.mac not in [nic.mac for nic in machine.spec.nics]:
                machine.spec.nics.add().CopyFrom(request.nic)
            return self._vm_info(request.vm_id)

        return self._job("AttachNic", "vm.attach-nic", request, context, work)

    def DetachNic(self, request: vm_pb2.DetachNicRequest, context: grpc.ServicerContext) -> Iterator[job_pb2.JobUpdate]:
        def work(job: JobContext) -> types_vm_pb2.VmInfo:
            machine = self._machine(request.vm_id)
            kept = [nic for nic in machine.spec.nics if nic.mac != request.mac]
            del machine.spec.nics[:]
            machine.spec.nics.extend(kept)
            return self._vm_info(request.vm_id)

        return self._job("DetachNic", "vm.detach-nic", request, context, work)

    def SetNicLink(
        self, request: vm_pb2.SetNicLinkRequest, context: grpc.ServicerContext
    ) -> Iterator[job_pb2.JobUpdate]:
        def work(job: JobContext) -> types_vm_pb2.VmInfo:
            for nic in self._machine(request.vm_id).spec.nics:
                if nic.mac == request.mac:
                    nic.link_down = not request.up
            return self._vm_info(request.vm_id)

        return self._job("SetNicLink", "vm.set-nic-link", request, context, work)

    def ChangeCdrom(
        self, request: vm_pb2.ChangeCdromRequest, context: grpc.ServicerContext
    ) -> Iterator[job_pb2.JobUpdate]:
        def work(job: JobContext) -> types_vm_pb2.VmInfo:
            spec = self._machine(request.vm_id).spec
            kept = [cdrom for cdrom in spec.cdroms if cdrom.drive != request.drive]
            del spec.cdroms[:]
            spec.cdroms.extend([*kept, request.cdrom] if request.HasField("cdrom") else kept)
            return self._vm_info(request.vm_id)

        return self._job("ChangeCdrom", "vm.change-cdrom", request, context, work)

    def ReadVmAddresses(
        self, request: vm_pb2.ReadVmAddressesRequest, context: grpc.ServicerContext
    ) -> vm_pb2.ReadVmAddressesResponse:
        return vm_pb2.ReadVmAddressesResponse(addresses=self.claims)

    def LimitDisk(self, request: vm_pb2.LimitDiskRequest, context: grpc.ServicerContext) -> Iterator[job_pb2.JobUpdate]:
        def work(job: JobContext) -> types_vm_pb2.VmInfo:
            for disk in self._machine(request.vm_id).spec.disks:
                if disk.volume.volume_id == request.volume_id:
                    disk.limits.CopyFrom(request.limits)
            return self._vm_info(request.vm_id)

        return self._job("LimitDisk", "vm.limit-disk", request, context, work)

    def ResizeVm(self, request: vm_pb2.ResizeVmRequest, context: grpc.ServicerContext) -> Iterator[job_pb2.JobUpdate]:
        def work(job: JobContext) -> types_vm_pb2.VmInfo:
            spec = self._machine(request.vm_id).spec
            if request.cpus > max(spec.cpus, spec.max_cpus):
                raise FailedPreconditionError("more than its maximum", "RESIZE_NEEDS_STOP")
            spec.cpus, spec.memory_bytes = request.cpus, request.memory_bytes
            return self._vm_info(request.vm_id)

        return self._job("ResizeVm", "vm.resize", request, context, work)

    def DetachVolume(
        self, request: vm_pb2.DetachVolumeRequest, context: grpc.ServicerContext
    ) -> Iterator[job_pb2.JobUpdate]:
        def work(job: JobContext) -> types_vm_pb2.VmInfo:
            machine = self._machine(request.vm_id)
            kept = [disk for disk in machine.spec.disks if disk.volume.volume_id != request.volume_id]
            del machine.spec.disks[:]
            machine.spec.disks.extend(kept)
            self.secrets.discard(request.key_id)
            return self._vm_info(request.vm_id)

        return self._job("DetachVolume", "vm.detach", request, context, work)

    def GetVm(self, request: vm_pb2.GetVmRequest, context: grpc.ServicerContext) -> types_vm_pb2.VmInfo:
        return self._vm_info(request.vm_id)

    def Console(
        self, request_iterator: Iterator[vm_pb2.ConsoleInput], context: grpc.ServicerContext
    ) -> Iterator[vm_pb2.ConsoleOutput]:
        with _errors(context):
            first = next(request_iterator)
            self._machine(first.vm_id)
            yield vm_pb2.ConsoleOutput()
            for request in request_iterator:
                yield vm_pb2.ConsoleOutput(data=b"echo " + request.data)

    def Screen(
        self, request_iterator: Iterator[vm_pb2.ConsoleInput], context: grpc.ServicerContext
    ) -> Iterator[vm_pb2.ConsoleOutput]:
        """Of a VNC server at `screen`, the same for all VMs; without one it is black and silent."""
        with _errors(context):
            first = next(request_iterator)
            self._machine(first.vm_id)
            yield vm_pb2.ConsoleOutput()
            if self.screen is None:
                for request in request_iterator:
                    yield vm_pb2.ConsoleOutput(data=b"drawn " + request.data)
                return
            with socket.socket(socket.AF_UNIX) as connected:
                connected.connect(str(self.screen))
                context.add_callback(lambda: connected.shutdown(socket.SHUT_RDWR))
                threading.Thread(target=_send_all, args=(connected, request_iterator), daemon=True).start()
                while data := connected.recv(1 << 16):
                    yield vm_pb2.ConsoleOutput(data=data)

    def ReadConsoleLog(
        self, request: vm_pb2.ReadConsoleLogRequest, context: grpc.ServicerContext
    ) -> Iterator[vm_pb2.ConsoleOutput]:
        with _errors(context):
            if request.vm_id not in self.vms:
                raise NotFoundError(f"VM {request.vm_id} is not on {self.name}", "VM_NOT_FOUND")
            yield vm_pb2.ConsoleOutput(data=f"{self.name} last {request.lines}\n".encode())
            while request.follow and context.is_active():
                time.sleep(0.05)

    def SendKey(self, request: vm_pb2.SendKeyRequest, context: grpc.ServicerContext) -> vm_pb2.SendKeyResponse:
        with _errors(context):
            self._machine(request.vm_id)
            self.pressed.append(request.keys)
        return vm_pb2.SendKeyResponse()

    def ReadFirmwareState(
        self, request: vm_pb2.ReadFirmwareStateRequest, context: grpc.ServicerContext
    ) -> types_vm_pb2.FirmwareState:
        with _errors(context):
            self.fail_now("ReadFirmwareState")
        found = self.tpms.get(request.vm_id)
        return types_vm_pb2.FirmwareState(tpm=found.passphrase + b"|" + found.content if found else b"")

    def ReadGuestInfo(self, request: vm_pb2.ReadGuestInfoRequest, context: grpc.ServicerContext) -> guest_pb2.GuestInfo:
        with _errors(context):
            return self._guest(request.vm_id)
        raise AssertionError

    def SyncGuestTime(
        self, request: vm_pb2.SyncGuestTimeRequest, context: grpc.ServicerContext
    ) -> vm_pb2.SyncGuestTimeResponse:
        with _errors(context):
            self._guest(request.vm_id)
            self.asked_guests.append("time")
        return vm_pb2.SyncGuestTimeResponse()

    def SetGuestPassword(
        self, request: vm_pb2.SetGuestPasswordRequest, context: grpc.ServicerContext
    ) -> vm_pb2.SetGuestPasswordResponse:
        with _errors(context):
            self._guest(request.vm_id)
            self.asked_guests.append(f"password of {request.guest_user}: {request.password.decode()}")
        return vm_pb2.SetGuestPasswordResponse()

    def SetGuestSshKeys(
        self, request: vm_pb2.SetGuestSshKeysRequest, context: grpc.ServicerContext
    ) -> vm_pb2.SetGuestSshKeysResponse:
        with _errors(context):
            self._guest(request.vm_id)
            self.asked_guests.append(f"keys of {request.guest_user}: {', '.join(request.ssh_keys)}")
        return vm_pb2.SetGuestSshKeysResponse()

    def _guest(self, vm_id: str) -> guest_pb2.GuestInfo:
        self._machine(vm_id)
        if self.guest is None:
            raise FailedPreconditionError("no guest agent is connected", "GUEST_AGENT_MISSING")
        return self.guest

    def Screenshot(self, request: vm_pb2.ScreenshotRequest, context: grpc.ServicerContext) -> vm_pb2.ScreenshotResponse:
        return vm_pb2.ScreenshotResponse(png=b"\x89PNG")

    # -- migration

    def PrepareMigration(
        self, request: vm_pb2.PrepareMigrationRequest, context: grpc.ServicerContext
    ) -> Iterator[job_pb2.JobUpdate]:
        def work(job: JobContext) -> job_pb2.MigrationEndpoint:
            moved = {volume.volume_id: volume.size_bytes for volume in request.moved_volumes}
            for disk in request.spec.disks:
                ref = disk.volume
                if ref.volume_id in moved:
                    self._files(ref)[ref.volume_id] = File(
                        moved[ref.volume_id], ref.format, ref.key.passphrase, ref.key.key_id
                    )
                    self.life.point()
            self._check_disks(request.spec)
            self.life.point()
            self._place_seed(request.spec)
            self.admitted[request.spec.vm_id] = request.source_host_id
            self.life.point()
            return job_pb2.MigrationEndpoint(
                hypervisor_uri=f"qemu+tls://{self.host_id}/system",
                migrate_uri=f"tcp://{self.host_id}",
                volume_paths={disk.volume.volume_id: f"/{disk.volume.pool_id}" for disk in request.spec.disks},
            )

        return self._job("PrepareMigration", "migration.prepare", request, context, work)

    def MigrateVm(self, request: vm_pb2.MigrateVmRequest, context: grpc.ServicerContext) -> Iterator[job_pb2.JobUpdate]:
        def work(job: JobContext) -> job_pb2.MigrationReport:
            if not self._runs(request.vm_id):
                raise FailedPreconditionError("the VM does not run here", "VM_NOT_RUNNING")
            destination = self.fleet.hosts[request.endpoint.hypervisor_uri.split("/")[2]]
            if destination.admitted.get(request.vm_id) != self.host_id:
                raise AbortedError("the destination does not admit this host", "MIGRATION_FAILED")
            job.report("migrating memory", 1, 2)
            with self.fleet.lock, contextlib.ExitStack() as stack:
                stack.callback(self.life.point)  # libvirt completes it, also without an agent
                machine = self.vms.pop(request.vm_id)
                machine.running, machine.migrating = True, False
                machine.spec.CopyFrom(request.destination_spec)
                destination.vms[request.vm_id] = machine
                if request.vm_id in self.tpms:
                    destination.tpms[request.vm_id] = self.tpms.pop(request.vm_id)
                self.seeds.pop(request.vm_id, None)
                self._drop_secrets(machine.spec)
            return job_pb2.MigrationReport(elapsed_ms=1)

        return self._job("MigrateVm", "migration.move", request, context, work)

    def FinishMigration(
        self, request: vm_pb2.FinishMigrationRequest, context: grpc.ServicerContext
    ) -> Iterator[job_pb2.JobUpdate]:
        def work(job: JobContext) -> types_vm_pb2.VmInfo:
            if self._runs(request.vm_id) != request.arrived:
                raise FailedPreconditionError("it is not as you say", "VM_NOT_HERE")
            self.admitted.pop(request.vm_id, None)
            self.life.point()
            if not request.arrived:
                self.secrets -= set(request.key_ids)
                self.life.point()
                for ref in request.moved_volumes:
                    self._files(ref).pop(ref.volume_id, None)
                    self.life.point()
            return self._vm_info(request.vm_id)

        return self._job("FinishMigration", "migration.finish", request, context, work)

    # -- for the conversion service

    def errors(self, context: grpc.ServicerContext) -> _errors:
        return _errors(context)

    def fail_now(self, method: str) -> None:
        """Raises the error of a fault of a plain call."""
        fault = self.faults.pop(method, None)
        if fault is not None:
            fault.reached.set()
            if fault.hold is not None:
                fault.hold.wait(30)
            if fault.error is not None:
                raise fault.error

    def run_job(self, method: str, kind: str, request: Any, context: grpc.ServicerContext, work: Any) -> Iterator[Any]:
        return self._job(method, kind, request, context, work)

    def size_and_passphrase(self, ref: types_volume_pb2.VolumeRef) -> tuple[int, bytes]:
        """Of a volume that is there."""
        file = self._file(ref)
        return file.size_bytes, file.passphrase

    def put_file(self, ref: types_volume_pb2.VolumeRef, size_bytes: int, content: str) -> types_volume_pb2.VolumeInfo:
        """Makes a volume of converted data."""
        self._files(ref)[ref.volume_id] = File(
            size_bytes, ref.format, ref.key.passphrase, ref.key.key_id, content=content
        )
        return self._volume_info(ref)

    # -- for its next life

    def has_volume(self, ref: types_volume_pb2.VolumeRef) -> bool:
        return ref.volume_id in self._files(ref)

    def volume_info(self, ref: types_volume_pb2.VolumeRef) -> types_volume_pb2.VolumeInfo:
        return self._volume_info(ref)

    def vm_info(self, vm_id: str) -> types_vm_pb2.VmInfo:
        return self._vm_info(vm_id)

    def runs(self, vm_id: str) -> bool:
        return self._runs(vm_id)

    def discard_part(self, ref: types_volume_pb2.VolumeRef) -> None:
        """Deletes what there is of a file that is not complete."""
        self.fleet.parts.discard((ref.pool_id, ref.volume_id))

    def undo_prepare(self, request: vm_pb2.PrepareMigrationRequest) -> None:
        """Deletes what was prepared for a VM, unless that has arrived."""
        spec = request.spec
        self.admitted.pop(spec.vm_id, None)
        if self._runs(spec.vm_id):
            return
        self.seeds.pop(spec.vm_id, None)
        moved = {volume.volume_id for volume in request.moved_volumes}
        for disk in spec.disks:
            if disk.volume.volume_id in moved:
                self._files(disk.volume).pop(disk.volume.volume_id, None)

    # -- inside

    def _put(self, ref: types_volume_pb2.VolumeRef, file: File) -> None:
        """Makes a volume: under another name, until it is complete."""
        part = (ref.pool_id, ref.volume_id)
        self.fleet.parts.add(part)
        self.life.point()
        self._files(ref)[ref.volume_id] = file
        self.fleet.parts.discard(part)
        self.life.point()

    def _job(self, method: str, kind: str, request: Any, context: grpc.ServicerContext, work: Any) -> Iterator[Any]:
        fault = self.faults.get(method)
        if fault is not None and not fault.only(request):
            fault = None
        if fault is not None:
            fault.times -= 1
            if fault.times <= 0:
                self.faults.pop(method)

        life = self.life.number
        recover = RECOVERIES.get(kind)
        self.life.knows(kind, partial(recover, self) if recover else None)

        def faulty(job: JobContext) -> Any:
            self.calls.append(method)
            if fault is not None and fault.forget_key:
                made = request.target if hasattr(request, "target") else request.volume
                made.ClearField("key")
            if fault is None:
                self.fleet.pace()
                with self.fleet.lock:
                    result = self.life.do(life, job, work, kind)
                self.fleet.pace()
                return result
            fault.reached.set()
            while fault.hold is not None and not fault.hold.wait(0.01):
                job.check()
            if fault.error is not None and fault.before:
                raise fault.error
            with self.fleet.lock:
                result = work(job)
            if fault.error is not None:
                raise fault.error
            return result

        with _errors(context):
            updates = self.life.jobs.run(request.operation, kind, request, faulty)
            for update in _while_alive(self.life, life, updates, context):
                if fault is not None and fault.cut:
                    fault.reached.wait(10)
                    context.abort(grpc.StatusCode.UNAVAILABLE, "the connection broke (a fault)")
                yield update

    def _place_seed(self, spec: types_vm_pb2.VmSpec) -> None:
        self.seeds.pop(spec.vm_id, None)
        if spec.HasField("seed"):
            self.seeds[spec.vm_id] = {file.name: file.content for file in spec.seed.files}

    def _files(self, ref: types_volume_pb2.VolumeRef) -> dict[str, File]:
        if ref.pool_id not in self.pools:
            raise NotFoundError(f"host {self.name} does not reach pool {ref.pool_id}", "POOL_NOT_FOUND")
        of_host = f"@{self.host_id}" if ref.pool_id in self.fleet.spools else ""
        return self.fleet.pools.setdefault(ref.pool_id + of_host, {})

    def _file(self, ref: types_volume_pb2.VolumeRef) -> File:
        if ref.HasField("remote"):
            return self._download(ref)
        file = self._files(ref).get(ref.volume_id)
        if file is None:
            raise NotFoundError(f"there is no volume {ref.volume_id}", "VOLUME_NOT_FOUND")
        return file

    def _download(self, ref: types_volume_pb2.VolumeRef) -> File:
        """What was sent to a store: its bytes are compared, and it is the file that they were made of."""
        with tempfile.TemporaryDirectory() as directory:
            remote = convert.remote_object(ref.remote, "remote")
            objects.get(remote, Path(directory, "file"), JobContext("download"))
            assert Path(directory, "file").read_bytes() == bytes_of(self.fleet.sent[ref.volume_id])
        return self.fleet.sent[ref.volume_id]

    def _check_key(self, file: File, ref: types_volume_pb2.VolumeRef) -> None:
        if file.passphrase != ref.key.passphrase and (not file.also or file.also != ref.key.passphrase):
            raise FailedPreconditionError("the key does not open the volume", "WRONG_KEY")
        if ref.key.key_id:
            self.secrets.add(ref.key.key_id)

    def _open(self, file: File, ref: types_volume_pb2.VolumeRef) -> None:
        if ref.key.passphrase not in {file.passphrase, file.also or file.passphrase}:
            raise FailedPreconditionError("the key does not open the volume", "WRONG_KEY")

    def _copy(
        self, source: types_volume_pb2.VolumeRef, target: types_volume_pb2.VolumeRef, size_bytes: int
    ) -> types_volume_pb2.VolumeInfo:
        file, files = self._file(source), self._files(target)
        self._open(file, source)
        if target.volume_id in files:
            raise FailedPreconditionError(f"volume {target.volume_id} exists", "VOLUME_EXISTS")
        key = target.key
        copy = File(size_bytes or file.size_bytes, target.format, key.passphrase, key.key_id, file.template_id)
        copy.content = file.content
        self._put(target, copy)
        return self._volume_info(target)

    def _save_memory(self, vm_id: str, target: types_volume_pb2.VolumeRef) -> types_volume_pb2.VolumeInfo:
        """What the guest has in its memory is, to this agent, which disks it has."""
        files, machine = self._files(target), self.vms[vm_id]
        if not machine.running:
            raise FailedPreconditionError(f"VM {vm_id} does not run", "VM_NOT_RUNNING")
        if target.volume_id in files:
            raise FailedPreconditionError(f"volume {target.volume_id} exists", "VOLUME_EXISTS")
        content = " ".join(self._file(disk.volume).content for disk in machine.spec.disks)
        files[target.volume_id] = File(
            machine.spec.memory_bytes, target.format, target.key.passphrase, target.key.key_id, content=content
        )
        return self._volume_info(target)

    def _memory_of(self, request: vm_pb2.StartVmRequest) -> str:
        file = self._file(request.memory)
        self._open(file, request.memory)
        if file.content != " ".join(self._file(disk.volume).content for disk in request.spec.disks):
            raise FailedPreconditionError("the memory is of other disks", "MEMORY_NOT_RESTORED")
        return file.content

    def _record(self, disk: volume_pb2.DiskCopy, record_id: str) -> job_pb2.CopiedPart:
        """As an agent does with dirty bitmaps, unless it is of an old release."""
        source, target = self._file(disk.source), self._file(disk.target)
        if self.old or source.format != types_volume_pb2.DISK_FORMAT_QCOW2:
            return job_pb2.CopiedPart(reason="not qcow2")
        target.record_id = record_id
        target.since = disk.since if disk.since in source.records else ""
        source.records = [target.since, record_id] if target.since else [record_id]
        return job_pb2.CopiedPart(increment=bool(target.since), reason="" if target.since else "no record")

    def _whole(self, layers: Sequence[types_volume_pb2.VolumeRef]) -> bytes:
        """The content of a disk whose file builds on others; "holes" without them."""
        files = [self._file(ref) for ref in layers]
        for file, ref in zip(files, layers, strict=True):
            self._open(file, ref)
        builds_on = [file.since for file in files]
        return files[0].content.encode() if builds_on == [*(file.record_id for file in files[1:]), ""] else b"holes"

    def _check_chain(self, source: types_volume_pb2.VolumeRef, request: volume_pb2.CopyVolumeRequest) -> None:
        """What is read without all that it builds on has holes."""
        file, parents = self._file(source), list(request.layers[1:])
        while file.since:
            ref = parents.pop(0) if parents else None
            if ref is None or self._file(ref).record_id != file.since:
                self._file(request.target).content = "holes"
                return
            file = self._file(ref)
            self._open(file, ref)
        assert not parents, "a full copy needs no others"

    def _disk(self, vm_id: str, ref: types_volume_pb2.VolumeRef) -> types_vm_pb2.DiskSpec:
        for disk in self._machine(vm_id).spec.disks:
            if disk.volume.volume_id == ref.volume_id:
                return disk
        raise FailedPreconditionError(f"VM {vm_id} does not use volume {ref.volume_id}", "VOLUME_NOT_ATTACHED")

    def _check_disks(self, spec: types_vm_pb2.VmSpec) -> None:
        for disk in spec.disks:
            self._check_key(self._file(disk.volume), disk.volume)
        if spec.HasField("tpm"):
            assert spec.tpm.key.passphrase, "a TPM without its key"
            self.secrets.add(spec.tpm.key.key_id)
            self._place_firmware_state(spec)
            if self.tpms[spec.vm_id].passphrase != spec.tpm.key.passphrase:
                raise FailedPreconditionError("the key does not open the state of the TPM", "WRONG_KEY")

    def _place_firmware_state(self, spec: types_vm_pb2.VmSpec) -> None:
        here, carried = self.tpms.get(spec.vm_id), spec.firmware_state
        if carried.tpm and (here is None or (carried.replace and here.copy_id != carried.id)):
            passphrase, _, content = carried.tpm.partition(b"|")
            self.tpms[spec.vm_id] = FakeTpm(passphrase, content, carried.id)
        self.tpms.setdefault(spec.vm_id, FakeTpm(spec.tpm.key.passphrase, b""))

    def _check_image_lock(self, vm_id: str) -> None:
        if self.fleet.image_locks and (where := [n for n in self.fleet.running_on(vm_id) if n != self.name]):
            self.fleet.refused_by_locks.add(vm_id)
            raise FailedPreconditionError(f"a QEMU on {where[0]} has the image open", "VOLUME_IN_USE")

    def _drop_secrets(self, spec: types_vm_pb2.VmSpec) -> None:
        self.secrets -= {disk.volume.key.key_id for disk in spec.disks} | {spec.tpm.key.key_id}

    def _volume_info(self, ref: types_volume_pb2.VolumeRef) -> types_volume_pb2.VolumeInfo:
        file = self._file(ref)
        luks, none = types_volume_pb2.ENCRYPT_FORMAT_LUKS, types_volume_pb2.ENCRYPT_FORMAT_NONE
        return types_volume_pb2.VolumeInfo(
            volume_id=ref.volume_id,
            pool_id=ref.pool_id,
            format=types_volume_pb2.DiskFormat.ValueType(file.format),
            encrypt_format=luks if file.passphrase else none,
            virtual_size_bytes=file.size_bytes,
        )

    def _machine(self, vm_id: str) -> Machine:
        if not self._runs(vm_id):
            raise FailedPreconditionError(f"VM {vm_id} does not run on {self.name}", "VM_NOT_RUNNING")
        return self.vms[vm_id]

    def _runs(self, vm_id: str) -> bool:
        return vm_id in self.vms and self.vms[vm_id].running

    def vm_infos(self) -> list[types_vm_pb2.VmInfo]:
        """All its VMs."""
        with self.fleet.lock:
            return [self._vm_info(vm_id) for vm_id in self.vms]

    def _vm_info(self, vm_id: str) -> types_vm_pb2.VmInfo:
        with self.fleet.lock:
            machine = self.vms.get(vm_id)
            state = ABSENT if machine is None else RUNNING if machine.running else STOPPED
            migrating = machine is not None and machine.migrating
            spec = machine.spec if machine else types_vm_pb2.VmSpec()
            return types_vm_pb2.VmInfo(
                vm_id=vm_id,
                power_state=state,
                managed=True,
                migrating=migrating,
                cpus=spec.cpus,
                memory_bytes=spec.memory_bytes,
                machine=(spec.machine or self.machine) if machine else "",
            )


def _without_keys(spec: types_vm_pb2.VmSpec) -> types_vm_pb2.VmSpec:
    kept = types_vm_pb2.VmSpec()
    kept.CopyFrom(spec)
    for disk in kept.disks:
        disk.volume.key.ClearField("passphrase")
    if kept.HasField("tpm"):
        kept.tpm.key.ClearField("passphrase")
    return kept


class _errors:
    """What the real server's interceptor does with an error."""

    def __init__(self, context: grpc.ServicerContext) -> None:
        self._context = context

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OstlerError):
            self._context.abort_with_status(rpc_status.to_status(to_status(error)))


def _send_all(connected: socket.socket, requests: Iterator[vm_pb2.ConsoleInput]) -> None:
    try:
        for request in requests:
            connected.sendall(request.data)
    except (grpc.RpcError, OSError):
        pass  # the call has ended


def _while_alive(
    life: Life, number: int, updates: Iterator[job_pb2.JobUpdate], context: grpc.ServicerContext
) -> Iterator[job_pb2.JobUpdate]:
    """What an agent says of a job until it dies."""
    for update in updates:
        if life.is_over(number):
            context.abort(grpc.StatusCode.UNAVAILABLE, "the agent died")
        yield update


class _JobErrors(JobService):
    """The JobService of an agent in one of its lives, with errors mapped as its server does."""

    def __init__(self, life: Life) -> None:
        super().__init__(life.jobs)
        self._life, self._number = life, life.number

    def WatchJob(self, request: Any, context: grpc.ServicerContext) -> Iterator[job_pb2.JobUpdate]:
        with _errors(context):
            yield from _while_alive(self._life, self._number, super().WatchJob(request, context), context)

    def GetJob(self, request: Any, context: grpc.ServicerContext) -> job_pb2.JobUpdate:
        with _errors(context):
            update = super().GetJob(request, context)
            return next(_while_alive(self._life, self._number, iter([update]), context))

    def CancelJob(self, request: Any, context: grpc.ServicerContext) -> Any:
        with _errors(context):
            return super().CancelJob(request, context)


def wait_until(condition: Any, timeout_s: float = 20.0) -> None:
    """Waits for something that another thread brings about."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)
