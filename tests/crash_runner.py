"""A control process to be killed: `python -m tests.crash_runner URL STATE_DIR PLAN LIMIT`.

PLAN is a JSON file: operation id (or EVERY) -> the number of the point at which that operation stands still, counted
from 1 over everything its workflow does (as a step begins, which has recorded the one before; in it once its effects
are there; after it, when it is not recorded yet; and inside the long step of an import plan, see
`_stand_still_in_waves`), so that a kill finds each operation exactly there. A file `STATE_DIR/reached/OPERATION` says
that it stands; once there is a file `STATE_DIR/go-on`, all go on. An empty plan just carries out what there is. LIMIT:
how many operations of a kind run at once.
"""

from __future__ import annotations

import json
import sys
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import structlog
from ostler_control import database
from ostler_control.database import session
from ostler_control.ha import give_back as _give_back  # noqa: F401 - registers its verb
from ostler_control.ha import run_agent
from ostler_control.imports.waves import begin, executor, store
from ostler_control.models import ImportPlan, ImportPlanVm, Operation
from ostler_control.operations import Json, journal, launch, records, replicas
from ostler_control.operations import engine as engine_module
from ostler_control.operations.run import Run
from ostler_control.states import ImportPlanVmState
from ostler_control.volumes.download import Transfer

from tests.sites import new_engine

# Stands for all operations that a plan does not name.
EVERY = "*"

_plan: dict[str, int] = {}
_passed: Counter[str] = Counter()
_reached = Path()


def _point(operation_id: str) -> None:
    _passed[operation_id] += 1
    if _plan.get(operation_id, _plan.get(EVERY)) == _passed[operation_id]:
        (_reached / operation_id).touch()
        while not (_reached.parent / "go-on").exists():
            threading.Event().wait(0.1)


def _stand_still_at_points() -> None:
    journalled, finish = Run._journaled, records.finish

    def stepping(self: Run, name: str, body: Callable[[], Any], *, always: bool) -> Any:
        def with_point() -> Any:
            _point(self.id)
            try:
                return body()
            finally:
                _point(self.id)

        try:
            return journalled(self, name, with_point, always=always)
        finally:
            _point(self.id)

    def finishing(operation_id: str, attempt: int, error: Any, writes: Iterable[journal.Write] = ()) -> bool:
        ended = finish(operation_id, attempt, error, writes)
        _point(operation_id)
        return ended

    Run._journaled = stepping  # type: ignore[method-assign]
    records.finish = finishing


def _stand_still_in_waves() -> None:
    """Before an import begins; before and after its launch, when its record is there already; before and after its end
    is written down; and when the plan's end is."""
    begin_one, change_vm, conclude = begin.begin, store.change_vm, executor.conclude

    def beginning(run: Run, plan: ImportPlan, row: ImportPlanVm, others_run: bool) -> begin.Answer:
        _point(run.id)
        return begin_one(run, plan, row, others_run)

    def launching(operation: Operation) -> None:
        with session():
            row = ImportPlanVm.select().join(ImportPlan).where(ImportPlanVm.operation_id == operation.id).get()
            plan_operation_id = row.plan.operation_id
        _point(plan_operation_id)
        launch(operation)
        _point(plan_operation_id)

    def changing(row: ImportPlanVm, before: Collection[ImportPlanVmState], **values: object) -> bool:
        if before != (ImportPlanVmState.RUNNING,) or "state" not in values:
            return change_vm(row, before, **values)
        with session():
            plan_operation_id = ImportPlan.get_by_id(row.plan_id).operation_id
        _point(plan_operation_id)
        changed = change_vm(row, before, **values)
        _point(plan_operation_id)
        return changed

    def concluding(plan: ImportPlan, run: Run) -> Json:
        end = conclude(plan, run)
        if end is not None:
            _point(run.id)
        return end

    begin.begin, store.change_vm, executor.conclude = beginning, changing, concluding
    vars(begin)["launch"] = launching


class _Callers(dict[str, Transfer]):
    """Every download has a caller who reads it at once: in the process that is killed, and not in the next one."""

    def get(self, key: str, default: Any = None) -> Any:
        reader = Transfer(None, key)
        reader.finished.set()
        return reader


def main(url: str, state_dir: Path, plan: Path, limit: int) -> None:
    global _plan, _reached
    replicas.SILENCE_S, replicas.BEAT_S = 2.0, 0.1
    engine_module._TICKS_PER_SWEEP = 1
    _plan = json.loads(plan.read_text())
    _reached = state_dir / "reached"
    _reached.mkdir(exist_ok=True)
    _stand_still_at_points()
    _stand_still_in_waves()
    run_agent._DIRECTORY = state_dir.parent / "fence"  # see `tests.fakes.fence`
    if _plan:
        vars(import_module("ostler_control.volumes.download"))["_transfers"] = _Callers()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # standard output is for "ready"
    database.connect(url)
    engine = new_engine(state_dir, limit=limit)
    engine.start()
    print("ready", flush=True)
    sys.stdin.read()
    engine.stop()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
