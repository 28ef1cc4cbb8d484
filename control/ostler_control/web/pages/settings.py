"""Settings: the values in force for the fleet, a zone, a cluster or an account, and where each comes from."""

from __future__ import annotations

from ostler.control.v1 import setting_pb2 as pb
from starlette.requests import Request
from starlette.responses import Response

from ostler_control.cli.app import App
from ostler_control.cli.commands import setting
from ostler_control.web import tables
from ostler_control.web.actions import Action, Actions, Target
from ostler_control.web.context import Console
from ostler_control.web.forms import Call, Option
from ostler_control.web.lists import render_list
from ostler_control.web.objects import render_object

SCOPES = (("zone", "Zone"), ("cluster", "Cluster"), ("account", "Account"))


def settings(console: Console, request: Request) -> Response:
    """The page of settings."""
    filters = tables.Filters(request, *SCOPES)
    scope = {name: filters[name] for name, _ in SCOPES}
    wanted = pb.ListSettingsRequest(page_size=tables.PAGE_SIZE, page_token=filters.page, **scope)
    answer = console.app.client.settings.ListSettings(wanted)
    table = tables.table(
        setting.VIEW,
        answer.settings,
        "Settings",
        lambda s: _address(s.name, scope),
        next=filters.next(answer.next_page_token),
    )
    return render_list(console, request, ("setting", "list"), filters, table)


def one_setting(console: Console, request: Request) -> Response:
    """The page of a setting, for the scope of the address."""
    filters = tables.Filters(request, *SCOPES)
    scope = {name: filters[name] for name, _ in SCOPES}
    found = console.app.client.settings.GetSetting(pb.GetSettingRequest(name=request.path_params["setting"], **scope))
    target = _target(found.name)
    buttons = ACTIONS.buttons(console, target)
    words = ("setting", "get", found.name, *filters.words())
    return render_object(console, request, target, words, setting.VIEW, found, buttons=buttons)


def _target(name: str) -> Target:
    return Target(name, name, "setting", "", "/settings", tables.path("settings", name))


def _find(app: App, name: str) -> Target:
    return _target(app.client.settings.GetSetting(pb.GetSettingRequest(name=name)).name)


def _scope(call: Call) -> dict[str, str]:
    return {name: call.text(name) for name, _ in SCOPES}


def _address(name: str, scope: dict[str, str]) -> str:
    return tables.address(tables.path("settings", name), scope)


def _set(app: App, call: Call) -> str:
    request = pb.UpdateSettingRequest(name=call.target, value=call.text("value"), **_scope(call))
    app.client.settings.UpdateSetting(request)
    return _address(call.target, _scope(call))


def _reset(app: App, call: Call) -> str:
    app.client.settings.ResetSetting(pb.ResetSettingRequest(name=call.target, **_scope(call)))
    return _address(call.target, _scope(call))


_OPTIONS = tuple(Option(name, f"For this {name} (empty: all)") for name, _ in SCOPES)
ACTIONS = Actions(
    "/settings",
    _find,
    (
        Action(
            "set",
            ("setting", "set"),
            "Change",
            "Change setting {name}?",
            _set,
            options=(Option("value", "Value", is_argument=True), *_OPTIONS),
        ),
        Action(
            "reset",
            ("setting", "reset"),
            "Reset",
            "Remove the value of setting {name}, so that the next wider one is in force?",
            _reset,
            options=_OPTIONS,
        ),
    ),
)
