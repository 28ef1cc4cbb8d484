"""Names of keys."""

from __future__ import annotations

import pytest
from ostler_common.key_names import KEY_CODES, parse_keys


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("ctrl-alt-del", (29, 56, 111)),
        ("Ctrl-Alt-F12", (29, 56, 88)),
        ("enter", (28,)),
        ("shift-a", (42, 30)),
        ("alt-sysrq-s", (56, 99, 31)),
        ("meta-menu-m", (125, 127, 50)),
        ("0", (11,)),
    ],
)
def test_combinations(text: str, codes: tuple[int, ...]) -> None:
    assert parse_keys(text) == codes


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no key ''"),
        ("ctrl-", "no key ''"),
        ("ctrl+alt", "no key"),
        ("ctrl-\u0430", "no key"),
        ("a-b-c-d-e-f", "more than 5"),
        ("ctrl-ctrl", "twice"),
    ],
)
def test_refusals(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_keys(text)


def test_each_key_has_a_code_of_its_own() -> None:
    assert len(set(KEY_CODES.values())) == len(KEY_CODES)
    assert all(0 < code < 128 for code in KEY_CODES.values())
