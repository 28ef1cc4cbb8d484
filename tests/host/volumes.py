"""Volumes for host tests: images with known data, and what to expect of them."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ostler_agent.spec import DiskFormat, Key, Provisioning, VolumeRef
from ostler_common.errors import OstlerError

from tests.host.conftest import Storage

MIB = 1 << 20


MARKER = b"the guest's secret words, in clear, "


QCOW2, RAW = DiskFormat.QCOW2, DiskFormat.RAW


THIN, SPARSE, THICK = Provisioning.THIN, Provisioning.SPARSE, Provisioning.THICK


def reason(call: Callable[[], object]) -> str:
    with pytest.raises(OstlerError) as caught:
        call()
    return caught.value.reason


def image(size: int = 4 * MIB) -> bytes:
    """A template with recognizable data, zeros in the middle, and data to the end."""
    data = (MARKER * (size // 4 // len(MARKER) + 1))[: size // 4]
    return data + bytes(size // 2) + data


Images = dict[DiskFormat, tuple[Key, Path]]


def encrypted(storage: Storage, images: Images, disk_format: DiskFormat) -> VolumeRef:
    """An encrypted volume of 1 MiB in the pool."""
    key, file = images[disk_format]
    ref = storage.ref(disk_format, key)
    shutil.copy(file, storage.path(ref))
    return ref


def wait_for(condition: Callable[[], bool], timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.005)
