"""The reference of the command line, from its own help."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click
from ostler_control.cli.main import root

HEAD = """# Commands

Every command with its options, as `--help` prints them. [cli.md](../cli.md) has what they share: profiles, output
formats, exit codes.
"""


def page() -> str:
    """Markdown: a chapter per noun, a section per verb."""
    parts = [HEAD]
    context = click.Context(root, info_name="ostler")
    for noun in root.list_commands(context):
        command = root.get_command(context, noun)
        assert command is not None
        parts += _chapter(command, click.Context(command, info_name=noun, parent=context))
    return "\n".join(parts)


def verbs(command: click.Command, context: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    """The commands below a group, or the command itself, with their contexts."""
    if not isinstance(command, click.Group):
        yield command, context
        return
    for name in command.list_commands(context):
        below = command.get_command(context, name)
        assert below is not None
        yield from verbs(below, click.Context(below, info_name=name, parent=context))


def _chapter(command: click.Command, context: click.Context) -> list[str]:
    head = [f"## {context.command_path}\n"]
    if isinstance(command, click.Group):
        head.append(f"{command.help}\n")
    for verb, its_context in verbs(command, context):
        head += _section(verb, its_context, is_alone=verb is command)
    return head


def _section(command: click.Command, context: click.Context, is_alone: bool) -> list[str]:
    title = [] if is_alone else [f"### {context.command_path}\n"]
    usage = " ".join(command.collect_usage_pieces(context))
    return [
        *title,
        f"```text\n{context.command_path} {usage}\n```\n",
        *_help(command.help or ""),
        *_options(command, context),
    ]


def _help(text: str) -> Iterator[str]:
    """Paragraphs, and the blocks that click leaves as they are (after a line with \\b) as fenced ones."""
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        lines = paragraph.strip("\n").splitlines()
        if lines and lines[0].strip() == "\b":
            yield "```text\n" + "\n".join(lines[1:]) + "\n```\n"
        else:
            yield paragraph.strip() + "\n"


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    records = [record for option in command.params if (record := option.get_help_record(context)) and record[1]]
    if records:
        rows = [f"| `{_cell(names)}` | {_cell(text)} |" for names, text in records]
        yield "\n".join(["| option | meaning |", "| --- | --- |", *rows]) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
