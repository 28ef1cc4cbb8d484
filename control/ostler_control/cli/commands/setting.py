"""`ostler setting`."""

from __future__ import annotations

import click
from ostler.control.v1 import setting_pb2 as pb

from ostler_control.cli.app import App, pages, pass_app
from ostler_control.cli.lazy import Noun
from ostler_control.cli.names import CLUSTER, SETTING
from ostler_control.cli.options import limit_option, list_options, output_option
from ostler_control.cli.output import Listing, View, print_list, print_one


def _origin(setting: pb.Setting) -> str:
    if setting.cluster_id:
        return "cluster"
    return "default" if setting.value == setting.default_value else "global"


VIEW = View[pb.Setting](
    "setting",
    columns=[
        ("name", lambda s: s.name),
        ("value", lambda s: s.value),
        ("from", _origin),
        ("description", lambda s: s.description),
    ],
    details=[
        ("default", lambda s: s.default_value),
        ("type", lambda s: s.type),
        ("per cluster", lambda s: "yes" if s.cluster_scoped else "no"),
    ],
)
cluster_option = click.option("--cluster", type=CLUSTER, help="The value for this cluster instead of the global one.")


@click.group(cls=Noun)
def command() -> None:
    """Settings that can be changed while everything runs."""


@command.command("list")
@cluster_option
@limit_option()
@list_options
@pass_app
def list_(app: App, cluster: str, limit: int | None, listing: Listing) -> None:
    """Lists settings with the values in force.

    \b
    Example:
      ostler setting list --cluster web
    """
    request = pb.ListSettingsRequest(cluster=cluster)
    print_list(VIEW, pages(app.client.settings.ListSettings, request, lambda a: a.settings, limit), listing)


@command.command("show")
@click.argument("name", type=SETTING)
@cluster_option
@output_option
@pass_app
def show(app: App, name: str, cluster: str, output: str) -> None:
    """Shows one setting with its type and default.

    \b
    Example:
      ostler setting show vm.stop.timeout
    """
    print_one(VIEW, app.client.settings.GetSetting(pb.GetSettingRequest(name=name, cluster=cluster)), output)


@command.command("set")
@click.argument("name", type=SETTING)
@click.argument("value")
@cluster_option
@output_option
@pass_app
def set_(app: App, name: str, value: str, cluster: str, output: str) -> None:
    """Changes a setting; it is in force at once.

    \b
    Example:
      ostler setting set vm.stop.timeout 120 --cluster web
    """
    request = pb.UpdateSettingRequest(name=name, value=value, cluster=cluster)
    print_one(VIEW, app.client.settings.UpdateSetting(request), output)


@command.command("reset")
@click.argument("name", type=SETTING)
@cluster_option
@output_option
@pass_app
def reset(app: App, name: str, cluster: str, output: str) -> None:
    """Puts a setting back to its default. A cluster's goes back to the global value.

    \b
    Example:
      ostler setting reset vm.stop.timeout --cluster web
    """
    print_one(VIEW, app.client.settings.ResetSetting(pb.ResetSettingRequest(name=name, cluster=cluster)), output)
