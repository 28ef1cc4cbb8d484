"""The files that an agent in memory reaches."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from ostler.agent.v1 import (
    volume_pb2,
)
from ostler.types.v1 import job_pb2
from ostler.types.v1 import volume_pb2 as types_volume_pb2
from ostler_agent.jobs import JobContext
from ostler_agent.pools import objects
from ostler_agent.services import convert
from ostler_common.errors import FailedPreconditionError, NotFoundError, ResourceExhaustedError

from tests.fakes.agent_base import AgentBase
from tests.fakes.files import File, bytes_of


class AgentFiles(AgentBase):
    """Makes, opens and copies them."""

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

    def _open(self, file: File, ref: types_volume_pb2.VolumeRef) -> None:
        if ref.key.passphrase not in {file.passphrase, file.also or file.passphrase}:
            raise FailedPreconditionError("the key does not open the volume", "WRONG_KEY")

    def _check_key(self, file: File, ref: types_volume_pb2.VolumeRef) -> None:
        if file.passphrase != ref.key.passphrase and (not file.also or file.also != ref.key.passphrase):
            raise FailedPreconditionError("the key does not open the volume", "WRONG_KEY")
        if ref.key.key_id:
            self.secrets.add(ref.key.key_id)

    def _put(self, ref: types_volume_pb2.VolumeRef, file: File) -> None:
        """Makes a volume: under another name, until it is complete."""
        if ref.pool_id in self.fleet.full:
            raise ResourceExhaustedError(f"pool {ref.pool_id} has no space left", "POOL_FULL")
        part = (ref.pool_id, ref.volume_id)
        self.fleet.parts.add(part)
        self.life.point()
        self._files(ref)[ref.volume_id] = file
        self.fleet.parts.discard(part)
        self.life.point()

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

    def discard_part(self, ref: types_volume_pb2.VolumeRef) -> None:
        """Deletes what there is of a file that is not complete."""
        self.fleet.parts.discard((ref.pool_id, ref.volume_id))

    def has_volume(self, ref: types_volume_pb2.VolumeRef) -> bool:
        return ref.volume_id in self._files(ref)

    def volume_info(self, ref: types_volume_pb2.VolumeRef) -> types_volume_pb2.VolumeInfo:
        return self._volume_info(ref)

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
