"""Checks before the first side effect."""

from __future__ import annotations

from ostler_common.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    bad_field,
)
from ostler_common.image_header import SECTOR_BYTES

from ostler_agent.image_header import ImageHeader
from ostler_agent.pools import Pools
from ostler_agent.spec import Key, VolumeRef

MAX_SIZE_BYTES = 1 << 50
_LUKS_HEADER_BYTES = 4 << 20


def check_size(size_bytes: int) -> None:
    """Raises InvalidArgumentError."""
    if not 0 < size_bytes <= MAX_SIZE_BYTES or size_bytes % SECTOR_BYTES:
        raise bad_field("size_bytes", f"must be a positive multiple of {SECTOR_BYTES}, at most {MAX_SIZE_BYTES}")


def check_passphrase_given(key: Key | None, field: str = "volume.key") -> None:
    """Raises InvalidArgumentError (KEY_MISSING) for a key without its passphrase. field: where it was given."""
    if key and not key.passphrase:
        raise bad_field(f"{field}.passphrase", "is required for an encrypted volume", "KEY_MISSING")


def check_key_matches(ref: VolumeRef, header: ImageHeader) -> None:
    """Raises InvalidArgumentError (KEY_MISSING), FailedPreconditionError (NOT_ENCRYPTED)."""
    if header.encrypted and not ref.key:
        raise bad_field("volume.key", "is required: the volume is encrypted", "KEY_MISSING")
    if ref.key and not header.encrypted:
        raise FailedPreconditionError(
            f"volume {ref.volume_id} is not encrypted, but a key was given", "NOT_ENCRYPTED", {"volume": ref.volume_id}
        )


def check_grows(ref: VolumeRef, old_bytes: int, new_bytes: int) -> None:
    """Raises InvalidArgumentError (SHRINK_REFUSED)."""
    if new_bytes < old_bytes:
        raise InvalidArgumentError(
            f"volume {ref.volume_id} has {old_bytes} bytes and cannot shrink: its data would be cut off",
            "SHRINK_REFUSED",
            {"volume": ref.volume_id, "size_bytes": str(old_bytes)},
        )


def check_free_space(pools: Pools, ref: VolumeRef, size_bytes: int) -> None:
    """Raises ResourceExhaustedError (POOL_FULL) if the pool lacks that many bytes plus the format's metadata."""
    pools.check_free_space(ref.pool_id, size_bytes + size_bytes // 4096 + _LUKS_HEADER_BYTES)


def check_same_size(target: VolumeRef, size_bytes: int, target_bytes: int) -> None:
    """Raises FailedPreconditionError (SIZE_DIFFERS): a running disk can be copied only to one of exactly its size.

    A raw volume of an array is as large as the array makes it.
    """
    if target_bytes != size_bytes:
        raise FailedPreconditionError(
            f"volume {target.volume_id} would have {target_bytes} bytes in its pool, but the running disk has "
            f"{size_bytes} (stop the VM first, grow the disk to that size, or choose the format qcow2)",
            "SIZE_DIFFERS",
            {"size_bytes": str(target_bytes)},
        )
