"""The life of a DRS plan: made out of the database, kept, carried out move by move, and forgotten in time.

What is planned, and by which rules, is `ostler_control.drs`'s business, which knows no database.
"""

from ostler_control.drs_plans.begin import cancel, check_none_active, execute, execute_mapping
from ostler_control.drs_plans.evacuate import check_can_evacuate, evacuate_host, evacuation, way_back
from ostler_control.drs_plans.generate import generate
from ostler_control.drs_plans.scheduler import Scheduler
from ostler_control.drs_plans.status import Status, status
from ostler_control.drs_plans.storage import execute_storage, plan_storage
from ostler_control.drs_plans.store import keep

__all__ = [
    "Scheduler",
    "Status",
    "cancel",
    "check_can_evacuate",
    "check_none_active",
    "evacuate_host",
    "evacuation",
    "execute",
    "execute_mapping",
    "execute_storage",
    "generate",
    "keep",
    "plan_storage",
    "status",
    "way_back",
]
