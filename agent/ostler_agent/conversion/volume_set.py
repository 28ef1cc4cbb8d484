"""Volumes that one job makes of a VM's disks: all of them appear, or none."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from ostler_agent.jobs import JobContext, interrupted
from ostler_agent.pools import Pools, Staging, already_exists
from ostler_agent.spec import Provisioning, VolumeInfo, VolumeRef
from ostler_agent.volumes.checks import check_free_space
from ostler_agent.volumes.images import created_by, header_of, info_of
from ostler_agent.volumes.locks import VolumeLocks

_WARNINGS, _ELAPSED = "warnings", "elapsed"  # facts by which a later life of the agent reports what was complete


@dataclass(frozen=True)
class ConversionReport:
    """What was made. volumes: in the order of the disks; warnings: virt-v2v's."""

    volumes: tuple[VolumeInfo, ...]
    elapsed_ms: int
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class VolumeSet:
    """The volumes of one job, which holds their locks."""

    pools: Pools
    targets: Sequence[VolumeRef]

    def made(self, facts: Mapping[str, str]) -> ConversionReport | None:
        """The report of an earlier attempt that made them all."""
        if not all(self.pools.created_by(target, facts) for target in self.targets):
            return None
        volumes = [created_by(self.pools, target, facts) for target in self.targets]
        return ConversionReport(tuple(volumes), int(facts[_ELAPSED]), tuple(json.loads(facts[_WARNINGS])))

    def check_target(self, target: VolumeRef, size_bytes: int, provisioning: Provisioning) -> None:
        """Raises AlreadyExistsError VOLUME_EXISTS, ResourceExhaustedError POOL_FULL."""
        if self.pools.exists(target):
            raise already_exists(target)
        if provisioning is Provisioning.THICK and size_bytes:
            check_free_space(self.pools, target, size_bytes)

    def commit(
        self, job: JobContext, staged: Sequence[Staging], started: float, warnings: tuple[str, ...] = ()
    ) -> ConversionReport:
        """Gives all the volumes their names, or none of them. started: of the job, by `time.monotonic`."""
        volumes = [info_of(ref, header_of(ref, place.path)) for ref, place in zip(self.targets, staged, strict=True)]
        report = ConversionReport(tuple(volumes), round(1000 * (time.monotonic() - started)), warnings)
        job.remember(**{_WARNINGS: json.dumps(warnings), _ELAPSED: str(report.elapsed_ms)})
        with ExitStack() as undo:
            for target, place in zip(self.targets, staged, strict=True):
                place.commit()
                undo.callback(self.pools.delete, target)
            undo.pop_all()
        return report


def recover(
    pools: Pools, locks: VolumeLocks, targets: Sequence[VolumeRef], facts: Mapping[str, str]
) -> ConversionReport:
    """Finishes a job that was running when the agent died.

    Returns its report if all the volumes are there, else undoes it and raises UnavailableError INTERRUPTED.
    """
    with locks.exclusive(*targets):
        for target in targets:
            pools.discard(target)
        report = VolumeSet(pools, targets).made(facts)
        if report is not None:
            return report
        for target in targets:
            if pools.created_by(target, facts):
                pools.delete(target)
    raise interrupted()


@dataclass(frozen=True)
class CopyProgress:
    """Progress over several disks. sizes: of the disks, bytes; percent: of the whole when all of them are copied."""

    job: JobContext
    sizes: Sequence[int]
    percent: int

    def of_disk(self, number: int) -> Callable[[float], None]:
        """What is told the percentage of one disk."""
        before, total = sum(self.sizes[:number]), sum(self.sizes)
        phase = f"copying disk {number + 1} of {len(self.sizes)}"

        def report(percent: float) -> None:
            done = before + int(self.sizes[number] * percent / 100)
            self.job.report(phase, done, total, percent=self.percent * done // max(1, total))

        return report
