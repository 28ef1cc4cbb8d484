"""The rule for versions of agents and control planes."""

import pytest
from ostler_common.versions import mismatch


@pytest.mark.parametrize(
    ("control", "agent", "part"),
    [
        ("0.4.0", "0.4.7", ""),
        ("0.4.0", "0.3.1", ""),
        ("0.4.0", "0.2.9", "too old"),
        ("0.4.0", "0.5.0", "newer"),
        ("1.0.0", "0.9.0", "too old"),
        ("1.0.0", "2.0.0", "newer"),
        ("0.10.0", "0.9.0", ""),
        ("0.4.0", "", ""),
        ("", "0.1.0", ""),
    ],
)
def test_an_agent_is_of_the_same_minor_release_or_the_one_before(control: str, agent: str, part: str) -> None:
    complaint = mismatch(control, agent)
    assert part in complaint
    assert bool(complaint) == bool(part)
