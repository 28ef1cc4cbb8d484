"""What the copies of running VMs' disks are as good as, from the words of their hosts."""

from __future__ import annotations

from ostler.types.v1 import volume_pb2
from ostler_common.guest_info import clean_text

_WORDS = {volume_pb2.CONSISTENCY_CRASH: "crash", volume_pb2.CONSISTENCY_APPLICATION: "application"}


def recorded(info: volume_pb2.VolumeInfo) -> dict[str, str]:
    """The fields of a row; none if the VM did not run, or it is not known."""
    if not info.consistency:
        return {}
    return {
        "consistency": _WORDS.get(info.consistency, "crash"),
        "reason": clean_text(info.consistency_reason),
    }
