"""The qemu-img of the tests: it makes the same images as the real one, with keys that are quick to derive."""

from __future__ import annotations

import pytest
from ostler_agent.spec import DiskFormat
from ostler_agent.tools import qemu_img
from ostler_common.errors import FailedPreconditionError
from ostler_common.image_header import HEAD_BYTES, luks1_iterations, luks_offset

from tests import quick_keys
from tests.host.conftest import Storage, job, need, new_key
from tests.lab.host import environment

# What QEMU does at least: for the passphrase, and for the digest that tells whether it is right.
LEAST = 2 * 1000


@pytest.mark.parametrize("disk_format", DiskFormat)
def test_a_volume_has_few_rounds_unless_they_are_to_be_measured(storage: Storage, disk_format: DiskFormat) -> None:
    need("gcc")
    assert _rounds(storage, disk_format) == LEAST
    quick_keys.MEASURE.touch()
    try:
        assert _rounds(storage, disk_format) > LEAST
    finally:
        quick_keys.MEASURE.unlink()


def test_the_hosts_of_the_lab_have_it() -> None:
    need("gcc")
    [first] = quick_keys.in_use()
    assert environment()["PATH"].startswith(f"{first}:/usr/local/sbin:")


def _rounds(storage: Storage, disk_format: DiskFormat) -> int:
    ref = storage.ref(disk_format, new_key())
    storage.volumes.create(job(), ref, 1 << 20)
    assert ref.key
    qemu_img.check_key(storage.path(ref), disk_format, ref.key)
    with pytest.raises(FailedPreconditionError):
        qemu_img.check_key(storage.path(ref), disk_format, new_key())
    data = storage.path(ref).read_bytes()
    rounds = luks1_iterations(data[luks_offset(data[:HEAD_BYTES]) or 0 :])
    assert rounds is not None
    return rounds
