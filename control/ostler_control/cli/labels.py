"""Labels on the command line: the verb `label` of a noun, --label of new objects and --selector of lists."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import click
from ostler.control.v1 import label_pb2 as pb

from ostler_control.cli import text
from ostler_control.cli.app import App, pass_app
from ostler_control.cli.names import (
    BACKUP,
    CLUSTER,
    HOST,
    ISO,
    NETWORK,
    POOL,
    SNAPSHOT,
    TEMPLATE,
    VM,
    VM_SNAPSHOT,
    VOLUME,
    ZONE,
)
from ostler_control.cli.options import output_option
from ostler_control.cli.output import View, print_one

F = TypeVar("F", bound=Callable[..., object])
_TYPES = {
    "vm": VM,
    "volume": VOLUME,
    "snapshot": SNAPSHOT,
    "vm snapshot": VM_SNAPSHOT,
    "backup": BACKUP,
    "host": HOST,
    "template": TEMPLATE,
    "iso": ISO,
    "pool": POOL,
    "network": NETWORK,
    "cluster": CLUSTER,
    "zone": ZONE,
}


def joined(labels: Mapping[str, str]) -> str:
    """`env=prod, tier=web`; a dash for none."""
    return text.joined(f"{key}={value}" for key, value in sorted(labels.items()))


VIEW = View[pb.UpdateLabelsResponse](
    "object", columns=[("labels", lambda o: joined(o.labels))], name=lambda o: joined(o.labels)
)


def selector_option(function: F) -> F:
    """--selector, as parameter `selector`."""
    return click.option(
        "-l", "--selector", default="", metavar="SELECTOR", help='Only those with these labels: "env=prod,!old".'
    )(function)


def label_option(function: F) -> F:
    """--label, which may be given several times, as parameter `labels`."""
    return click.option(
        "--label", "labels", multiple=True, metavar="KEY=VALUE", callback=_pairs, help="Label; may be repeated."
    )(function)


def label_command(noun: str) -> click.Command:
    """The verb `label` of a noun."""

    @click.command("label", help=_HELP.format(noun=noun, object=_NOUNS.get(noun, f"a {noun}"), name=_EXAMPLES[noun]))
    @click.argument(noun.replace(" ", "_"), type=_TYPES[noun])
    @click.argument("changes", nargs=-1, required=True, metavar="KEY=VALUE|KEY-...")
    @output_option
    @pass_app
    def command(app: App, /, changes: tuple[str, ...], output: str, **named: str) -> None:
        labels, removed = changes_of(changes)
        request = pb.UpdateLabelsRequest(**named, set=labels, remove=removed)
        print_one(VIEW, app.client.labels.UpdateLabels(request), output)

    return command


# How help calls the object, where that is not "a" and the noun.
_NOUNS = {"vm": "a VM", "vm snapshot": "a VM snapshot", "iso": "an ISO image"}
_EXAMPLES = {
    "vm": "web-1",
    "volume": "data-1",
    "snapshot": "nightly",
    "vm snapshot": "before-upgrade",
    "backup": "before-upgrade",
    "host": "h1",
    "template": "debian-13",
    "iso": "virtio-win",
    "pool": "fast",
    "network": "acme-lan",
    "cluster": "web",
    "zone": "berlin",
}
_HELP = """Adds or changes labels of {object}: KEY=VALUE. KEY- removes one.

\b
Examples:
  ostler {noun} label {name} env=prod tier=web
  ostler {noun} label {name} tier-
  ostler {noun} list --selector "env=prod,tier in (web,db)"
"""


def changes_of(values: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The labels to set, and the keys to remove. Raises click.UsageError."""
    labels, removed = {}, []
    for value in values:
        key, equals, rest = value.partition("=")
        if key and equals:
            labels[key] = rest
        elif value.endswith("-") and len(value) > 1:
            removed.append(value[:-1])
        else:
            raise click.UsageError(f"{value!r} must be KEY=VALUE, or KEY- to remove the label")
    return labels, removed


def _pairs(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> dict[str, str]:
    labels, removed = changes_of(values)
    if removed:
        raise click.BadParameter("must be KEY=VALUE", ctx, param)
    return labels
