"""Has a guest boot here whose disks are volumes already."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from ostler_common.errors import bad_field

from ostler_agent.conversion.deadline import deadline
from ostler_agent.conversion.disks import MAX_DISKS
from ostler_agent.conversion.guest import check_arguments
from ostler_agent.conversion.guest_conversion import GuestConverter, GuestOptions
from ostler_agent.conversion.volume_set import ConversionReport
from ostler_agent.image_lock import check_not_locked
from ostler_agent.jobs import JobContext, interrupted
from ostler_agent.pools import Pools
from ostler_agent.spec import Provisioning, VolumeRef
from ostler_agent.volumes.checks import check_key_matches, check_passphrase_given
from ostler_agent.volumes.images import header_of, info_of, inspect
from ostler_agent.volumes.locks import VolumeLocks
from ostler_agent.volumes.runtime import VmRuntime, check_unused

_KEY = re.compile(r"[\x20-\x7e]{1,64}")
_WARNINGS, _ELAPSED = "warnings", "elapsed"  # facts by which a later life of the agent reports what was complete
_BEGUN = "begun"  # a fact of a job whose volumes may have been changed


@dataclass(frozen=True)
class GuestVolume:
    """A volume with a disk of a guest. key: how the caller knows it."""

    key: str
    target: VolumeRef
    provisioning: Provisioning = Provisioning.THIN


@dataclass(frozen=True)
class InPlaceConversions:
    """Converts guests in the volumes themselves. locks: those of `volumes.Volumes`."""

    pools: Pools
    runtime: VmRuntime
    locks: VolumeLocks
    guest_converter: GuestConverter

    def convert(
        self, job: JobContext, disks: Sequence[GuestVolume], options: GuestOptions, timeout_s: float
    ) -> ConversionReport:
        """Runs virt-v2v on the volumes. When it raises, they are of no use until all of them are written anew.

        A job that was interrupted does not run again, for the guest may be half converted: UnavailableError
        (INTERRUPTED).
        Raises InvalidArgumentError (INVALID_FIELD, KEY_MISSING, ARGUMENT_REFUSED); FailedPreconditionError
        (VOLUME_IN_USE, NOT_ENCRYPTED); NotFoundError (VOLUME_NOT_FOUND); AbortedError (VOLUME_BUSY);
        DeadlineExceededError (CONVERSION_TIMEOUT); what `GuestConverter.convert` raises.
        """
        _check(disks)
        check_arguments(options.arguments)
        started = time.monotonic()
        refs = [disk.target for disk in disks]
        with ExitStack() as stack:
            stack.enter_context(self.locks.exclusive(*refs))
            paths = [stack.enter_context(self.pools.hold(ref)) for ref in refs]
            for ref, path in zip(refs, paths, strict=True):
                check_unused(self.runtime, ref)
                check_not_locked(path)
                check_key_matches(ref, header_of(ref, path))
            if _BEGUN in job.facts:
                return self.recover(refs, job.facts)
            job.remember(**{_BEGUN: "1"})
            stack.enter_context(deadline(job, timeout_s, "conversion"))
            warnings = self.guest_converter.convert(job, disks, paths, options)
            volumes = tuple(info_of(ref, header_of(ref, path)) for ref, path in zip(refs, paths, strict=True))
            report = ConversionReport(volumes, round(1000 * (time.monotonic() - started)), warnings)
            job.remember(**{_WARNINGS: json.dumps(warnings), _ELAPSED: str(report.elapsed_ms)})
        return report

    def recover(self, refs: Sequence[VolumeRef], facts: Mapping[str, str]) -> ConversionReport:
        """Reports a `convert` that was complete when the agent died; else raises UnavailableError (INTERRUPTED)."""
        if _ELAPSED not in facts:
            raise interrupted()
        volumes = tuple(inspect(self.pools, ref) for ref in refs)
        return ConversionReport(volumes, int(facts[_ELAPSED]), tuple(json.loads(facts[_WARNINGS])))


def _check(disks: Sequence[GuestVolume]) -> None:
    if not 1 <= len(disks) <= MAX_DISKS:
        raise bad_field("disks", f"must be 1 to {MAX_DISKS}")
    for number, disk in enumerate(disks):
        if not _KEY.fullmatch(disk.key):
            raise bad_field(f"disks[{number}].key", "must be 1 to 64 printable ASCII characters")
        check_passphrase_given(disk.target.key, f"disks[{number}].volume.key")
    for name, values in (("key", [d.key for d in disks]), ("volume", [d.target.volume_id for d in disks])):
        if len(set(values)) < len(disks):
            raise bad_field("disks", f"must differ in {name}")
