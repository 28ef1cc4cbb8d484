"""The time of a call: of all its attempts, and of each for as long as it makes no progress."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from ostler_common.call_limit import CallLimit, TooSlowError


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def said(limit: CallLimit) -> str:
    with pytest.raises(TooSlowError) as caught:
        limit.left_s()
    return str(caught.value)


def test_an_attempt_ends_in_time_however_much_it_moves() -> None:
    clock = Clock()
    limit = CallLimit(10, 4, now=clock)
    clock.now += 3
    limit.moved(1 << 30)
    assert limit.left_s() == 1
    clock.now += 1
    assert said(limit) == "is too slow: an answer took more than 4 s"
    assert not limit.is_over()


def test_attempts_share_the_time_of_a_call() -> None:
    clock = Clock()
    limit = CallLimit(10, 4, now=clock)
    for _ in range(2):
        clock.now += 4
        limit.begin_attempt()
    assert limit.left_s() == 2
    clock.now += 2
    assert limit.is_over()
    assert said(limit) == "is too slow: a call with its repetitions took more than 10 s"


def test_progress_gives_a_transfer_new_time_until_its_end() -> None:
    clock = Clock()
    limit = CallLimit(100, 10, 1 << 20, clock)
    for _ in range(9):
        clock.now += 9
        limit.moved(1 << 20)
        assert limit.left_s() == 10
    clock.now += 9
    limit.moved((1 << 20) - 1)
    assert limit.left_s() == 1
    clock.now += 1
    assert said(limit) == "is too slow: it moved less than 1 MiB in 10 s"
    clock.now += 9
    assert limit.is_over()
