"""Every `ostler ...` that a message, a help text or a page shows is one that the command line takes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from ostler_control.cli.main import COMMANDS
from ostler_control.main import main as control_main

from tests.unit.cli.command_lines import check

ROOT = Path(__file__).parents[3]
SOURCES = sorted(path for part in ("agent", "control", "common") for path in (ROOT / part).rglob("*.py"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "common/ostler_common/reasons.toml"]
TF = ROOT / "examples" / "opentofu" / "main.tf"


def _in_sources() -> Iterator[tuple[str, str]]:
    """Commands in messages and help texts: between backticks, in parentheses, or an example's line."""
    noun = "|".join(COMMANDS)
    mention = re.compile(
        rf"`(ostler (?:{noun})[^`\n]*)`|\((ostler (?:{noun}) [^)\n\"]*)\)|^\s+(ostler (?:{noun}) .*)$", re.M
    )
    for path in SOURCES:
        if "_pb2" in path.name:
            continue
        for match in mention.finditer(path.read_text()):
            yield str(path.relative_to(ROOT)), next(group for group in match.groups() if group)


def _in_pages() -> Iterator[tuple[str, str]]:
    """Commands in code blocks, and those between backticks."""
    for path in PAGES:
        code = False
        for line in re.sub(r"\\\n\s*", "", path.read_text()).splitlines():
            if line.lstrip().startswith("```"):
                code = not code
            elif code and re.match(r"\s*(?:\$ |# )?(?:sudo )?ostler ", line):
                yield path.name, line[line.index("ostler ") :]
            elif not code:
                for mention in re.findall(r"`(ostler [^`]*)`", line):
                    yield path.name, mention


def _in_opentofu() -> Iterator[tuple[str, str]]:
    """Commands that OpenTofu runs, with a word for each expression."""
    for command in re.findall(r'"(ostler [^"]*)"', TF.read_text()):
        yield TF.name, re.sub(r"\$\{[^}]*\}", "X", command)


def _all() -> list[tuple[str, str]]:
    return sorted({*_in_sources(), *_in_pages(), *_in_opentofu()})


@pytest.mark.parametrize(("place", "command"), _all(), ids=lambda value: value)
def test_a_command_in_a_text_is_one(place: str, command: str) -> None:
    try:
        check(command)
    except click.UsageError as error:
        pytest.fail(f"{place}: {command}: {error.format_message()}")


def _of_findings() -> list[str]:
    """What `ostler-control check` advises, with names in place of what is filled in."""
    source = "".join(path.read_text() for path in sorted((ROOT / "control/ostler_control/check").glob("*.py")))
    return sorted(set(re.findall(r'f?"((?:ostler|ostler-control) [a-z][^"]*)"', source)))


@pytest.mark.parametrize("command", _of_findings())
def test_a_command_that_a_finding_advises_is_one(command: str) -> None:
    if command.startswith("ostler-control "):
        name = command.split()[1]
        assert name in control_main.commands
        check_options(control_main.commands[name], shlex.split(command)[2:])
    else:
        for noun in ("snapshot", "volume"):
            check(command.replace("{noun}", noun).replace("{info.virtual_size_bytes}", "1024"))


def check_options(command: click.Command, words: list[str]) -> None:
    """Raises click.UsageError for options that the command does not have; its files need not exist."""
    known = {option for parameter in command.params for option in parameter.opts}
    unknown = [word for word in words if word.startswith("-") and word not in known]
    if unknown:
        raise click.UsageError(f"{command.name} has no option {unknown[0]}")


def test_there_are_commands_in_texts_and_a_wrong_one_is_found() -> None:
    assert len(_all()) > 100
    for wrong in ("ostler vm launch web-1", "ostler vm start web-1 --fast", "ostler hosts"):
        with pytest.raises(click.UsageError):
            check(wrong)
