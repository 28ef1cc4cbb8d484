"""The allow-list: which elements of a domain extra configuration may have.

    list      = rule {("," | newline) rule}
    rule      = path {"@" attribute ["=" value {"|" value}]}
    path      = name {"/" name}                      from below <domain>: devices/video, cpu/feature, qemu:commandline

A rule admits the element at its path and what is inside it:

- An attribute in a rule must be there, with one of the values if there are any. Other attributes are free.
- Elements on the way to the path (`devices`) are admitted bare: without attributes and text.
- Several rules for one path are alternatives.
- An element that has rules of its own must satisfy one of them, even inside an element that another rule admits.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

MAX_RULES = 200
MAX_LENGTH = 16 << 10

_NAME = r"[A-Za-z_][A-Za-z0-9_.-]{0,63}"
_PATH = re.compile(rf"(?:qemu:)?{_NAME}(?:/(?:qemu:)?{_NAME}){{0,11}}", re.ASCII)
_ATTRIBUTE = re.compile(_NAME, re.ASCII)
_VALUE = re.compile(r"[^\s,@|=<>&\"']{1,128}")


@dataclass(frozen=True)
class AttributeRule:
    """An attribute that must be there. values: what it may be; empty: anything."""

    name: str
    values: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}={'|'.join(self.values)}" if self.values else self.name

    def complaint(self, attributes: Mapping[str, str]) -> str:
        """What is wrong with an element's attributes, "" when nothing is."""
        if self.name not in attributes:
            return f"the attribute {self.name} is missing"
        if self.values and attributes[self.name] not in self.values:
            return f'the attribute {self.name} is "{attributes[self.name][:80]}"'
        return ""


@dataclass(frozen=True)
class Rule:
    """An element that is admitted: its path below <domain>, and its attributes."""

    path: tuple[str, ...]
    attributes: tuple[AttributeRule, ...] = ()

    def __str__(self) -> str:
        return "@".join(["/".join(self.path), *map(str, self.attributes)])

    def complaint(self, attributes: Mapping[str, str]) -> str:
        """Why an element at the path with these attributes does not satisfy the rule, "" when it does."""
        return next(filter(None, (rule.complaint(attributes) for rule in self.attributes)), "")


def parse_rules(text: str) -> tuple[Rule, ...]:
    """The rules of a list. Raises ValueError, whose text names the bad rule."""
    if len(text) > MAX_LENGTH:
        raise ValueError(f"has {len(text)} characters; at most {MAX_LENGTH} are allowed")
    words = [word.strip() for word in re.split(r"[,\n]", text)]
    rules = tuple(_parse(word) for word in words if word)
    if len(rules) > MAX_RULES:
        raise ValueError(f"has {len(rules)} rules; at most {MAX_RULES} are allowed")
    return rules


def _parse(word: str) -> Rule:
    path, *attributes = word.split("@")
    if not _PATH.fullmatch(path):
        raise ValueError(f'the rule "{word[:80]}" does not begin with a path such as devices/video')
    return Rule(tuple(path.split("/")), tuple(_attribute(word, attribute) for attribute in attributes))


def _attribute(word: str, text: str) -> AttributeRule:
    name, equals, values = text.partition("=")
    if not _ATTRIBUTE.fullmatch(name):
        raise ValueError(f'the rule "{word[:80]}" has a bad attribute (write PATH@ATTRIBUTE=VALUE|VALUE)')
    chosen = tuple(values.split("|")) if equals else ()
    if any(not _VALUE.fullmatch(value) for value in chosen):
        raise ValueError(f'the rule "{word[:80]}" has a bad value for {name} (write PATH@ATTRIBUTE=VALUE|VALUE)')
    return AttributeRule(name, chosen)
