"""A group of commands that knows names and one-line helps, and imports a command's module only when it is used."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click
from click.shell_completion import CompletionItem

# What fingers type, and the verbs that it stands for, the first that the noun has.
ALIASES = {"ls": ("list",), "rm": ("delete", "remove", "revoke"), "get": ("show",), "show": ("get",)}


class Noun(click.Group):
    """A group that lists its verbs in the order in which they are written, and knows the aliases of common ones."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        verbs = [cmd_name, *(ALIASES.get(cmd_name, ()))]
        return next((self.commands[verb] for verb in verbs if verb in self.commands), None)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


class LazyGroup(click.Group):
    """`entries`: the commands in the order of the help, name -> one-line help. Command NAME is `command` of module
    `package`.NAME."""

    def __init__(self, *args: Any, package: str, entries: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.package = package
        self.entries = entries

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.entries:
            return None
        command = import_module(f"{self.package}.{cmd_name}").command
        if not isinstance(command, click.Command):
            raise TypeError(f"{self.package}.{cmd_name}.command is no command")
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        items = [CompletionItem(name, help=text) for name, text in self.entries.items() if name.startswith(incomplete)]
        return items + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(self.entries.items()))
