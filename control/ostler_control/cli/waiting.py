"""Following an operation until it is done: progress on standard error, Ctrl-C, a control plane that restarts."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import click
from google.longrunning import operations_pb2 as lro
from ostler.client.operations import bare_id, metadata_of, next_state, title_of
from ostler.control.v1.operation_pb2 import OperationMetadata

if TYPE_CHECKING:
    from google.longrunning.operations_pb2_grpc import OperationsStub
    from rich.progress import Progress

# Shown while the control plane does not answer.
SILENCE = "the control plane does not answer; retrying"


def reattach(operation: lro.Operation) -> str:
    return f"ostler operation wait {bare_id(operation.name)}"


def follow(stub: OperationsStub, operation: lro.Operation) -> lro.Operation:
    """Waits until the operation is done and returns its last state, failed or not.

    Ctrl-C asks whether to cancel it (it is then followed to its end) or to leave it running (raises click.Abort).
    A control plane that cannot be reached is tried for a minute: operations outlive it.
    """
    with _display(operation) as display:
        while not operation.done:
            display.show(metadata_of(operation))
            try:
                operation = next_state(stub, operation.name, lambda: display.note(SILENCE))
            except KeyboardInterrupt:
                with display.paused():
                    _ask(stub, operation)
        display.show(metadata_of(operation))
    return operation


def _ask(stub: OperationsStub, operation: lro.Operation) -> None:
    """Cancels the operation when the user says so; raises click.Abort when it is to be left running."""
    cancel = False
    if sys.stdin.isatty():
        try:
            cancel = click.confirm(
                f"\nCancel {title_of(operation)}? Otherwise it continues in the background", err=True
            )
        except (click.Abort, KeyboardInterrupt):
            click.echo(err=True)
    if not cancel:
        click.echo(f"It continues. To wait for it again: {reattach(operation)}", err=True)
        raise click.Abort
    stub.CancelOperation(lro.CancelOperationRequest(name=operation.name))
    click.echo("Cancelling and undoing what has been done.", err=True)


class _Display(Protocol):
    def show(self, metadata: OperationMetadata) -> None: ...

    def note(self, text: str) -> None: ...

    @contextmanager
    def paused(self) -> Iterator[None]: ...


class _Lines:
    """A line at each change of phase, where there is no terminal."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._last = ""

    def show(self, metadata: OperationMetadata) -> None:
        self.note(metadata.progress.phase)

    def note(self, text: str) -> None:
        if text and text != self._last:
            self._last = text
            click.echo(f"{self._title}: {text}", err=True)

    @contextmanager
    def paused(self) -> Iterator[None]:
        yield


class _Bar:
    """A bar with phase, percent and, where bytes are the measure, bytes."""

    def __init__(self, title: str, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task(title, total=100, phase="", bytes="")

    def show(self, metadata: OperationMetadata) -> None:
        now = metadata.progress
        done = 100 if metadata.state == OperationMetadata.SUCCEEDED else now.percent
        count = _bytes(now.bytes_done, now.bytes_total)
        self._progress.update(self._task, completed=done, phase=now.phase, bytes=count, refresh=True)

    def note(self, text: str) -> None:
        self._progress.update(self._task, phase=text, refresh=True)

    @contextmanager
    def paused(self) -> Iterator[None]:
        self._progress.stop()
        yield
        self._progress.start()


def _bytes(done: int, total: int) -> str:
    from ostler_control.cli.text import size

    return f"{size(done)}/{size(total)}" if total else ""


@contextmanager
def _display(operation: lro.Operation) -> Iterator[_Display]:
    if not sys.stderr.isatty():
        yield _Lines(title_of(operation))
        return
    with bar("{task.fields[phase]} {task.fields[bytes]}") as progress:
        yield _Bar(title_of(operation), progress)


def bar(tail: str) -> Progress:
    """A progress bar on standard error that is gone when it is done. tail: what stands behind the percentage."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn(tail, markup=False),
    )
    return Progress(*columns, console=Console(stderr=True), transient=True)
