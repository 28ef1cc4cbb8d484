"""Every setting by its name."""

from __future__ import annotations

import difflib

from ostler_common.errors import NotFoundError

from ostler_control.settings import (
    agents,
    drs,
    encryption,
    events,
    ha,
    hypervisors,
    imports,
    migration,
    quotas,
    templates,
    vms,
)
from ostler_control.settings.setting import AnySetting

SUBJECTS: dict[str, tuple[AnySetting, ...]] = {
    "VMs": vms.SETTINGS,
    "Quotas": quotas.SETTINGS,
    "Live migration": migration.SETTINGS,
    "DRS": drs.SETTINGS,
    "High availability": ha.SETTINGS,
    "Hosts": agents.SETTINGS,
    "Hypervisors": hypervisors.SETTINGS,
    "Volume encryption": encryption.SETTINGS,
    "Templates": templates.SETTINGS,
    "Imports": imports.SETTINGS,
    "Events": events.SETTINGS,
}
SETTINGS: dict[str, AnySetting] = {
    setting.name: setting
    for setting in sorted(
        (setting for settings in SUBJECTS.values() for setting in settings), key=lambda setting: setting.name
    )
}


def find(name: str) -> AnySetting:
    """The setting of this name. Raises NotFoundError SETTING_NOT_FOUND, which suggests the nearest names."""
    if name in SETTINGS:
        return SETTINGS[name]
    near = difflib.get_close_matches(name.lower(), SETTINGS, n=3, cutoff=0.6)
    near = near or [known for known in SETTINGS if name and name.lower() in known][:3]
    hint = f"did you mean {' or '.join(near)}?" if near else "`ostler setting list` shows all"
    raise NotFoundError(f'there is no setting "{name[:80]}" ({hint})', "SETTING_NOT_FOUND", {"name": name[:80]})
