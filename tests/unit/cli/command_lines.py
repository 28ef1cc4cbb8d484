"""Command lines of `ostler` in texts, held against the command line's own parser."""

from __future__ import annotations

import re
import shlex

import click
from ostler_control.cli.main import root

# Where a command ends in the middle of a shell line or of a sentence.
_END = re.compile(r"\s(?:\||>|<|&&|#|;|\\)(?:\s|$)|\s\\$")


def check(text: str) -> None:
    """Raises click.UsageError when the command line would not take it. Files need not exist, values may be words in
    capitals, and a mention may leave arguments out."""
    text = _END.split(text)[0]
    words = [word for word in shlex.split(re.sub(r"\{[^}]*\}", "X", text.replace("...", " "))) if word != "[OPTIONS]"][
        1:
    ]
    command: click.Command = root
    context = click.Context(root, info_name="ostler")
    while isinstance(command, click.Group) and words and words[0].islower() and not words[0].startswith("-"):
        name, found, words = command.resolve_command(context, words)
        assert found is not None
        command, context = found, click.Context(found, info_name=name, parent=context)
    if isinstance(command, click.Group):
        return
    try:
        command.make_context(command.name, words, parent=context.parent)
    except (click.MissingParameter, click.exceptions.Exit):  # --help exits
        return
    except click.BadOptionUsage as error:
        if "requires an argument" not in error.message:
            raise
    except click.BadParameter as error:
        placeholder = any(word.isupper() or "NAME" in word for word in words)
        if not placeholder and "does not exist" not in error.message:
            raise
