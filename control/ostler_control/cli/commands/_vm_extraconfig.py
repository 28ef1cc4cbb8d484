"""`ostler vm extraconfig`."""

from __future__ import annotations

from pathlib import Path

import click
from ostler.control.v1 import extra_config_pb2 as pb

from ostler_control.cli import text
from ostler_control.cli.app import App, pass_app
from ostler_control.cli.lazy import Noun
from ostler_control.cli.names import VM
from ostler_control.cli.options import list_options, output_option
from ostler_control.cli.output import Listing, View, print_list, print_one
from ostler_control.cli.text_files import read_text


def _state(config: pb.ExtraConfig) -> str:
    if config.override_by:
        return f"passes (override by {config.override_by})"
    return "passes" if config.passes else config.refusal


VIEW = View[pb.ExtraConfig](
    "extra configuration",
    columns=[
        ("name", lambda c: c.name),
        ("check", _state),
        ("explanation", lambda c: c.explanation),
        ("age", lambda c: text.age(c, "create_time")),
    ],
)


@click.group("extraconfig", cls=Noun)
def extraconfig() -> None:
    """libvirt XML that is merged into a VM's definition."""


@extraconfig.command("set")
@click.argument("vm", type=VM)
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--override", is_flag=True, help="Accept what the account may not have (admins).")
@output_option
@pass_app
def set_(app: App, vm: str, name: str, file: Path, override: bool, output: str) -> None:
    """Sets one; it is in force at the VM's next start.

    FILE has elements from below <domain>; - reads standard input.

    \b
    Example:
      ostler vm extraconfig set web-1 gpu video.xml
    """
    request = pb.SetExtraConfigRequest(vm=vm, name=name, xml=read_text(file), override=override)
    print_one(VIEW, app.client.extra_configs.SetExtraConfig(request), output)


@extraconfig.command("list")
@click.argument("vm", type=VM)
@list_options
@pass_app
def list_(app: App, vm: str, listing: Listing) -> None:
    """Lists a VM's, and whether it may start with each.

    \b
    Example:
      ostler vm extraconfig list web-1
    """
    answer = app.client.extra_configs.ListExtraConfigs(pb.ListExtraConfigsRequest(vm=vm))
    print_list(VIEW, answer.extra_configs, listing)


@extraconfig.command("show")
@click.argument("vm", type=VM)
@click.argument("name")
@pass_app
def show(app: App, vm: str, name: str) -> None:
    """Prints the XML of one.

    \b
    Example:
      ostler vm extraconfig show web-1 gpu
    """
    answer = app.client.extra_configs.ListExtraConfigs(pb.ListExtraConfigsRequest(vm=vm))
    found = next((config for config in answer.extra_configs if config.name == name), None)
    if found is None:
        names = ", ".join(config.name for config in answer.extra_configs) or "none"
        raise click.UsageError(f"VM {vm} has no extra configuration {name} (it has {names})")
    click.echo(found.xml, nl=not found.xml.endswith("\n"))


@extraconfig.command("remove")
@click.argument("vm", type=VM)
@click.argument("name")
@pass_app
def remove(app: App, vm: str, name: str) -> None:
    """Removes one; a running VM has it until its next start.

    \b
    Example:
      ostler vm extraconfig remove web-1 gpu
    """
    app.client.extra_configs.RemoveExtraConfig(pb.RemoveExtraConfigRequest(vm=vm, name=name))
    click.echo(f"extra configuration {name} of VM {vm} is removed")
