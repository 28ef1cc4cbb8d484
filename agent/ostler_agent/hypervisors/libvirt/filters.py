"""Keeps the filters of spoofed frames defined in libvirt."""

from __future__ import annotations

import shutil
from collections.abc import Iterable

import libvirt
from ostler_common.errors import FailedPreconditionError

from ostler_agent.hypervisors.libvirt.errors import translated
from ostler_agent.hypervisors.libvirt.xml import nwfilters
from ostler_agent.spec import NicSpec

PROBE = "nic-filter"
# What libvirt calls to install them.
_PROGRAMS = ("ebtables", "iptables", "ip6tables")


def define_all(connection: libvirt.virConnect) -> None:
    """Defines every filter, or replaces it. Raises libvirtError."""
    for _, xml in nwfilters.definitions():
        connection.nwfilterDefineXML(xml)


def ensure(connection: libvirt.virConnect, nics: Iterable[NicSpec]) -> None:
    """Defines the filters when interfaces need them and one is missing."""
    if not any(nic.filter for nic in nics):
        return
    with translated("defining the filters of network interfaces"):
        known = {found.name() for found in connection.listAllNWFilters()}
        if not {name for name, _ in nwfilters.definitions()} <= known:
            define_all(connection)


def probe(connection: libvirt.virConnect) -> str:
    """Defines every filter, and looks for what libvirt needs to install them.

    Raises FailedPreconditionError NIC_FILTER_MISSING.
    """
    missing = [program for program in _PROGRAMS if shutil.which(program) is None]
    if missing:
        raise FailedPreconditionError(
            f"{' and '.join(missing)} not found (on Debian and Ubuntu: apt-get install ebtables iptables)",
            "NIC_FILTER_MISSING",
        )
    try:
        define_all(connection)
    except libvirt.libvirtError as error:
        raise FailedPreconditionError(
            f"libvirt defines no filters: {error.get_error_message()} (install its nwfilter driver)",
            "NIC_FILTER_MISSING",
        ) from error
    return "ebtables"
