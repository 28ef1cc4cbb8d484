"""Reason codes as the code raises them: with the kind of error and the message that each comes with."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ostler_common import errors

ROOT = Path(__file__).parents[2]
PACKAGES = ("agent/ostler_agent", "common/ostler/client", "common/ostler_common", "control/ostler_control")
# What a reason looks like. OpenTelemetry's variables look like it, too.
_REASON = re.compile(r"(?!OTEL_)[A-Z][A-Z0-9]*(_[A-Z0-9]+)+")
# Reasons of one word count only where a message stands beside them.
_WORD = re.compile(r"[A-Z]{5,}")
# What looks like a reason and is none.
_OTHER_WORDS = frozenset(
    (
        *("CERTIFICATE_VERIFY_FAILED", "CREDENTIALS_DIRECTORY", "GRPC_SSL_CIPHER_SUITES", "GRPC_VERBOSITY"),
        *("JOURNAL_STREAM", "LC_ALL", "NOTIFY_SOCKET", "OSTLER_PROFILE", "WATCHDOG_PID", "WATCHDOG_USEC"),
        *("LIBGUESTFS_BACKEND", "LIBGUESTFS_BACKEND_SETTINGS", "LIBGUESTFS_CACHEDIR", "VIRTIO_WIN", "XDG_CONFIG_HOME"),
        *("GUEST_AGENT", "NEIGHBOR_TABLE", "ONLY_ME", "OWNED", "SC_CLK_TCK"),
    )
)
# Functions that make the reason out of an argument: the argument's place, the reason, the kind of error.
_COMPOSED = {
    "resolve": (0, "{}_NOT_FOUND", "NOT_FOUND"),
    "optional": (0, "{}_NOT_FOUND", "NOT_FOUND"),
    "deadline": (2, "{}_TIMEOUT", "DEADLINE_EXCEEDED"),
    "_limited": (1, "TOO_MANY_{}S", ""),
}
# What the command line says when nothing answers, or an answer has no reason.
_OF_CLIENTS = (("RPC", ""), ("UNREACHABLE", "UNAVAILABLE"))
# Beginnings of reasons that end in an object's state, and these states.
_OF_STATES = {"PLAN_": ("PARTIAL", "FAILED"), "IMPORT_PLAN_": ("PARTIAL", "FAILED")}
# Functions and classes, beside exceptions, that take a reason of one word and a message.
_HELPERS = frozenset(("bad_field", "change_vm", "error", "no", "problem", "refuse", "refused", "refusal", "warning"))
_CLASSES = frozenset(("Finding", "Problem", "Refusal", "Refused"))
_KINDS = frozenset(kind.code for kind in errors.OstlerError.__subclasses__())
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
    for name, kind in _OF_CLIENTS:
        reasons[name].name = name
        reasons[name].add(kind, "")
    return dict(sorted(reasons.items()))


def in_source(source: str) -> Iterator[tuple[str, str, str]]:
    """Reason, kind ("" when the code leaves it to a caller) and message ("" likewise) of what a module says."""
    tree = ast.parse(source)
    exported = set(_exported(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            values = [*node.args, *(keyword.value for keyword in node.keywords)]
            yield from _composed(name, node.args)
            is_error = name.endswith("Error") or name.lstrip("_").removesuffix("s") in _HELPERS or name in _CLASSES
            yield from _beside(values, _kind(name), words=is_error)
        elif isinstance(node, ast.Tuple):
            names = [value.id for value in node.elts if isinstance(value, ast.Name)]
            kind = next((kind for name in names if (kind := _kind(name))), "")
            yield from _beside(node.elts, kind, words=bool(kind) or len(node.elts) == 2)
        elif isinstance(node, ast.Constant) and node not in exported and _is_reason(node.value):
            yield str(node.value), "", ""


def _exported(tree: ast.Module) -> Iterator[ast.AST]:
    """The strings of `__all__`."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(getattr(target, "id", "") == "__all__" for target in node.targets):
            yield from ast.walk(node)


def _is_reason(value: object) -> bool:
    return (
        isinstance(value, str) and bool(_REASON.fullmatch(value)) and value not in _OTHER_WORDS and value not in _KINDS
    )


def _beside(values: Sequence[ast.expr], kind: str, words: bool) -> Iterator[tuple[str, str, str]]:
    """Reasons among the values of a call or a tuple, with the message that stands beside them. words: also those of
    one word."""
    message = next((text for value in values if " " in (text := template(value))), "")
    for value in values:
        if isinstance(value, ast.Constant):
            if _is_reason(value.value) or (words and message and _is_word(value.value)):
                yield str(value.value), kind, message
        elif isinstance(value, ast.JoinedStr):
            begin = template(value.values[0])
            for state in _OF_STATES.get(begin, ()):
                yield begin + state, kind, message


def _is_word(value: object) -> bool:
    return isinstance(value, str) and (bool(_WORD.fullmatch(value)) or value in _KINDS) and value not in _OTHER_WORDS


def _composed(name: str, arguments: Sequence[ast.expr]) -> Iterator[tuple[str, str, str]]:
    position, reason, kind = _COMPOSED.get(name, (0, "", ""))
    if reason and len(arguments) > position:
        argument = arguments[position]
        word = argument.id if isinstance(argument, ast.Name) else template(argument)
        # A model's class, or a word as a string.
        if isinstance(argument, ast.Constant) == word.islower() and re.fullmatch("[A-Z]?[a-z][A-Za-z]*", word):
            yield reason.format(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", word).upper()), kind, ""


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
