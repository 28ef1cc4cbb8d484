"""`ostler hypervisor`."""

from __future__ import annotations

from collections.abc import Sequence

import click
from ostler.control.v1 import hypervisor_pb2 as pb
from ostler.types.v1 import volume_pb2

from ostler_control.cli import text
from ostler_control.cli.app import App, pages, pass_app
from ostler_control.cli.lazy import Noun
from ostler_control.cli.names import HYPERVISOR_TYPE
from ostler_control.cli.options import limit_option, list_options, output_option
from ostler_control.cli.output import Listing, Section, View, print_list, print_one


def _formats(row: pb.HypervisorType) -> list[str]:
    return [volume_pb2.DiskFormat.Name(value).removeprefix("DISK_FORMAT_").lower() for value in row.template_formats]


def _functions(row: pb.HypervisorType) -> list[str]:
    return [f"{word} (some hosts)" if word in row.partial_functions else word for word in row.functions]


def _conflicts(row: pb.HypervisorType) -> Sequence[Sequence[str]]:
    return [("what",), *((conflict,) for conflict in row.conflicts)]


VIEW = View[pb.HypervisorType](
    "hypervisor type",
    columns=[
        ("name", lambda t: t.display_name),
        ("type", lambda t: t.type),
        ("hosts up", lambda t: f"{t.up_count}/{t.host_count}"),
        ("allowed", lambda t: text.yes(t.allowed)),
        ("conflicts", lambda t: str(len(t.conflicts))),
        ("formats", lambda t: text.joined(_formats(t))),
        ("supports", lambda t: text.joined(_functions(t))),
    ],
    details=[("clusters", lambda t: str(t.cluster_count)), ("pool types", lambda t: text.joined(t.pool_types))],
    sections=[Section("Conflicts", _conflicts)],
    name=lambda t: t.type,
)


@click.group(cls=Noun)
def command() -> None:
    """Hypervisor types that hosts report, and what each supports."""


@command.command("list")
@limit_option()
@list_options
@pass_app
def list_(app: App, limit: int | None, listing: Listing) -> None:
    """Lists the types that hosts report, and the custom type.

    \b
    Example:
      ostler hypervisor list
    """
    request = pb.ListHypervisorTypesRequest()
    found = pages(app.client.hypervisors.ListHypervisorTypes, request, lambda a: a.hypervisor_types, limit)
    print_list(VIEW, found, listing)


@command.command("show")
@click.argument("hypervisor_type", metavar="TYPE", type=HYPERVISOR_TYPE)
@output_option
@pass_app
def show(app: App, hypervisor_type: str, output: str) -> None:
    """Shows one type (by type or display name) with its conflicts.

    \b
    Example:
      ostler hypervisor show KVM
    """
    request = pb.GetHypervisorTypeRequest(hypervisor_type=hypervisor_type)
    print_one(VIEW, app.client.hypervisors.GetHypervisorType(request), output)
