"""Where running VMs should be, and in which moves they get there.

Pure: a snapshot in, a plan out; neither database nor gRPC. `plan` makes plans, `Placements` re-checks a move against a
later snapshot by the same rules, `algorithms` holds what is wanted, `simulate` plans on a file.
"""

from ostler_control.drs.model import Group, GroupKind, Host, Mode, Move, Plan, Snapshot, Verdict, Vm
from ostler_control.drs.planner import plan
from ostler_control.drs.rules import Placements
from ostler_control.drs.settings import Settings

__all__ = [
    "Group",
    "GroupKind",
    "Host",
    "Mode",
    "Move",
    "Placements",
    "Plan",
    "Settings",
    "Snapshot",
    "Verdict",
    "Vm",
    "plan",
]
