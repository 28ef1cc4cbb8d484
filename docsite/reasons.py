"""Reason codes as the code raises them: with the kind of error and the message that each comes with."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ostler_common import errors

ROOT = Path(__file__).parents[1]
PACKAGES = ("agent/ostler_agent", "common/ostler/client", "common/ostler_common", "control/ostler_control")
# What a reason looks like, and the only word among them without an underscore that is not one.
_REASON = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+|[A-Z]{6,}")
# Functions and classes, beside exceptions, that take a reason and a message.
_HELPERS = frozenset(
    (
        *("bad_field", "change_vm", "error", "no", "problem", "refuse", "refused", "refusal", "warning"),
        *("Finding", "Problem", "Refusal", "Refused"),
    )
)
_MAX_MESSAGES = 3


@dataclass
class Reason:
    """kinds: names of gRPC codes; messages: what errors with it say, with words in capitals for what varies."""

    name: str
    kinds: set[str] = field(default_factory=set)
    messages: list[str] = field(default_factory=list)

    def add(self, kind: str, message: str) -> None:
        if kind:
            self.kinds.add(kind)
        if message and message not in self.messages and len(self.messages) < _MAX_MESSAGES:
            self.messages.append(message)


def found() -> dict[str, Reason]:
    """The reasons of all packages, by name."""
    reasons: defaultdict[str, Reason] = defaultdict(lambda: Reason(""))
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if not {"migrations", "conformance"} & set(path.parts) and "_pb2" not in path.name:
                for name, kind, message in in_source(path.read_text()):
                    reasons[name].name = name
                    reasons[name].add(kind, message)
    return dict(sorted(reasons.items()))


def in_source(source: str) -> Iterator[tuple[str, str, str]]:
    """Reason, kind ("" when the code leaves it to a caller) and message of each error that a module makes."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name.endswith("Error") or name.lstrip("_").removesuffix("s") in _HELPERS:
                values = [*node.args, *(keyword.value for keyword in node.keywords)]
                message = next((text for value in values if " " in (text := template(value))), "")
                for value in values:
                    if isinstance(value, ast.Constant) and _REASON.fullmatch(str(value.value)):
                        yield str(value.value), _kind(name), message


def _kind(name: str) -> str:
    if name == "bad_field":
        return errors.InvalidArgumentError.code
    return str(getattr(getattr(errors, name, None), "code", ""))


def template(node: ast.expr) -> str:
    """The text of a string as it is written, with a word in capitals for each value in it; "" for anything else."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(
            _word(part.value) if isinstance(part, ast.FormattedValue) else template(part) for part in node.values
        )
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = template(node.left), template(node.right)
        return left + right if left and right else ""
    return ""


def _word(value: ast.expr) -> str:
    """`vm.name` as VM_NAME, `len(disks)` as DISKS."""
    if isinstance(value, ast.Attribute):
        owner = value.value.id if isinstance(value.value, ast.Name) else ""
        return f"{owner}_{value.attr}".strip("_").removeprefix("self_").upper()
    names = [node.id for node in ast.walk(value) if isinstance(node, ast.Name)]
    return names[-1].upper() if names else "..."
