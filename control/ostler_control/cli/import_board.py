"""Following an import plan: a live board on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

import click
from ostler.client import watching
from ostler.control.v1 import import_plan_pb2 as pb
from ostler_common.errors import shortened
from ostler_common.text import printable
from ostler_common.units import format_size

from ostler_control.cli import import_plans, text
from ostler_control.cli.app import App
from ostler_control.cli.waiting import SILENCE

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

POLL_S = 1.0
# Off a terminal, how often a line tells how far the whole plan is.
SUMMARY_S = 60.0
_MAX_ROWS_KEPT = 6
_MIN_NOTE = 12


def follow(app: App, name: str) -> pb.ImportPlan:
    """Shows a plan until no operation carries it out; its last state.

    Ctrl-C stops following only. A control plane that cannot be reached is tried for a minute: plans outlive it.
    """
    request = pb.GetImportPlanRequest(plan=name)
    plan = app.client.import_plans.GetImportPlan(request)  # fails at once where nobody answers
    try:
        with _display() as display:
            for plan in watching.states(
                lambda: app.client.import_plans.GetImportPlan(request), POLL_S, lambda: display.note(SILENCE)
            ):
                display.show(plan)
                if plan.state not in import_plans.ACTIVE:
                    break
    except KeyboardInterrupt:
        click.echo(f"\nIt continues. To see it again: ostler import plan status {plan.name} --watch", err=True)
        raise click.Abort from None
    return plan


class _Display(Protocol):
    def show(self, plan: pb.ImportPlan) -> None: ...

    def note(self, message: str) -> None: ...


class Lines:
    """A line for each change of a VM, and now and then one for the whole plan."""

    def __init__(self) -> None:
        self._told: dict[int, str] = {}
        self._last = ""
        self._summary_s = time.monotonic()

    def show(self, plan: pb.ImportPlan) -> None:
        for vm in plan.vms:
            line = _line(vm)
            if line and self._told.get(vm.position) != line:
                self._told[vm.position] = line
                self.note(f"{vm.source_vm}: {line}")
        over = plan.state not in import_plans.ACTIVE
        if over or time.monotonic() - self._summary_s >= SUMMARY_S:
            self._summary_s = time.monotonic()
            self.note(import_plans.headline(plan))

    def note(self, message: str) -> None:
        if message != self._last:
            self._last = message
            click.echo(printable(f"{datetime.now():%H:%M:%S} {message}"), err=True)


def _line(vm: pb.ImportPlanVm) -> str:
    """What there is to tell of a VM, "" while it waits."""
    if vm.state == pb.ImportPlanVm.WAITING:
        return ""
    if vm.state == pb.ImportPlanVm.RUNNING:
        total = f" {format_size(vm.bytes_total)}" if vm.bytes_total else ""
        return f"{vm.phase}{total}" if vm.phase else "started"
    if vm.state == pb.ImportPlanVm.IMPORTED:
        return f"imported as {vm.name} in {import_plans.took(vm)}"
    return f"{import_plans.state_of(vm)}: {import_plans.note(vm)}"


class _Board:
    """A table that is drawn anew at each change: the plan, then the VMs, those under way first when there are many."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._plan: pb.ImportPlan | None = None

    def show(self, plan: pb.ImportPlan) -> None:
        self._plan = plan
        self._live.update(board(plan, *self._live.console.size), refresh=True)

    def note(self, message: str) -> None:
        if self._plan is not None:
            table = board(self._plan, *self._live.console.size)
            table.caption = message
            self._live.update(table, refresh=True)


def board(plan: pb.ImportPlan, width: int, height: int) -> Table:
    """The board in at most `height` lines of `width` characters; where it is too long, VMs under way and those that
    failed are shown."""
    from rich.table import Table
    from rich.text import Text

    columns = import_plans.BOARD.columns
    table = Table(
        box=None,
        title=printable(import_plans.headline(plan)),
        title_justify="left",
        title_style="bold",
        header_style="bold",
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    room = max(height - 4, _MAX_ROWS_KEPT)
    shown = plan.vms if len(plan.vms) <= room else sorted(plan.vms, key=_rank)[:room]
    rows = [
        [printable(text.or_dash(cell(vm))) for _, cell in columns] for vm in sorted(shown, key=lambda vm: vm.position)
    ]
    widths = [max(map(len, column)) for column in zip([title for title, _ in columns], *rows, strict=True)]
    # Only the note, which is the last, gives way where the terminal is narrow.
    widths[-1] = max(_MIN_NOTE, min(widths[-1], width - sum(widths[:-1]) - 2 * len(widths)))
    for (title, _), needed in zip(columns, widths, strict=True):
        table.add_column(title.upper(), no_wrap=True, width=needed)
    for row in rows:
        row[-1] = shortened(row[-1], widths[-1])
        table.add_row(
            *(Text(cell, style=_STYLES.get(cell, "")) for cell in (*row[:-1], shortened(row[-1], widths[-1])))
        )
    if len(shown) < len(plan.vms):
        table.caption = f"and {len(plan.vms) - len(shown)} more: ostler import plan status {plan.name}"
    return table


_STYLES = {"running": "cyan", "imported": "green", "failed": "red", "no-go": "red", "skipped": "yellow"}
_ORDER = (
    *(pb.ImportPlanVm.RUNNING, pb.ImportPlanVm.FAILED, pb.ImportPlanVm.REFUSED),
    *(pb.ImportPlanVm.WAITING, pb.ImportPlanVm.SKIPPED, pb.ImportPlanVm.CANCELLED, pb.ImportPlanVm.IMPORTED),
)


def _rank(vm: pb.ImportPlanVm) -> tuple[int, int]:
    return (_ORDER.index(vm.state) if vm.state in _ORDER else len(_ORDER)), vm.position


@contextmanager
def _display() -> Iterator[_Display]:
    if not sys.stderr.isatty():
        yield Lines()
        return
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(stderr=True), auto_refresh=False, transient=True) as live:
        yield _Board(live)
