"""Every cell of what works on which volume (docs/volume-operations.md): tried on real hosts, the data compared bit for
bit, or refused with the table's reason and nothing changed.

A column (pool type, encrypted, running) is a VM whose disks go through all operations; several columns go at once, in
the background, and each test waits for its own cell.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import pytest
from ostler_control.volumes.matrix import Operation, Verdict, cells

from tests.lab.fleet import Fleet
from tests.lab.matrix_cells import CELLS
from tests.lab.matrix_column import Column
from tests.lab.matrix_site import making

pytestmark = pytest.mark.lab
AT_ONCE = 4
MAX_S = 600


@pytest.fixture(autouse=True)
def no_vm_runs_twice() -> None:
    """The cells look for that themselves, at less expense."""


@dataclass(frozen=True)
class Cell:
    """A cell; in its test's name."""

    operation: Operation
    encrypted: bool
    running: bool
    pool_type: str
    verdict: Verdict

    @property
    def column(self) -> tuple[str, bool, bool]:
        return self.pool_type, self.encrypted, self.running

    def __str__(self) -> str:
        kind, state = "encrypted" if self.encrypted else "plain", "running" if self.running else "stopped"
        return f"{self.operation}-{kind}-{state}-{self.pool_type}"


# Column by column, as they are tried.
TABLE = sorted((Cell(*cell) for cell in cells()), key=lambda cell: (*cell.column, list(CELLS).index(cell.operation)))


@pytest.fixture(scope="module")
def results(
    request: pytest.FixtureRequest, fleet: Fleet, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[Cell, Future[None]]]:
    """How the cells whose tests were selected come out."""
    selected = {
        item.callspec.params["cell"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.path == request.path and hasattr(item, "callspec")
    }
    found: dict[Cell, Future[None]] = {cell: Future() for cell in TABLE if cell in selected}
    columns: dict[tuple[str, bool, bool], dict[Cell, Future[None]]] = {}
    for cell, result in found.items():
        columns.setdefault(cell.column, {})[cell] = result
    enough = threading.Event()
    with making(fleet, tmp_path_factory.mktemp("matrix")) as site, ThreadPoolExecutor(AT_ONCE) as pool:
        for column, cells in columns.items():
            pool.submit(_go_through, Column(site, *column), cells, enough)
        try:
            yield found
        finally:
            enough.set()


def _go_through(column: Column, cells: dict[Cell, Future[None]], enough: threading.Event) -> None:
    error: BaseException | None
    last = list(cells)[-1]
    for cell, result in cells.items():
        error = None
        try:
            if not enough.is_set():
                column.cell(cell.operation, CELLS[cell.operation], cell.verdict)
        except BaseException as failure:
            error = failure
        if cell is last:
            try:
                column.clear()
            except BaseException as failure:
                error = error or failure
        if error:
            result.set_exception(error)
        else:
            result.set_result(None)


def test_each_operation_is_tried() -> None:
    assert set(CELLS) == set(Operation)
    assert len(TABLE) == len(list(cells()))


@pytest.mark.timeout(MAX_S)
@pytest.mark.parametrize("cell", TABLE, ids=str)
def test_cell(cell: Cell, results: dict[Cell, Future[None]]) -> None:
    results[cell].result(MAX_S)
