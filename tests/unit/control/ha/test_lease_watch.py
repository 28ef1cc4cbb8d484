"""What looks at a lease prove."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ostler_control.ha.lease_watch import MARGIN_S, LeaseWatch, Look, Verdict

ENDS_WITHIN_S = 50.0
NEEDED_S = ENDS_WITHIN_S + MARGIN_S


def look(begun: float, number: int = 7, term: str = "term", released: bool = False, took: float = 1.0) -> Look:
    return Look(term, number, released, begun, begun + took)


def last(*looks: Look) -> Verdict:
    watch, verdict = LeaseWatch("term", ENDS_WITHIN_S), Verdict.WAITING
    for one in looks:
        watch, verdict = watch.look(one)
    return verdict


def test_a_lease_that_is_unchanged_for_long_enough_is_proof() -> None:
    assert last(look(0), look(30), look(NEEDED_S + 1.1)) is Verdict.PROVED


@pytest.mark.parametrize(
    ("looks", "verdict"),
    [
        ((look(0),), Verdict.WAITING),
        ((look(0), look(NEEDED_S + 1.0)), Verdict.WAITING),
        ((look(0), look(30, number=8), look(200, number=8)), Verdict.RENEWED),
        ((look(0), look(200, number=6)), Verdict.RENEWED),
        ((look(0, term="another"),), Verdict.UNGUARDED),
        ((look(0), look(200, term="another")), Verdict.UNGUARDED),
        ((look(0), look(200, released=True)), Verdict.UNGUARDED),
    ],
)
def test_anything_else_is_none(looks: tuple[Look, ...], verdict: Verdict) -> None:
    assert Verdict.PROVED not in {last(*looks[: count + 1]) for count in range(len(looks) - 1)}
    assert (last(*looks[:2]) if verdict is Verdict.RENEWED else last(*looks)) is verdict


def test_looks_that_take_long_prove_less() -> None:
    """The first counts from its end, the last one to its beginning."""
    assert last(look(0, took=40), look(NEEDED_S + 30)) is Verdict.WAITING
    assert last(look(0, took=40), look(NEEDED_S + 41)) is Verdict.PROVED


@given(st.lists(st.tuples(st.floats(0, 20), st.floats(0, 15)), min_size=2, max_size=30), st.floats(0, 300))
def test_no_proof_comes_before_the_guardian_had_its_time(steps: list[tuple[float, float]], died: float) -> None:
    """A guardian whose latest renewal began at `died`, and is seen by every look that ends later."""
    watch, now = LeaseWatch("term", ENDS_WITHIN_S), 0.0
    for pause, took in steps:
        begun, now = now + pause, now + pause + took
        watch, verdict = watch.look(look(begun, number=1 if now > died else 0, took=took))
        if verdict is Verdict.PROVED and now > died:
            assert begun > died + ENDS_WITHIN_S
        if verdict in (Verdict.RENEWED, Verdict.PROVED):
            return
