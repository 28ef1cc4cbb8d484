"""The descriptor in the beginning of an OVA archive. Pure."""

from __future__ import annotations

import io

from ostler_common import ova
from ostler_common.errors import FailedPreconditionError


def find_descriptor(head: bytes) -> bytes:
    """The OVF descriptor, which DSP0243 puts first. head: the beginning of the archive.

    Raises FailedPreconditionError: NOT_AN_OVA, OVA_UNSAFE, OVF_TOO_LARGE when it is not all within the head.
    """
    reader = ova.Reader(io.BytesIO(head).read)
    member = next(reader.members(), None)
    if member is None or not member.name.lower().endswith(".ovf"):
        raise FailedPreconditionError("the archive does not begin with an OVF descriptor", "NOT_AN_OVA")
    if member.offset + member.size_bytes > len(head):
        raise FailedPreconditionError(
            f"the archive's descriptor is not within its first {len(head) >> 10} KiB; download it and import the file",
            "OVF_TOO_LARGE",
        )
    return ova.read_small(reader, member, len(head))
