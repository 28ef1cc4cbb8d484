"""Settings about types of hypervisor."""

from __future__ import annotations

from ostler_control.hypervisors import registry
from ostler_control.settings.kinds import text, word_list
from ostler_control.settings.setting import Setting


def _types() -> dict[str, registry.Known]:
    return registry.known(CUSTOM_DISPLAY_NAME.get())


def _accept_name(name: str) -> str:
    registry.check_custom_name(name, _types())
    return name


def _accept_list(written: str) -> str:
    return registry.parse_list(written, _types())


def _show_list(stored: str) -> str:
    types = _types()
    return ", ".join(types[word].display_name if word in types else word for word in HYPERVISOR_LIST.kind.parse(stored))


CUSTOM_DISPLAY_NAME = Setting(
    "hypervisor.custom.display.name",
    text(registry.NAME_RULE),
    registry.DEFAULT_CUSTOM_NAME,
    "Display name of the hypervisor type custom.",
    accept=_accept_name,
)
HYPERVISOR_LIST = Setting(
    "hypervisor.list",
    word_list("hypervisor types or their display names, separated by commas"),
    "",
    "Hypervisor types that new clusters and VMs may have; empty: all.",
    accept=_accept_list,
    show=_show_list,
)

SETTINGS = (CUSTOM_DISPLAY_NAME, HYPERVISOR_LIST)
