"""Records what a conversion made of a VM's disks."""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from ostler.types.v1 import job_pb2

from ostler_control.database import transaction
from ostler_control.imports.record import ImportInputs
from ostler_control.models import Volume, VolumeState
from ostler_control.operations import Run
from ostler_control.volumes import wire

log = structlog.get_logger(__name__)


def record_made(run: Run, inputs: ImportInputs, volumes: Sequence[Volume], report: job_pb2.ConversionReport) -> None:
    """Inside a step: the volumes are ready. Raises InternalError ENCRYPTION_MISSING."""
    for warning in report.warnings:
        log.info("a warning of virt-v2v", operation=run.id, warning=warning)
    made = {disk.key: disk.volume for disk in report.disks}
    with transaction():
        for disk, volume in zip(inputs.disks, volumes, strict=True):
            info = made[str(disk.key)]
            found = wire.encrypt_format(volume, info)
            size_bytes = max(volume.size_bytes, info.virtual_size_bytes)
            Volume.update(state=VolumeState.READY, state_reason="", encrypt_format=found, size_bytes=size_bytes).where(
                Volume.id == volume.id
            ).execute()
