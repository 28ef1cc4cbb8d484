"""Labels on the command line: the verb `label` of a noun, --label of new objects and --selector of lists."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import click
from ostler.control.v1 import label_pb2 as pb

from ostler_control.cli import text
from ostler_control.cli.app import App, pass_app
from ostler_control.cli.names import (
    ACCOUNT,
    AFFINITY_GROUP,
    BACKUP,
    BACKUP_STORE,
    CLUSTER,
    HOST,
    IMPORT_PLAN,
    IMPORT_SOURCE,
    ISO,
    KEY,
    NETWORK,
    POOL,
    SNAPSHOT,
    TEMPLATE,
    USER,
    USER_DATA,
    VM,
    VM_SNAPSHOT,
    VOLUME,
    ZONE,
    Name,
)
from ostler_control.cli.options import output_option
from ostler_control.cli.output import View, print_one

F = TypeVar("F", bound=Callable[..., object])


@dataclass(frozen=True)
class Kind:
    """A kind of objects with labels.

    noun: before the verb; type: of the argument; words: how help calls the object; example: one's name; field: of
    UpdateLabelsRequest, if not the noun.
    """

    noun: str
    type: click.ParamType[str]
    words: str
    example: str
    field: str = ""

    @property
    def name(self) -> str:
        """The field that names it in a request."""
        return self.field or self.noun.replace(" ", "_")


_ID = "3f6f1a52-8a8e-4d0c-9f53-0f6f5f6f1a52"
_KINDS = (
    Kind("vm", VM, "a VM", "web-1"),
    Kind("volume", VOLUME, "a volume", "data-1"),
    Kind("snapshot", SNAPSHOT, "a snapshot", "nightly"),
    Kind("vm snapshot", VM_SNAPSHOT, "a VM snapshot", "before-upgrade"),
    Kind("backup", BACKUP, "a backup", "before-upgrade"),
    Kind("host", HOST, "a host", "h1"),
    Kind("template", TEMPLATE, "a template", "debian-13"),
    Kind("iso", ISO, "an ISO image", "virtio-win"),
    Kind("pool", POOL, "a pool", "fast"),
    Kind("network", NETWORK, "a network", "acme-lan"),
    Kind("cluster", CLUSTER, "a cluster", "web"),
    Kind("zone", ZONE, "a zone", "berlin"),
    Kind("snapshot schedule", click.STRING, "a schedule", _ID),
    Kind("vm snapshot schedule", click.STRING, "a schedule", _ID),
    Kind("backup schedule", click.STRING, "a schedule", _ID),
    Kind("backup store", BACKUP_STORE, "a store", "vault", "pool"),
    Kind("import source", IMPORT_SOURCE, "an import source", "vc1"),
    Kind("import plan", IMPORT_PLAN, "an import plan", "wave-1"),
    Kind("account", ACCOUNT, "an account", "research"),
    Kind("user", USER, "a user", "ada"),
    Kind("key", KEY, "a key version", "file:9f86d081884c7d65"),
    Kind("userdata", USER_DATA, "a document", "web", "user_data"),
    Kind("affinity", AFFINITY_GROUP, "an affinity group", "databases", "affinity_group"),
)
KINDS = {kind.noun: kind for kind in _KINDS}


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
    kind = KINDS[noun]

    @click.command("label", help=_HELP.format(noun=noun, object=kind.words, name=kind.example))
    @click.argument(kind.name, type=kind.type, metavar=None if isinstance(kind.type, Name) else "ID")
    @changes_argument
    @output_option
    @pass_app
    def command(app: App, /, changes: tuple[str, ...], output: str, **named: str) -> None:
        change(app, named, changes, output)

    return command


def changes_argument(function: F) -> F:
    """What `label` changes, as parameter `changes`."""
    return click.argument("changes", nargs=-1, required=True, metavar="KEY=VALUE|KEY-...")(function)


def change(app: App, named: Mapping[str, str], changes: Sequence[str], output: str) -> None:
    """Changes the labels of the object that a field of UpdateLabelsRequest names, and prints all that it has."""
    labels, removed = changes_of(changes)
    request = pb.UpdateLabelsRequest(**named, set=labels, remove=removed)
    print_one(VIEW, app.client.labels.UpdateLabels(request), output)


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
