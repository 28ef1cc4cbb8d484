"""Settings about VMs and what they are given."""

from __future__ import annotations

from ostler_control.extraconfig import check
from ostler_control.extraconfig.rules import Rule, parse_rules
from ostler_control.settings.kinds import BOOLEAN, Kind, integer
from ostler_control.settings.scopes import PER_ACCOUNT, PER_CLUSTER
from ostler_control.settings.setting import Setting


def _rules(written: str) -> tuple[Rule, ...]:
    rules = parse_rules(written)
    for rule in rules:
        if rule.path in check.OWNED:
            raise ValueError(f'the rule "{rule}" is for what Ostler sets itself ({check.OWNED[rule.path]})')
    return rules


STOP_TIMEOUT = Setting(
    "vm.stop.timeout",
    integer(1, 3600, "seconds"),
    "60",
    "How long a guest gets to shut down before it is forced off.",
    PER_CLUSTER,
)
CONSOLE_IDLE_TIMEOUT = Setting(
    "vm.console.idle.timeout",
    integer(0, 604800, "seconds"),
    "1800",
    "After how long without input a serial console is closed, so that an unattended one does not stay open and taken; "
    "0: never.",
    PER_ACCOUNT,
)
MAX_SNAPSHOTS = Setting(
    "vm.snapshots.max",
    integer(0, 1000, "snapshots"),
    "32",
    "The most snapshots of the whole VM that each VM of the account may have, those of schedules included.",
    PER_ACCOUNT,
)
USERDATA_MAX_LENGTH = Setting(
    "vm.userdata.max.length",
    integer(1, 1 << 20, "bytes"),
    "32768",
    "The longest user data that a VM may be given, before and after it is merged with its template's.",
)
EXTRA_CONFIG_ENABLED = Setting(
    check.ENABLED,
    BOOLEAN,
    "false",
    "Whether VMs of the account may have extra configuration (libvirt XML).",
    PER_ACCOUNT,
)
EXTRA_CONFIG_ALLOWED: Setting[tuple[Rule, ...]] = Setting(
    check.ALLOWED,
    Kind("list", _rules, "rules such as devices/video and cpu/feature@policy=require|disable, separated by commas"),
    "",
    "The elements of libvirt's domain XML that extra configuration of the account's VMs may have; empty: none.",
    PER_ACCOUNT,
)
EXTRA_CONFIG_HOST_ACCESS = Setting(
    check.HOST_ACCESS,
    BOOLEAN,
    "false",
    "Whether extra configuration may also have elements that reach the host's files, devices, networks or programs "
    "(disks, host devices, an emulator, QEMU's command line), as far as the account's list names them.",
    PER_ACCOUNT,
)

SETTINGS = (
    STOP_TIMEOUT,
    CONSOLE_IDLE_TIMEOUT,
    MAX_SNAPSHOTS,
    USERDATA_MAX_LENGTH,
    EXTRA_CONFIG_ENABLED,
    EXTRA_CONFIG_ALLOWED,
    EXTRA_CONFIG_HOST_ACCESS,
)
