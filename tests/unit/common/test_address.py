import pytest
from ostler_common.address import split_address
from ostler_common.errors import InvalidArgumentError


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("control", ("control", 8441)),
        ("control:9", ("control", 9)),
        ("[fd00::1]", ("fd00::1", 8441)),
        ("[fd00::1]:9", ("fd00::1", 9)),
    ],
)
def test_address(address: str, expected: tuple[str, int]) -> None:
    assert split_address(address, default_port=8441) == expected


@pytest.mark.parametrize("address", ["", ":9", "control:x", "[]"])
def test_no_address(address: str) -> None:
    with pytest.raises(InvalidArgumentError):
        split_address(address, default_port=8441)


@pytest.mark.parametrize("address", ["control", "[fd00::1]", "control:0", "control:65536"])
def test_the_port_is_required_without_a_default(address: str) -> None:
    with pytest.raises(InvalidArgumentError):
        split_address(address)
