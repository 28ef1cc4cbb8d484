"""YAML as nodes that know their lines, within limits of size, depth and count. Pure.

Nothing of the document becomes a Python object here but text, so that no tag does anything; aliases, which could make
a small file a large one, are refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import yaml

MAX_BYTES = 256 << 10
MAX_ERRORS = 1000
_MAX_DEPTH, _MAX_NODES = 8, 50_000
_INTEGER = re.compile(r"[+-]?[0-9]{1,12}")
# libyaml's parser where there is one: ten times as fast, so that the largest document does not hold up other calls.
_Loader: type[yaml.SafeLoader] | type[yaml.CSafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Problem:
    """Something wrong with a document. line: from 1; path: "vms[3].offering", "" for the whole."""

    line: int
    path: str
    reason: str
    message: str


def read(content: bytes) -> yaml.Node | Problem:
    """The document's only node, or why there is none."""
    if len(content) > MAX_BYTES:
        return Problem(1, "", "FILE_TOO_LARGE", f"the file is larger than {MAX_BYTES >> 10} KiB")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return Problem(line, "", "NOT_UTF8", "the file is not text in UTF-8")
    try:
        if problem := _check_events(text):
            return problem
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        return Problem(mark.line + 1 if mark else 1, "", "NOT_YAML", error.problem or "the file is not YAML")
    except yaml.YAMLError as error:
        return Problem(1, "", "NOT_YAML", str(error).splitlines()[0])
    return node if node is not None else Problem(1, "", "EMPTY_FILE", "the file is empty")


def _check_events(text: str) -> Problem | None:
    """Refuses what is too deep or too large before nodes are made of it."""
    depth = count = documents = 0
    for event in yaml.parse(text, Loader=_Loader):
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                return Problem(line, "", "SEVERAL_DOCUMENTS", "the file has several documents; write one plan per file")
        elif isinstance(event, yaml.AliasEvent):
            return Problem(line, "", "ALIAS", "aliases (*name) are not read; use `defaults`")
        elif isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            count += 1
            if depth > _MAX_DEPTH:
                return Problem(line, "", "TOO_DEEP", f"more than {_MAX_DEPTH} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.ScalarEvent):
            count += 1
        if count > _MAX_NODES:
            return Problem(line, "", "FILE_TOO_LARGE", f"more than {_MAX_NODES} values")
    return None


def line_of(node: yaml.Node) -> int:
    """The line that a node begins in, from 1."""
    return node.start_mark.line + 1


def is_text(node: yaml.Node) -> bool:
    """Whether a node is a string: quoted, or nothing that YAML takes for a number, a date, a truth value or null."""
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:str"


def moment_or_text(node: yaml.Node) -> str:
    """A string, or a time as it is written; "" for anything else."""
    plain = is_text(node) or (isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:timestamp")
    return str(node.value)[:64] if plain else ""


def integer(node: yaml.Node) -> int | None:
    """The node's whole number, None when it is none."""
    if not isinstance(node, yaml.ScalarNode) or node.tag != "tag:yaml.org,2002:int":
        return None
    text = node.value.replace("_", "")
    return int(text) if _INTEGER.fullmatch(text) else None


def truth(node: yaml.Node) -> bool | None:
    """The node's truth value, None when it is none."""
    if not isinstance(node, yaml.ScalarNode) or node.tag != "tag:yaml.org,2002:bool":
        return None
    return bool(node.value.lower() in ("true", "yes", "on"))
