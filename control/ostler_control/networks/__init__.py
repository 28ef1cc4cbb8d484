"""Networks: what admins create, who may use them, and what they need of hosts."""

from ostler_control.networks.access import check_allowed, check_host, find_on_bridge, usable_by
from ostler_control.networks.change import CHANGEABLE, NewNetwork, create, delete, update

__all__ = [
    "CHANGEABLE",
    "NewNetwork",
    "check_allowed",
    "check_host",
    "create",
    "delete",
    "find_on_bridge",
    "update",
    "usable_by",
]
