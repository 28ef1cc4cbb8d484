"""Every guarantee has tests, which exist."""

from __future__ import annotations

from pathlib import Path

from tests.named_tests import NAMED, check_named, table_rows

PAGE = Path(__file__).parents[3] / "docs" / "guarantees.md"


def test_every_named_test_exists() -> None:
    assert check_named(PAGE.read_text()) > 40


def test_every_promise_names_its_tests() -> None:
    promises = [row for row in table_rows(PAGE.read_text()) if len(row) == 3]
    assert len(promises) > 20
    for promise, _, tests in promises:
        assert promise
        assert NAMED.search(tests), f"no test holds: {promise}"
