"""Volumes made of staged disks: copied into the pool under their keys, then, if wanted, made to boot here."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from ostler_agent.conversion.deadline import deadline
from ostler_agent.conversion.disks import SourceDisk, check_disks, copy_disk, inspect_disk
from ostler_agent.conversion.guest import check_arguments
from ostler_agent.conversion.guest_conversion import FIRST_PERCENT, GuestConverter, GuestOptions
from ostler_agent.conversion.staging import StagingDirectories, StagingRef
from ostler_agent.jobs import JobContext, interrupted
from ostler_agent.pools import Pools, Staging, already_exists
from ostler_agent.spec import Provisioning, VolumeInfo, VolumeRef
from ostler_agent.volumes.checks import check_free_space
from ostler_agent.volumes.images import created_by, header_of, info_of
from ostler_agent.volumes.locks import VolumeLocks

_WARNINGS, _ELAPSED = "warnings", "elapsed"  # facts by which a later life of the agent reports what was complete


@dataclass(frozen=True)
class ConversionReport:
    """What a conversion made. volumes: in the order of the disks; warnings: virt-v2v's."""

    volumes: tuple[VolumeInfo, ...]
    elapsed_ms: int
    warnings: tuple[str, ...] = ()


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
            if self._are_made(targets, job.facts):
                return self._report(targets, job.facts)
            for disk in disks:
                self._check_target(disk)
            job.report("inspecting disks")
            images = [inspect_disk(job, directory, disk) for disk in disks]
            progress = _CopyProgress(
                job, [image.virtual_size_bytes for image in images], FIRST_PERCENT if options else 99
            )
            with ExitStack() as stack:
                staged: list[Staging] = []
                for disk, image in zip(disks, images, strict=True):
                    size_bytes = max(disk.size_bytes, image.virtual_size_bytes)
                    place = stack.enter_context(self._pools.staging(disk.target, size_bytes, job, disk.provisioning))
                    copy_disk(job, directory, disk, image, place.path, progress.of_disk(len(staged)))
                    staged.append(place)
                paths = [place.path for place in staged]
                warnings: tuple[str, ...] = ()
                if options:
                    warnings = self._guest_converter.convert(job, disks, paths, options)
                volumes = [info_of(ref, header_of(ref, path)) for ref, path in zip(targets, paths, strict=True)]
                report = ConversionReport(tuple(volumes), round(1000 * (time.monotonic() - started)), warnings)
                job.remember(**{_WARNINGS: json.dumps(warnings), _ELAPSED: str(report.elapsed_ms)})
                self._commit(targets, staged)
        return report

    def recover(self, targets: Sequence[VolumeRef], facts: Mapping[str, str]) -> ConversionReport:
        """Finishes a `convert` that was running when the agent died.

        Returns its report if all the volumes are there, else undoes it and raises UnavailableError (INTERRUPTED).
        """
        with self._locks.exclusive(*targets):
            for target in targets:
                self._pools.discard(target)
            if self._are_made(targets, facts):
                return self._report(targets, facts)
            for target in targets:
                if self._pools.created_by(target, facts):
                    self._pools.delete(target)
        raise interrupted()

    def _check_target(self, disk: SourceDisk) -> None:
        if self._pools.exists(disk.target):
            raise already_exists(disk.target)
        if disk.provisioning is Provisioning.THICK and disk.size_bytes:
            check_free_space(self._pools, disk.target, disk.size_bytes)

    def _are_made(self, targets: Sequence[VolumeRef], facts: Mapping[str, str]) -> bool:
        return all(self._pools.created_by(target, facts) for target in targets)

    def _report(self, targets: Sequence[VolumeRef], facts: Mapping[str, str]) -> ConversionReport:
        volumes = [created_by(self._pools, target, facts) for target in targets]
        return ConversionReport(tuple(volumes), int(facts[_ELAPSED]), tuple(json.loads(facts[_WARNINGS])))

    def _commit(self, targets: Sequence[VolumeRef], staged: Sequence[Staging]) -> None:
        """Gives all the volumes their names, or none of them."""
        with ExitStack() as undo:
            for target, place in zip(targets, staged, strict=True):
                place.commit()
                undo.callback(self._pools.delete, target)
            undo.pop_all()


class _CopyProgress:
    """Progress over several disks. sizes: of the disks, bytes; percent: of the whole when all of them are copied."""

    def __init__(self, job: JobContext, sizes: Sequence[int], percent: int) -> None:
        self._job = job
        self._sizes = sizes
        self._percent = percent

    def of_disk(self, number: int) -> Callable[[float], None]:
        before, total = sum(self._sizes[:number]), sum(self._sizes)
        phase = f"copying disk {number + 1} of {len(self._sizes)}"

        def report(percent: float) -> None:
            done = before + int(self._sizes[number] * percent / 100)
            self._job.report(phase, done, total, percent=self._percent * done // max(1, total))

        return report
