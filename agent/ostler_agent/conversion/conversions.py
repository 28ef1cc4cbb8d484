"""Volumes made of staged disks: copied into the pool under their keys, then, if wanted, made to boot here."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from ostler_agent.conversion.deadline import deadline
from ostler_agent.conversion.disks import SourceDisk, check_disks, copy_disk, inspect_disk
from ostler_agent.conversion.guest import check_arguments
from ostler_agent.conversion.guest_conversion import FIRST_PERCENT, GuestConverter, GuestOptions
from ostler_agent.conversion.staging import StagingDirectories, StagingRef
from ostler_agent.conversion.volume_set import ConversionReport, CopyProgress, VolumeSet, recover
from ostler_agent.jobs import JobContext
from ostler_agent.pools import Pools, Staging
from ostler_agent.spec import VolumeRef
from ostler_agent.volumes.locks import VolumeLocks


class Conversions:
    """Makes volumes of staged disks; safe to use from many threads. locks: those of `volumes.Volumes`."""

    def __init__(
        self, pools: Pools, staging: StagingDirectories, locks: VolumeLocks, guest_converter: GuestConverter
    ) -> None:
        self._pools = pools
        self._staging = staging
        self._locks = locks
        self._guest_converter = guest_converter

    def convert(
        self,
        job: JobContext,
        staging: StagingRef,
        disks: Sequence[SourceDisk],
        options: GuestOptions | None,
        timeout_s: float,
    ) -> ConversionReport:
        """Makes all the volumes, or none. options None: the disks are copied as they are.

        Raises InvalidArgumentError (INVALID_FIELD, KEY_MISSING, ARGUMENT_REFUSED, SOURCE_LARGER); AlreadyExistsError
        (VOLUME_EXISTS); FailedPreconditionError (NOT_AN_IMAGE, BACKING_FILE_REFUSED, FILE_CORRUPT, WRONG_KEY,
        NOT_ENCRYPTED, DISK_UNREADABLE); ResourceExhaustedError (POOL_FULL); AbortedError (VOLUME_BUSY, STAGING_BUSY);
        DeadlineExceededError (CONVERSION_TIMEOUT); NotFoundError (STAGING_NOT_FOUND, POOL_NOT_FOUND); what
        `GuestConverter.convert` raises. Whatever it raises, nothing is left.
        """
        check_disks(disks)
        check_arguments(options.arguments if options else ())
        started = time.monotonic()
        targets = [disk.target for disk in disks]
        with (
            self._locks.exclusive(*targets),
            self._staging.using(staging) as directory,
            deadline(job, timeout_s, "conversion"),
        ):
            volumes = VolumeSet(self._pools, targets)
            earlier = volumes.made(job.facts)
            if earlier is not None:
                return earlier
            for disk in disks:
                volumes.check_target(disk.target, disk.size_bytes, disk.provisioning)
            job.report("inspecting disks")
            images = [inspect_disk(job, directory, disk) for disk in disks]
            progress = CopyProgress(
                job, [image.virtual_size_bytes for image in images], FIRST_PERCENT if options else 99
            )
            with ExitStack() as stack:
                staged: list[Staging] = []
                for disk, image in zip(disks, images, strict=True):
                    size_bytes = max(disk.size_bytes, image.virtual_size_bytes)
                    place = stack.enter_context(self._pools.staging(disk.target, size_bytes, job, disk.provisioning))
                    copy_disk(job, directory, disk, image, place.path, progress.of_disk(len(staged)))
                    staged.append(place)
                warnings: tuple[str, ...] = ()
                if options:
                    paths = [place.path for place in staged]
                    warnings = self._guest_converter.convert(job, disks, paths, options)
                return volumes.commit(job, staged, started, warnings)

    def recover(self, targets: Sequence[VolumeRef], facts: Mapping[str, str]) -> ConversionReport:
        """Finishes a `convert` that was running when the agent died.

        Returns its report if all the volumes are there, else undoes it and raises UnavailableError (INTERRUPTED).
        """
        return recover(self._pools, self._locks, targets, facts)
