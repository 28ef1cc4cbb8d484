"""Label selectors in the grammar of Kubernetes: equality and sets. Pure.

The grammar: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from ostler_common.errors import InvalidArgumentError, bad_field

MAX_REQUIREMENTS = 16
MAX_VALUES = 64

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
_DNS_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_PREFIX = rf"{_DNS_LABEL}(?:\.{_DNS_LABEL})*"
_KEY = re.compile(rf"(?:(?=[^/]{{1,253}}/){_PREFIX}/)?{_NAME}", re.ASCII)
_VALUE = re.compile(rf"(?:{_NAME})?", re.ASCII)
_TOKEN = re.compile(r"\s*(==|!=|=|!|,|\(|\)|[A-Za-z0-9][A-Za-z0-9._/-]*)", re.ASCII)


class Operator(Enum):
    """What a requirement demands of the value of its key."""

    EXISTS = "exists"
    ABSENT = "absent"
    IN = "in"
    NOT_IN = "notin"


@dataclass(frozen=True)
class Requirement:
    """One requirement. values: for IN and NOT_IN only; NOT_IN also selects objects without the key."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()


def check_key(field: str, key: str) -> None:
    """Raises InvalidArgumentError INVALID_LABEL when this cannot be a label's key."""
    if not _KEY.fullmatch(key):
        raise bad_field(
            field,
            f'the key "{key[:80]}" must be 1 to 63 of [A-Za-z0-9._-] that begin and end with a letter or digit, '
            "after an optional DNS name and a slash",
            "INVALID_LABEL",
        )


def check_value(field: str, key: str, value: str) -> None:
    """Raises InvalidArgumentError INVALID_LABEL when this cannot be a label's value."""
    if not _VALUE.fullmatch(value):
        raise bad_field(
            field,
            f"the value of {key} must be at most 63 of [A-Za-z0-9._-] that begin and end with a letter or digit",
            "INVALID_LABEL",
        )


def parse(text: str) -> tuple[Requirement, ...]:
    """The requirements of a selector; none for "". Raises InvalidArgumentError INVALID_SELECTOR."""
    if not text.strip():
        return ()
    tokens = _Tokens(text)
    found = [_requirement(tokens)]
    while tokens.next_is(","):
        found.append(_requirement(tokens))
    if tokens.peek() != "":
        raise _invalid(f'"{tokens.peek()}" where a comma or the end must be')
    if len(found) > MAX_REQUIREMENTS:
        raise _invalid(f"{len(found)} requirements; at most {MAX_REQUIREMENTS} are allowed")
    count = sum(len(requirement.values) for requirement in found)
    if count > MAX_VALUES:
        raise _invalid(f"{count} values; at most {MAX_VALUES} are allowed")
    return tuple(found)


def matches(requirements: Sequence[Requirement], labels: Mapping[str, str]) -> bool:
    """Whether an object with these labels meets all requirements."""
    return all(_meets(labels.get(requirement.key), requirement) for requirement in requirements)


def _meets(value: str | None, requirement: Requirement) -> bool:
    match requirement.operator:
        case Operator.EXISTS:
            return value is not None
        case Operator.ABSENT:
            return value is None
        case Operator.IN:
            return value in requirement.values
        case Operator.NOT_IN:
            return value not in requirement.values


class _Tokens:
    """The words and signs of a selector, one after the other; "" at the end."""

    def __init__(self, text: str) -> None:
        self._tokens: list[str] = []
        at, text = 0, text.rstrip()
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                raise _invalid(f'"{text[at:].lstrip()[:20]}" begins with what no key, value or operator has')
            self._tokens.append(match[1])
            at = match.end()
        self._at = 0

    def peek(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def take(self) -> str:
        token = self.peek()
        self._at += 1
        return token

    def next_is(self, token: str) -> bool:
        """Goes past the token if it is the next one."""
        if self.peek() != token:
            return False
        self._at += 1
        return True


def _requirement(tokens: _Tokens) -> Requirement:
    if tokens.next_is("!"):
        return Requirement(_key(tokens), Operator.ABSENT)
    key = _key(tokens)
    match tokens.peek():
        case "=" | "==":
            tokens.take()
            return Requirement(key, Operator.IN, (_value(tokens, key),))
        case "!=":
            tokens.take()
            return Requirement(key, Operator.NOT_IN, (_value(tokens, key),))
        case "in":
            tokens.take()
            return Requirement(key, Operator.IN, _values(tokens, key))
        case "notin":
            tokens.take()
            return Requirement(key, Operator.NOT_IN, _values(tokens, key))
    return Requirement(key, Operator.EXISTS)


def _key(tokens: _Tokens) -> str:
    key = tokens.take()
    if not _KEY.fullmatch(key):
        raise _invalid(f'"{key[:80]}" where a key must be')
    return key


def _value(tokens: _Tokens, key: str) -> str:
    """The value before the next comma, bracket or end; it may be empty."""
    if tokens.peek() in ("", ",", ")"):
        return ""
    value = tokens.take()
    if not _VALUE.fullmatch(value):
        raise _invalid(f'"{value[:80]}" where a value of {key} must be')
    return value


def _values(tokens: _Tokens, key: str) -> tuple[str, ...]:
    if not tokens.next_is("("):
        raise _invalid(f"no opening bracket with the values of {key}")
    values = [_value(tokens, key)]
    while tokens.next_is(","):
        values.append(_value(tokens, key))
    if not tokens.next_is(")"):
        raise _invalid(f"no closing bracket after the values of {key}")
    return tuple(dict.fromkeys(values))


def _invalid(problem: str) -> InvalidArgumentError:
    return bad_field(
        "selector", f"has {problem} (write for example: env=prod,tier in (web,db),!retired)", "INVALID_SELECTOR"
    )
