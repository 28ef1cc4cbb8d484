"""Durable work: operations, the steps they are made of, and the engine that carries them out."""

from ostler_control.operations.engine import Engine, Journal, launch, replica_id
from ostler_control.operations.records import Json, lock_row, read_inputs, record_operation
from ostler_control.operations.run import Run, Undo
from ostler_control.operations.verbs import chore, workflow

__all__ = [
    "Engine",
    "Journal",
    "Json",
    "Run",
    "Undo",
    "chore",
    "launch",
    "lock_row",
    "read_inputs",
    "record_operation",
    "replica_id",
    "workflow",
]
