"""Durable work: operations, the steps they are made of, and the engine that carries them out."""

from ostler_control.operations.engine import Engine, Journal, replica_id
from ostler_control.operations.records import Json, begin
from ostler_control.operations.verbs import workflow
from ostler_control.operations.work import Undo, Work

__all__ = ["Engine", "Journal", "Json", "Undo", "Work", "begin", "replica_id", "workflow"]
