"""Copying areas of a disk."""

from __future__ import annotations

import threading
from typing import cast

from ostler.types.v1 import volume_pb2
from ostler_control.imports.disk_copy import _ZERO_BYTES, DiskCopy, _Stream
from ostler_control.vmware.folder import DiskReader

NEVER = -1.0


def test_zeros_that_the_host_accepts_are_progress() -> None:
    """A disk that is mostly empty is no host that takes nothing more."""
    copy = DiskCopy((), 3 * _ZERO_BYTES, full=True, target=volume_pb2.VolumeRef())
    stream = _Stream(copy, cast("DiskReader", None), threading.Event(), lambda count: None)
    pieces = stream._pieces()
    assert next(pieces).HasField("begin")
    for _ in range(3):
        stream._last = NEVER
        assert next(pieces).HasField("zero")
        assert stream._last != NEVER
    assert next(pieces).HasField("end")
