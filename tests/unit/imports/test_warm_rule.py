"""When a warm copy is quiet."""

from __future__ import annotations

import pytest
from ostler_control.imports.warm_rule import QuietRule, why_quiet

MIB = 1 << 20
RULE = QuietRule(quiet_bytes=100 * MIB, max_rounds=4)


@pytest.mark.parametrize(
    ("deltas_mib", "expected"),
    [
        ([], ""),
        ([1000], ""),
        ([100], "only 100 MiB changed"),
        ([0], "only 0 MiB changed"),
        ([1000, 800], ""),
        ([1000, 801], "801 MiB changed, about as much as in the round before"),
        ([1000, 2000], "2000 MiB changed, about as much as in the round before"),
        ([1600, 800, 400], ""),
        ([1600, 800, 400, 200], "4 rounds are done"),
        ([1600, 800, 400, 50], "only 50 MiB changed"),
    ],
)
def test_a_copy_is_quiet(deltas_mib: list[int], expected: str) -> None:
    assert why_quiet(RULE, [delta * MIB for delta in deltas_mib]) == expected
