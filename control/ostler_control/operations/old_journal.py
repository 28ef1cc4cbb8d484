"""The journal of releases that kept it in the tables of DBOS: beside an SQLite database, or in a schema of PostgreSQL.

Operations that were under way at the upgrade run on after their last finished step.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import structlog
from ostler_common.errors import FailedPreconditionError

from ostler_control.database import is_sqlite, session, transaction
from ostler_control.models import Operation, OperationStep, db, tuples
from ostler_control.states import UNFINISHED_OPERATIONS

log = structlog.get_logger(__name__)

# Number, name and outcome of a step.
Row = tuple[int, str, str]


def take_over(path: Path) -> None:
    """Moves the steps of unfinished operations from the file of an older release into the database, and removes the
    file. A kill at any moment leaves both or the steps. Nothing happens when there is no such file.

    Raises FailedPreconditionError OLD_JOURNAL_UNREADABLE.
    """
    if not path.exists():
        return
    with session():
        query = Operation.select(Operation.id).where(Operation.state.in_(UNFINISHED_OPERATIONS))
        unfinished = {operation_id for (operation_id,) in tuples(query, tuple[str])}
    found: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    try:
        with contextlib.closing(sqlite3.connect(path)) as file:
            if file.execute("SELECT 1 FROM sqlite_master WHERE name = 'operation_outputs'").fetchone():
                rows = file.execute(
                    "SELECT workflow_uuid, function_name, output FROM operation_outputs WHERE output IS NOT NULL "
                    "ORDER BY workflow_uuid, function_id"
                )
                for operation_id, name, outcome in rows:
                    if operation_id in unfinished:
                        found[operation_id].append((name, outcome))
    except sqlite3.Error as error:
        raise FailedPreconditionError(
            f"the journal of the release before, {path}, cannot be read: {error}. Bring back a copy, or move it "
            "elsewhere: then operations that were under way begin with their first step again",
            "OLD_JOURNAL_UNREADABLE",
        ) from error
    with transaction():
        for operation_id, steps in found.items():
            _insert(operation_id, _numbered(steps))
    # The file last: SQLite's files beside it mean nothing without it.
    for suffix in ("-wal", "-shm", ""):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    log.info("the journal of the release before was taken over", operations=len(found))


def move(operation_id: str) -> list[Row]:
    """Copies an operation's steps from the schema `dbos` of PostgreSQL, if there is one, and returns them.

    One operation at a time, because replicas of the older release may still run.
    """
    if is_sqlite():
        return []
    with transaction():
        (table,) = db.execute_sql("SELECT to_regclass('dbos.operation_outputs')").fetchone()
        if table is None:
            return []
        rows = db.execute_sql(
            "SELECT function_name, output FROM dbos.operation_outputs WHERE workflow_uuid = %s AND output IS NOT NULL "
            "ORDER BY function_id",
            (operation_id,),
        ).fetchall()
        found = _numbered(rows)
        _insert(operation_id, found)
    return found


def _numbered(steps: Iterable[tuple[str, str]]) -> list[Row]:
    return [(number, name, outcome) for number, (name, outcome) in enumerate(steps)]


def _insert(operation_id: str, rows: Iterable[Row]) -> None:
    for number, name, outcome in rows:
        OperationStep.insert(
            operation=operation_id, number=number, name=name, outcome=outcome
        ).on_conflict_ignore().execute()
