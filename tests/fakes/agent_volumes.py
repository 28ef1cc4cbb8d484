"""The calls about volumes."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator

import grpc
from ostler.agent.v1 import (
    volume_pb2,
)
from ostler.types.v1 import backup_file_pb2, job_pb2
from ostler.types.v1 import volume_pb2 as types_volume_pb2
from ostler_agent.jobs import JobContext
from ostler_agent.pools import objects
from ostler_common import object_store
from ostler_common.errors import FailedPreconditionError
from ostler_common.secret import Secret

from tests.fakes.agent_machines import AgentMachines
from tests.fakes.faults import Errors
from tests.fakes.files import File, bytes_of


class VolumeCalls(AgentMachines):
    """As VolumeService has them."""

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
        with Errors(context):
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
        with Errors(context):
            if request.direct.url not in self.web:
                raise FailedPreconditionError(f"{request.direct.url}: the server answers 404", "DOWNLOAD_REFUSED")
            size_bytes, head = self.web[request.direct.url]
            return volume_pb2.InspectTemplateResponse(file_size_bytes=size_bytes, head=head)

    def InspectFile(
        self, request: volume_pb2.InspectFileRequest, context: grpc.ServicerContext
    ) -> types_volume_pb2.VolumeInfo:
        with Errors(context):
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
        with Errors(context):
            whole = bytes_of(self._file(request.volume))
            rest = whole[request.offset :]
            yield volume_pb2.ReadVolumeResponse(file_size_bytes=len(whole))
            yield volume_pb2.ReadVolumeResponse(data=rest[:10])
            yield volume_pb2.ReadVolumeResponse(data=rest[10:])

    def ReadBackupFiles(
        self, request: volume_pb2.ReadBackupFilesRequest, context: grpc.ServicerContext
    ) -> Iterator[volume_pb2.ReadBackupFilesResponse]:
        """Each disk is a file system with one file, whose content is the disk's."""
        with Errors(context):
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
