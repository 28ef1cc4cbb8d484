"""`ostler setting`."""

from __future__ import annotations

import click
from ostler.control.v1 import setting_pb2 as pb

from ostler_control.cli.app import App, pages, pass_app
from ostler_control.cli.lazy import Noun
from ostler_control.cli.names import ACCOUNT, CLUSTER, SETTING, ZONE
from ostler_control.cli.options import F, limit_option, list_options, output_option
from ostler_control.cli.output import Listing, View, print_list, print_one


def _scope(scope: pb.Setting.Scope.ValueType) -> str:
    return pb.Setting.Scope.Name(scope).lower()


def _origin(setting: pb.Setting) -> str:
    return f"{_scope(setting.origin)} {setting.origin_name}".strip()


def _allowed(setting: pb.Setting) -> str:
    return ", ".join(filter(None, (setting.type, setting.allowed, setting.unit)))


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
        ("type", _allowed),
        ("scopes", lambda s: ", ".join(map(_scope, s.scopes))),
        ("in force at once", lambda s: "yes" if s.dynamic else "no"),
        ("changed by", lambda s: s.changed_by),
    ],
)


def _place_options(function: F) -> F:
    for name, kind, word in (
        ("--account", ACCOUNT, "account"),
        ("--cluster", CLUSTER, "cluster"),
        ("--zone", ZONE, "zone"),
    ):
        function = click.option(name, type=kind, default="", help=f"The value for this {word}.")(function)
    return function


@click.group(cls=Noun)
def command() -> None:
    """Settings, which take effect without a restart."""


@command.command("list")
@_place_options
@limit_option()
@list_options
@pass_app
def list_(app: App, zone: str, cluster: str, account: str, limit: int | None, listing: Listing) -> None:
    """Lists settings with the values in force.

    \b
    Examples:
      ostler setting list --cluster web
      ostler setting list --account acme
    """
    request = pb.ListSettingsRequest(zone=zone, cluster=cluster, account=account)
    print_list(VIEW, pages(app.client.settings.ListSettings, request, lambda a: a.settings, limit), listing)


@command.command("get")
@click.argument("name", type=SETTING)
@_place_options
@output_option
@pass_app
def get(app: App, name: str, zone: str, cluster: str, account: str, output: str) -> None:
    """Shows one setting and where its value comes from.

    \b
    Example:
      ostler setting get vm.stop.timeout --cluster web
    """
    request = pb.GetSettingRequest(name=name, zone=zone, cluster=cluster, account=account)
    print_one(VIEW, app.client.settings.GetSetting(request), output)


@command.command("set")
@click.argument("name", type=SETTING)
@click.argument("value")
@_place_options
@output_option
@pass_app
def set_(app: App, name: str, value: str, zone: str, cluster: str, account: str, output: str) -> None:
    """Changes a setting for the fleet, a zone, cluster or account.

    \b
    Examples:
      ostler setting set vm.stop.timeout 120 --cluster web
      ostler setting set enable.additional.vm.configuration true --account acme
    """
    request = pb.UpdateSettingRequest(name=name, value=value, zone=zone, cluster=cluster, account=account)
    print_one(VIEW, app.client.settings.UpdateSetting(request), output)


@command.command("reset")
@click.argument("name", type=SETTING)
@_place_options
@output_option
@pass_app
def reset(app: App, name: str, zone: str, cluster: str, account: str, output: str) -> None:
    """Removes a value, so that the next wider one is in force.

    \b
    Example:
      ostler setting reset vm.stop.timeout --cluster web
    """
    request = pb.ResetSettingRequest(name=name, zone=zone, cluster=cluster, account=account)
    print_one(VIEW, app.client.settings.ResetSetting(request), output)
