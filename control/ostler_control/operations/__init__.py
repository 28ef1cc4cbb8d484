"""Durable work: operations, their steps, and the engine that runs them."""

from ostler_control.operations.engine import Engine, launch, replica_id
from ostler_control.operations.records import Json, lock_row, read_inputs, record_operation
from ostler_control.operations.run import Run, Undo
from ostler_control.operations.verbs import periodic, workflow

__all__ = [
    "Engine",
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
