"""Adds and removes keys of a volume that is not in use. The data and its master key do not change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ostler_common.errors import FailedPreconditionError, InternalError, bad_field

from ostler_agent.image_header import ImageHeader
from ostler_agent.image_lock import check_not_locked
from ostler_agent.jobs import JobContext
from ostler_agent.pools import Pools
from ostler_agent.spec import Key, VolumeInfo, VolumeRef
from ostler_agent.tools import qemu_img
from ostler_agent.volumes.checks import check_key_matches, check_passphrase_given
from ostler_agent.volumes.images import header_of, info_of
from ostler_agent.volumes.locks import VolumeLocks
from ostler_agent.volumes.runtime import VmRuntime, check_unused


class VolumeKeys:
    """Changes keys of volumes; part of `volumes.Volumes`."""

    def __init__(self, pools: Pools, runtime: VmRuntime, busy: VolumeLocks) -> None:
        self._pools = pools
        self._runtime = runtime
        self._locks = busy

    def add(self, job: JobContext, ref: VolumeRef, new_key: Key) -> VolumeInfo:
        """Adds new_key to a volume. Idempotent.

        Raises InvalidArgumentError (KEY_MISSING); NotFoundError (VOLUME_NOT_FOUND); FailedPreconditionError
        (NOT_ENCRYPTED, WRONG_KEY, VOLUME_IN_USE; KEY_SLOTS_FULL: LUKS1 has eight slots).
        """
        key = _given(ref)
        check_passphrase_given(new_key, "new_key")
        with self._stopped(ref) as (path, header):
            qemu_img.check_key(path, ref.format, key)
            if not _opens(path, ref, new_key):
                job.report("adding key")
                qemu_img.add_key(path, ref.format, key, new_key, cancel=job)
            return info_of(ref, header)

    def remove(self, job: JobContext, ref: VolumeRef, old_key: Key) -> VolumeInfo:
        """Removes old_key from a volume after verifying its other key. Idempotent.

        An old copy of the volume's header can still be opened with the old passphrase: only a copy of the volume under
        a new master key prevents that. Raises what `add` raises; InvalidArgumentError (INVALID_FIELD) if both
        passphrases are the same.
        """
        key = _given(ref)
        check_passphrase_given(old_key, "old_key")
        if key.passphrase == old_key.passphrase:
            raise bad_field("old_key.passphrase", "is the passphrase that stays")
        with self._stopped(ref) as (path, header):
            qemu_img.check_key(path, ref.format, key)
            if _opens(path, ref, old_key):
                job.report("removing key")
                qemu_img.remove_key(path, ref.format, key, old_key, cancel=job)
                if _opens(path, ref, old_key):
                    raise InternalError(f"the old key still opens volume {ref.volume_id}", "KEY_NOT_REMOVED")
                qemu_img.check_key(path, ref.format, key)
            return info_of(ref, header)

    @contextmanager
    def _stopped(self, ref: VolumeRef) -> Iterator[tuple[Path, ImageHeader]]:
        """Locks a volume and checks that nothing uses it; yields its path and header."""
        with self._locks.exclusive(ref), self._pools.hold(ref) as path:
            header = header_of(ref, path)
            check_key_matches(ref, header)
            check_unused(self._runtime, ref)
            check_not_locked(path)
            yield path, header


def _given(ref: VolumeRef) -> Key:
    if ref.key is None:
        raise bad_field("volume.key", "is required: a key that opens the volume", "KEY_MISSING")
    check_passphrase_given(ref.key)
    return ref.key


def _opens(path: Path, ref: VolumeRef, key: Key) -> bool:
    try:
        qemu_img.check_key(path, ref.format, key)
    except FailedPreconditionError as error:
        if error.reason == "WRONG_KEY":
            return False
        raise
    return True
