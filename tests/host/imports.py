"""An agent's imports over real tools: staging, conversions, and what they must not leave behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ostler.agent.v1 import conversion_pb2
from ostler.types.v1 import job_pb2
from ostler_agent.conversion import (
    Conversions,
    DiskWrites,
    GuestConverter,
    InPlaceConversions,
    StagingDirectories,
    StagingRef,
)
from ostler_agent.services.conversion import ConversionService
from ostler_agent.spec import VolumeRef

from tests.host.conftest import Storage, wire

CACHE = Path("/var/cache/ostler")  # as the agent's: the appliance is built once for a machine


class Imports:
    """The conversion service of an agent whose storage this is, with one staging directory in its pool."""

    def __init__(self, storage: Storage, staging_id: str = "") -> None:
        self.storage = storage
        self.staging = StagingDirectories(storage.pools)
        self.ref = StagingRef(storage.pool_id, staging_id or str(uuid.uuid4()))
        self.work_dir = storage.root / "conversion"
        converter = GuestConverter(self.work_dir, CACHE, storage.root / "virtio-win", lambda: True)
        converter.clear()
        self.staging.create(self.ref)
        conversions = Conversions(storage.pools, self.staging, storage.volumes.locks, converter)
        shared = (storage.pools, storage.guests, storage.volumes.locks)
        writes, in_place = DiskWrites(*shared, self.work_dir), InPlaceConversions(*shared, converter)
        self.service = ConversionService(storage.jobs, self.staging, conversions, writes, in_place)

    @property
    def directory(self) -> Path:
        """The staging directory."""
        return self.storage.pool / f".staging.{self.ref.staging_id}"

    @property
    def wire_ref(self) -> conversion_pb2.StagingRef:
        return conversion_pb2.StagingRef(pool_id=self.ref.pool_id, staging_id=self.ref.staging_id)

    def request(
        self,
        *disks: conversion_pb2.SourceDisk,
        mode: int = conversion_pb2.ConvertVmRequest.CONVERT,
        timeout_s: int = 60,
    ) -> conversion_pb2.ConvertVmRequest:
        return conversion_pb2.ConvertVmRequest(
            operation=job_pb2.OperationRef(id=f"convert.{uuid.uuid4()}", attempt=1),
            staging=self.wire_ref,
            disks=disks,
            mode=mode,  # type: ignore[arg-type]
            timeout_s=timeout_s,
        )

    def convert(self, request: conversion_pb2.ConvertVmRequest) -> job_pb2.JobUpdate:
        """Runs a conversion to its end."""
        *_, last = self.service.ConvertVm(request, None)  # type: ignore[arg-type]
        return last

    def leftovers(self, staged: set[str]) -> list[str]:
        """What is there beside the staged files and whole volumes: drafts, work files, mounts, processes."""
        drafts = [name for name in self.storage.files() if name.startswith(".") and name != self.directory.name]
        work = [str(path) for path in self.work_dir.rglob("*")]
        mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(self.work_dir) in line]
        others = [path.name for path in self.directory.iterdir() if path.name not in staged]
        return [*drafts, *work, *mounts, *others, *processes(str(self.storage.root))]


def source_disk(
    name: str, target: VolumeRef, format: int = conversion_pb2.SOURCE_FORMAT_RAW, key: str = "2000"
) -> conversion_pb2.SourceDisk:
    return conversion_pb2.SourceDisk(key=key, name=name, format=format, target=wire(target))  # type: ignore[arg-type]


def processes(text: str) -> list[str]:
    """Command lines of processes, other than Python's, that hold a text."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in command and "python" not in command:
            found.append(command)
    return found


@contextmanager
def program(name: str, script: str) -> Iterator[Path]:
    """A directory with a shell script in it, outside /tmp: a conversion sees another /tmp."""
    directory = Path(tempfile.mkdtemp(prefix="fake.", dir="/var/tmp"))
    try:
        path = directory / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        yield directory
    finally:
        shutil.rmtree(directory)


def guestfish(disk: Path, script: Sequence[str]) -> None:
    """Runs commands of guestfish on a raw image."""
    environment = {
        **os.environ,
        "LIBGUESTFS_BACKEND": "direct",
        "LIBGUESTFS_BACKEND_SETTINGS": "force_tcg",
        "LIBGUESTFS_CACHEDIR": str(CACHE),
    }
    CACHE.mkdir(mode=0o700, parents=True, exist_ok=True)
    command = ["guestfish", "--format=raw", "-a", str(disk)]
    subprocess.run(command, input="\n".join(script).encode(), env=environment, timeout=300, check=True)
