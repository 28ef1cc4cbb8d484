"""Completion as a shell asks for it."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner
from ostler_control.cli.main import root


def complete(profile: Path, line: str) -> list[str]:
    """What bash would offer for the last word of the line."""
    environment = {
        "OSTLER_PROFILE": str(profile),
        "_OSTLER_COMPLETE": "bash_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split(" ")) - 1),
    }
    result = CliRunner(env=environment).invoke(root, [], prog_name="ostler")
    return [item.partition(",")[2] for item in result.stdout.splitlines() if item]
