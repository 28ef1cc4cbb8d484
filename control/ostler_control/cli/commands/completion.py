"""`ostler completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Prints the completion script for your shell.

    It completes commands, options and the names of your objects.

    \b
    Examples:
      ostler completion bash > /etc/bash_completion.d/ostler
      ostler completion zsh > "${fpath[1]}/_ostler"
      ostler completion fish > ~/.config/fish/completions/ostler.fish
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"no completion for {shell}")
    click.echo(kind(ctx.find_root().command, {}, "ostler", "_OSTLER_COMPLETE").source())
