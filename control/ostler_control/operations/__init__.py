"""Durable work: operations, the steps they are made of, and the engine that carries them out."""

from ostler_control.operations.engine import Engine, Journal, launch, replica_id
from ostler_control.operations.records import Json, begin, take
from ostler_control.operations.verbs import chore, workflow
from ostler_control.operations.work import Undo, Work

__all__ = ["Engine", "Journal", "Json", "Undo", "Work", "begin", "chore", "launch", "replica_id", "take", "workflow"]
