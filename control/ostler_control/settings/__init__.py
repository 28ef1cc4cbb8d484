"""Settings that can be changed while everything runs.

One module declares the settings of one subject; `registry` lists them all. Code reads a setting through its constant,
typed: `settings.vms.STOP_TIMEOUT.get(At(cluster_id=...))`.
"""

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
from ostler_control.settings.changes import GLOBAL, Owner, change, reset
from ostler_control.settings.registry import SETTINGS, SUBJECTS, find
from ostler_control.settings.scopes import ANYWHERE, At
from ostler_control.settings.setting import InForce, Setting, in_force
from ostler_control.settings.values import forget, read_once
from ostler_control.states import Scope

__all__ = [
    "ANYWHERE",
    "GLOBAL",
    "SETTINGS",
    "SUBJECTS",
    "At",
    "InForce",
    "Owner",
    "Scope",
    "Setting",
    "agents",
    "change",
    "drs",
    "encryption",
    "events",
    "find",
    "forget",
    "ha",
    "hypervisors",
    "imports",
    "in_force",
    "migration",
    "quotas",
    "read_once",
    "reset",
    "templates",
    "vms",
]
