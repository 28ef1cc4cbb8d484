"""Field masks of updates (AIP-134)."""

from __future__ import annotations

from collections.abc import Collection

from google.protobuf.field_mask_pb2 import FieldMask
from ostler_common.errors import bad_field


def paths(mask: FieldMask, allowed: Collection[str]) -> frozenset[str]:
    """The fields to change; raises InvalidArgumentError for none, or for one that cannot be changed."""
    known = ", ".join(sorted(allowed))
    if not mask.paths:
        raise bad_field("update_mask", f"names no field; allowed fields: {known}", reason="INVALID_UPDATE_MASK")
    unknown = sorted(set(mask.paths) - set(allowed))
    if unknown:
        raise bad_field(
            "update_mask",
            f"{', '.join(unknown)} cannot be changed; allowed fields: {known}",
            reason="INVALID_UPDATE_MASK",
        )
    return frozenset(mask.paths)
