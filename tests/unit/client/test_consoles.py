"""A console outlives the replica that relays it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from ostler.client import FailedPreconditionError, OstlerError, UnavailableError
from ostler.client.consoles import ConsoleStream
from ostler.control.v1.vm_pb2 import ConsoleInput, ConsoleOutput

Guest = Callable[[Iterator[ConsoleInput]], Iterator[bytes]]

LOST = UnavailableError("connection reset", "RPC")
BUSY = FailedPreconditionError("another session has the console", "CONSOLE_BUSY")


class _Call:
    def __init__(self, printed: Iterator[bytes]) -> None:
        self._printed = printed

    def __iter__(self) -> Iterator[ConsoleOutput]:
        return (ConsoleOutput(data=data) for data in self._printed)

    def cancel(self) -> None:
        """The tests' streams end by themselves."""


class _Replicas:
    """Each call reaches the next one."""

    def __init__(self, *guests: Guest) -> None:
        self._guests = list(guests)
        self.opened: list[ConsoleInput] = []

    def Console(self, inputs: Iterator[ConsoleInput], timeout: float | None) -> _Call:
        self.opened.append(next(inputs))
        return _Call(self._guests.pop(0)(inputs))


def fails(error: OstlerError, *printed: bytes) -> Guest:
    def guest(inputs: Iterator[ConsoleInput]) -> Iterator[bytes]:
        yield from printed
        raise error

    return guest


def echo(inputs: Iterator[ConsoleInput]) -> Iterator[bytes]:
    for typed in inputs:
        yield typed.data.upper()


def stream(replicas: _Replicas, force: bool = False) -> ConsoleStream:
    return ConsoleStream(replicas, "web-1", force)  # type: ignore[arg-type]


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ostler.client.reaching.PAUSE_S", 0.0)


@pytest.mark.usefixtures("at_once")
def test_a_console_that_breaks_is_opened_again_with_what_was_typed_meanwhile() -> None:
    replicas = _Replicas(fails(LOST, b"login: "), fails(LOST), fails(BUSY), echo)
    console = stream(replicas, force=True)
    printed = iter(console)
    assert next(printed) == b"login: "
    console.type(b"root")
    console.end_input()
    assert list(printed) == [b"ROOT"]
    # Only the first one took it over: meanwhile somebody else may have it.
    assert [asked.force for asked in replicas.opened] == [True, False, False, False]


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("error", [LOST, BUSY], ids=["unreachable", "busy"])
def test_a_console_that_cannot_be_opened_fails_at_once(error: OstlerError) -> None:
    with pytest.raises(type(error)) as caught:
        list(stream(_Replicas(fails(error))))
    assert caught.value is error


def test_a_console_that_somebody_took_over_is_not_taken_back() -> None:
    taken = FailedPreconditionError("the console was taken over", "CONSOLE_TAKEN")
    with pytest.raises(FailedPreconditionError, match="taken over"):
        list(stream(_Replicas(fails(taken, b"login: "))))


@pytest.mark.usefixtures("at_once")
def test_attempts_end_when_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ostler.client.reaching.SILENCE_S", -1.0)
    with pytest.raises(UnavailableError):
        list(stream(_Replicas(fails(LOST, b"login: "))))


@pytest.mark.usefixtures("at_once")
def test_a_closed_console_ends() -> None:
    replicas = _Replicas(fails(LOST, b"login: "))
    console = stream(replicas)
    printed = iter(console)
    assert next(printed) == b"login: "
    console.close()
    assert list(printed) == []
