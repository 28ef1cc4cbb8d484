"""The table of what works on which volume, and its page."""

from __future__ import annotations

from pathlib import Path

import pytest
from ostler_common.errors import FailedPreconditionError
from ostler_control.models import Pool, Volume
from ostler_control.volumes import matrix
from ostler_control.volumes.matrix import POOL_TYPES, Allowed, Operation, Refused, verdict

PAGE = Path(__file__).parents[3] / "docs" / "volume-operations.md"


def test_the_page_is_in_step() -> None:
    assert PAGE.read_text() == matrix.document(), "run: make matrix"


def test_every_cell_has_its_verdict() -> None:
    cells = list(matrix.cells())
    assert len(cells) == len({cell[:4] for cell in cells}) == len(Operation) * 2 * 2 * len(POOL_TYPES)


def test_what_is_refused() -> None:
    refused = {
        (operation.value, encrypted, running, found.reason)
        for operation, encrypted, running, _, found in matrix.cells()
        if isinstance(found, Refused)
    }
    both = (False, True)
    assert refused == {
        *(("rekey", False, running, "NOT_ENCRYPTED") for running in both),
        *(("rekey-deep", False, running, "NOT_ENCRYPTED") for running in both),
        ("rekey", True, True, "VOLUME_IN_USE"),
        *(("encrypt", True, running, "ALREADY_ENCRYPTED") for running in both),
        *(("revert", encrypted, True, "VM_RUNNING") for encrypted in both),
        *(("reinstall", encrypted, True, "VM_RUNNING") for encrypted in both),
        *(("template", encrypted, True, "VM_RUNNING") for encrypted in both),
        *(("delete", encrypted, True, "ATTACHED") for encrypted in both),
        *(("start-vm", encrypted, True, "VM_STATE") for encrypted in both),
        *(("migrate-vm", encrypted, False, "VM_STATE") for encrypted in both),
        *(("migrate-vm", encrypted, True, "LOCAL_STORAGE") for encrypted in both),
        *(("migrate-vm-with-storage", encrypted, False, "VM_STATE") for encrypted in both),
    }


def test_a_pool_type_of_somebody_elses_is_like_the_others() -> None:
    assert isinstance(verdict(Operation.REKEY, True, True, "tape"), Refused)
    assert isinstance(verdict(Operation.REKEY, True, False, "tape"), Allowed)


def test_the_refusal_names_the_volume_and_the_way_out() -> None:
    volume = Volume(id="v", name="data-1", passphrase="k", pool=Pool(type="nfs"))
    with pytest.raises(FailedPreconditionError, match=r"volume data-1 is in use .* --deep") as caught:
        matrix.check(Operation.REKEY, volume, True)
    assert caught.value.reason == "VOLUME_IN_USE"
    matrix.check(Operation.REKEY, volume, False)
