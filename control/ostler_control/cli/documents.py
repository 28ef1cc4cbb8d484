"""Plain data as JSON and YAML whose text cannot steer a terminal: characters that are not printable are escaped, as
both formats allow, so that a program reads the same data."""

from __future__ import annotations

import json
import re

import yaml

_NOT_ASCII = re.compile(r"[^\n -~]")


def to_json(data: object, indent: int | None = 2) -> str:
    """indent: None for one line."""
    return _NOT_ASCII.sub(_json_escape, json.dumps(data, indent=indent, ensure_ascii=False))


def to_yaml(data: object) -> str:
    return _NOT_ASCII.sub(_yaml_escape, yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True))


class _Dumper(yaml.SafeDumper):
    """Puts texts with characters to escape in double quotes, where escapes mean something."""


def _represent(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    plain = text.replace("\n", "").isprintable()
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else '"')


_Dumper.add_representer(str, _represent)


def _json_escape(match: re.Match[str]) -> str:
    character = match[0]
    return character if character.isprintable() else json.dumps(character)[1:-1]


def _yaml_escape(match: re.Match[str]) -> str:
    character = match[0]
    return character if character.isprintable() else f"\\U{ord(character):08x}"
