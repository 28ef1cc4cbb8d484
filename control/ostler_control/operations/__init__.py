"""Durable work: operations, their steps, and the engine that runs them."""

from ostler_control.operations.engine import JOURNAL_SCHEMA, Engine, Journal, launch, replica_id
from ostler_control.operations.records import Json, lock_row, read_inputs, record_operation
from ostler_control.operations.run import Run, Undo
from ostler_control.operations.verbs import periodic, workflow

__all__ = [
    "JOURNAL_SCHEMA",
    "Engine",
    "Journal",
    "Json",
    "Run",
    "Undo",
    "launch",
    "lock_row",
    "periodic",
    "read_inputs",
    "record_operation",
    "replica_id",
    "workflow",
]
