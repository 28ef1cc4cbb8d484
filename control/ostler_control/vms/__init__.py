"""VMs: what may be done to them, and the workflows that do it.

Every request function here (`create`, `start`, ...) works within the caller's transaction: it checks, changes rows,
claims capacity, and gives the operation that was recorded; nothing else happens before that transaction has committed.
"""

from ostler_control.vms.addresses import read_addresses
from ostler_control.vms.adopt import NewVmAdoption, adopt, inspect_vm
from ostler_control.vms.clone import clone
from ostler_control.vms.create import create
from ostler_control.vms.delete import delete
from ostler_control.vms.ended import keep_of_ended
from ostler_control.vms.find import find_hosts
from ostler_control.vms.isos import attach_iso, eject_iso
from ostler_control.vms.machines import upgrade as upgrade_machine
from ostler_control.vms.migrate import migrate
from ostler_control.vms.nic_links import set_link
from ostler_control.vms.nics import add_nic, remove_nic
from ostler_control.vms.reboot import reboot
from ostler_control.vms.reinstall import reinstall
from ostler_control.vms.resize import resize
from ostler_control.vms.resolve import resolve_stranded
from ostler_control.vms.set_firmware import set_firmware
from ostler_control.vms.start import start
from ostler_control.vms.stop import stop
from ostler_control.vms.unmanage import unmanage
from ostler_control.vms.update import update
from ostler_control.vms.wanted import NewNic, NewVm

__all__ = [
    "NewNic",
    "NewVm",
    "NewVmAdoption",
    "add_nic",
    "adopt",
    "attach_iso",
    "clone",
    "create",
    "delete",
    "eject_iso",
    "find_hosts",
    "inspect_vm",
    "keep_of_ended",
    "migrate",
    "read_addresses",
    "reboot",
    "reinstall",
    "remove_nic",
    "resize",
    "resolve_stranded",
    "set_firmware",
    "set_link",
    "start",
    "stop",
    "unmanage",
    "update",
    "upgrade_machine",
]
